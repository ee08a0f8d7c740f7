"""Certificates and keys on the node: one private file an identity. Implements `identity.store.IdentityStore`."""

import hashlib
from collections.abc import Iterator
from typing import Final

import msgspec

from nodeagent.identity.store import StoredIdentity
from nodeagent.state.files import StateDirectory

PREFIX: Final = "identity-"

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[StoredIdentity] = msgspec.msgpack.Decoder(StoredIdentity)


class IdentityFiles:
    """See `IdentityStore`. The files' names tell nothing and can't be chosen: an identity is hashed."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory

    def load(self) -> Iterator[StoredIdentity]:
        """All that was saved and is whole; what is not is set aside."""
        for name in self._directory.names(PREFIX):
            record = self._read(name)
            if record is not None:
                yield record

    def save(self, record: StoredIdentity) -> None:
        """Keeps a record in place of an earlier one of its identity."""
        self._directory.write(_file(record.identity), _encoder.encode(record))

    def forget(self, identity: str) -> None:
        """Removes a record, if there is one."""
        self._directory.delete(_file(identity))

    def _read(self, name: str) -> StoredIdentity | None:
        body = self._directory.read(name)
        if body is None:
            return None
        try:
            record = _decoder.decode(body)
        except msgspec.MsgspecError as error:
            self._directory.set_aside(name, f"it does not decode: {error}")
            return None
        if _file(record.identity) != name:
            self._directory.set_aside(name, "it holds another identity than its name says")
            return None
        return record


def _file(identity: str) -> str:
    return PREFIX + hashlib.sha256(identity.encode()).hexdigest()[:40]
