"""Where certificates and keys are kept over a restart: an interface, since the agent has one private state directory for everything."""

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct


class StoredIdentity(Struct, frozen=True):
    """`identity` is the SPIFFE id; the texts are PEM."""

    identity: str
    chain_pem: str
    key_pem: str

    def __repr__(self) -> str:
        return f"StoredIdentity({self.identity}, key withheld)"


class IdentityStore(Protocol):
    """Blocks; called from one thread at a time. What was saved is durable and private (0600) when the call returns; raises OSError."""

    def load(self) -> Iterable[StoredIdentity]:
        """All that was saved and is whole."""

    def save(self, record: StoredIdentity) -> None:
        """Keeps a record in place of an earlier one of its identity."""

    def forget(self, identity: str) -> None:
        """Removes a record, if there is one."""
