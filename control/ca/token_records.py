"""What is kept of join tokens, and where: every change is made to the newest records, so that of two uses at once only one is the first."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from control.ca.records import RecordFile


class TokenRecord(Struct, frozen=True):
    """Only the hash of the secret; times in Unix seconds. It is for a node, or for an Envoy of a Gateway (`namespace/name`)."""

    id: str
    node: str
    secret_sha256: str
    created_s: int
    expires_s: int
    used_s: int | None = None
    gateway: str = ""

    @property
    def holder(self) -> str:
        return f"gateway {self.gateway}" if self.gateway else f"node {self.node}"


Records = Mapping[str, TokenRecord]
"""By id."""
Change = Callable[[Records], Records]


class TokenStore(Protocol):
    """Where the records are."""

    @property
    def limit(self) -> int:
        """How many it has room for."""

    @property
    def records(self) -> Records:
        """As they are known here: not older than a moment."""

    async def change(self, change: Change) -> None:
        """Returns when what `change` makes of the newest records is kept; it may be asked more than once, and what it raises is raised.

        Raises UnavailableError where they can't be kept now.
        """


class TokenFile:
    """Implements TokenStore: a file of this controller alone."""

    limit: Final = 10_000

    def __init__(self, path: Path) -> None:
        """Raises RecordsError for a file that is damaged."""
        self._file = RecordFile(path, TokenRecord)
        self.records: Records = {record.id: record for record in self._file.load()}

    async def change(self, change: Change) -> None:
        """See `TokenStore`. Nothing else runs in the event loop meanwhile."""
        wanted = change(self.records)
        self._file.store(tuple(wanted.values()))
        self.records = wanted
