"""What a machine keeps about the mesh that it has joined: where the controller is and what the machine is called, but no token.

What the controller has assigned to it is kept beside it.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import msgspec
from msgspec import Struct

from meshapi.attendance import Assigned, decode_assignment, encode_assignment
from meshapi.bundle import Bundle, ControllerPlace
from meshapi.decoding import ModelError
from meshapi.vm import VMName, parse_vm
from nodeagent.state.files import StateDirectory

MEMBERSHIP: Final = "membership"
ASSIGNED: Final = "assigned"
ROOTS: Final = "root.pem"
JOIN_HINT: Final = "`meshctl vm create` makes a bundle, and `nodeagent join` joins with it"
_encoder = msgspec.msgpack.Encoder()


class NotJoinedError(ValueError):
    """There is no membership here; the text says what to do."""


class Membership(Struct, frozen=True):
    """See `Bundle`, of which this is what stays."""

    node: str
    controller: ControllerPlace
    roots_pem: str
    trust_domain: str
    cluster: str
    root_namespace: str
    accounts: dict[str, str] = {}

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        return cls(**{name: getattr(bundle, name) for name in cls.__struct_fields__})

    @property
    def machine(self) -> VMName:
        """Raises NotJoinedError for a name that is no machine's."""
        machine = parse_vm(self.node)
        if machine is None:
            raise NotJoinedError(f"{self.node[:80]!r} is no machine's name: leave, and join anew")
        return machine


def load(state_dir: Path) -> Membership:
    """Raises NotJoinedError."""
    try:
        body = StateDirectory(state_dir).read(MEMBERSHIP)
    except OSError as error:
        raise NotJoinedError(f"{state_dir / MEMBERSHIP}: {error.strerror}") from error
    if body is None:
        raise NotJoinedError(f"this machine has joined no mesh ({state_dir} has no membership): {JOIN_HINT}")
    try:
        found = msgspec.msgpack.decode(body, type=Membership)
    except msgspec.MsgspecError as error:
        raise NotJoinedError(f"{state_dir / MEMBERSHIP} does not decode: {error}; leave, and join anew") from error
    _ = found.machine
    return found


def save(directory: StateDirectory, membership: Membership) -> None:
    """Durable and private when it returns; raises OSError."""
    roots = directory.path / ROOTS
    descriptor = os.open(roots, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(membership.roots_pem)
    # Last: with it, the machine has joined.
    directory.write(MEMBERSHIP, _encoder.encode(membership))


def load_assigned(directory: StateDirectory) -> tuple[Assigned, ...]:
    """What the controller said last; nothing if it has not, or can't be understood."""
    try:
        body = directory.read(ASSIGNED)
        return () if body is None else decode_assignment(body)
    except (OSError, ModelError):
        return ()


def save_assigned(directory: StateDirectory, assigned: Iterable[Assigned]) -> None:
    """Raises OSError."""
    directory.write(ASSIGNED, encode_assignment(assigned))
