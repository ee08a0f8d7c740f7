"""gRPC channels to the controller: the one module of the agent that knows gRPC's credentials and options."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio

MAX_RESPONSE_BYTES: Final = 64 << 20

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    # Else a new channel waits in the back-off of the old one's connection.
    ("grpc.use_local_subchannel_pool", 1),
    # Bounds a TCP and TLS handshake; gRPC uses the one option for both purposes.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # The node's proxy variables are for other traffic.
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The chain (PEM) that the caller shows, and its key."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dial:
    """How to reach the controller once: `target` is `host:port`, `roots_pem` what its certificate must chain to.

    The caller proves itself by `token` or by `certificate`. `server_name` replaces the host of `target` in the check of the server's name.
    """

    target: str
    roots_pem: bytes
    cluster: str
    token: str | None = field(default=None, repr=False)
    certificate: ClientCertificate | None = None
    server_name: str | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of every call."""
        bearer = () if self.token is None else (("authorization", f"Bearer {self.token}"),)
        return (*bearer, ("clusterid", self.cluster))


def open_channel(dial: Dial) -> grpc.aio.Channel:
    """Returns a channel; it connects with its first call. Raises ValueError without roots: there is no way to ask for less than TLS."""
    if not dial.roots_pem:
        # gRPC would take the system's roots for none: every public authority could then name a controller.
        raise ValueError("there is no root that the controller's certificate could chain to")
    key = chain = None
    if dial.certificate is not None:
        key, chain = dial.certificate.key_pem, dial.certificate.chain_pem
    credentials = grpc.ssl_channel_credentials(dial.roots_pem, key, chain)
    options = list(_OPTIONS)
    named = [] if dial.server_name is None else [("grpc.ssl_target_name_override", dial.server_name)]
    return grpc.aio.secure_channel(dial.target, credentials, options=[*options, *named])


def is_cancelled() -> bool:
    """Whether a CancelledError is meant for this task: gRPC raises it also for a call that it cancelled itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
