"""The secret discovery that Envoy speaks with the process beside it, without I/O: which secrets there are, and when to send which."""

import hashlib
from collections.abc import Callable

from msgspec import Struct

from control.envoy.messages import TYPE_PREFIX, Message, message_class, new, packed
from control.envoy.parts import ROOTS, SVID

SECRET_TYPE = f"{TYPE_PREFIX}envoy.extensions.transport_sockets.tls.v3.Secret"
_REQUEST = "envoy.service.discovery.v3.DiscoveryRequest"
_RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"


def _no_others(_name: str) -> Message | None:
    return None


class Held(Struct, frozen=True):
    """What there is to hand out, in PEM."""

    chain_pem: str
    key_pem: str
    roots_pem: bytes

    def __repr__(self) -> str:
        return "Held(...)"


def secret(held: Held, name: str) -> Message | None:
    """A Secret by its name; None for one that is not there."""
    kind = SECRET_TYPE.removeprefix(TYPE_PREFIX)
    if name == SVID:
        pair = {"certificate_chain": {"inline_string": held.chain_pem}, "private_key": {"inline_string": held.key_pem}}
        return new(kind, name=name, tls_certificate=pair)
    if name == ROOTS:
        return new(kind, name=name, validation_context={"trusted_ca": {"inline_bytes": held.roots_pem}})
    return None


class SecretStream:
    """One stream: which names were asked for, and what was sent last."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sent = ""
        self._responses = 0

    def request(self, body: bytes) -> str | None:
        """Takes a request; returns Envoy's words if it refused what was sent. Raises DecodeError."""
        message = message_class(_REQUEST).FromString(body)
        names = tuple(message.resource_names)
        if names != self._names:
            self._names, self._sent = names, ""
        return str(message.error_detail.message) if message.HasField("error_detail") else None

    @property
    def names(self) -> tuple[str, ...]:
        """What was asked for."""
        return self._names

    def response(self, held: Held | None, others: Callable[[str], Message | None] = _no_others) -> bytes | None:
        """What to send now; None if nothing is new, or nothing is there yet. `others`: secrets that are not this process' own."""
        own = {name: secret(held, name) if held is not None else None for name in self._names}
        found = [one for name in self._names if (one := own[name] or others(name)) is not None]
        if not found:
            return None
        bodies = [packed(one) for one in found]
        # Told by what it is, not by what it was made of: a key's hash is nobody's business.
        version = hashlib.blake2b(b"".join(one.value for one in bodies), digest_size=8).hexdigest()
        if version == self._sent:
            return None
        self._sent = version
        self._responses += 1
        message = new(_RESPONSE, version_info=f"{self._responses}", nonce=f"{self._responses}", type_url=SECRET_TYPE, resources=bodies)
        return bytes(message.SerializeToString())
