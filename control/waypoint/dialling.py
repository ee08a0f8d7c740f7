"""Channels to the controller: which of its addresses, proved by what, and when to try again."""

import random
from dataclasses import dataclass, field

from control.rpc import aio, grpc
from control.waypoint.certificate import SVID
from control.waypoint.settings import Controllers

FIRST_S = 0.05
LAST_S = 15.0
_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    # Channels of one process share connections otherwise, and with them the certificate of the first.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True)
class Proof:
    """Roots that the controller's certificate must chain to, and what this side shows: a token, or its certificate."""

    roots_pem: bytes
    svid: SVID | None = None
    token: str | None = field(default=None, repr=False)


class Dialler:
    """Takes the controller's addresses in turn, the next one after a failure."""

    def __init__(self, controllers: Controllers) -> None:
        self._controllers = controllers
        self._at = 0

    def failed(self) -> None:
        """The address of now does not do."""
        self._at = (self._at + 1) % len(self._controllers.hosts)

    def channel(self, proof: Proof) -> aio.Channel:
        """A channel of its own: it is its owner's to close."""
        if not proof.roots_pem:
            raise ValueError("there is no root that the controller's certificate could chain to")
        host = self._controllers.hosts[self._at]
        port = self._controllers.token_port if proof.svid is None else self._controllers.agent_port
        key, chain = (proof.svid.key_pem.encode(), proof.svid.chain_pem.encode()) if proof.svid is not None else (None, None)
        name = self._controllers.server_name
        options = (*_OPTIONS, *([("grpc.ssl_target_name_override", name)] if name else []))
        return aio.secure_channel(f"{host}:{port}", grpc.ssl_channel_credentials(proof.roots_pem, key, chain), options=options)

    def metadata(self, proof: Proof) -> tuple[tuple[str, str], ...]:
        """The headers of every call."""
        bearer = (("authorization", f"Bearer {proof.token}"),) if proof.token is not None else ()
        return (*bearer, ("clusterid", self._controllers.cluster))


class Backoff:
    """Doubled from try to try, each shortened by up to half."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def reset(self) -> None:
        self._next_s = FIRST_S

    def next_s(self) -> float:
        delay_s = self._next_s
        self._next_s = min(delay_s * 2, LAST_S)
        return delay_s * (1 - random.random() / 2)  # noqa: S311 -- spreads load, keeps no secret
