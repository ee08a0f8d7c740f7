"""A small list of records kept in one private JSON file, rewritten as a whole at each change."""

from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from control.ca.private_files import write_private

R = TypeVar("R", bound=msgspec.Struct)


class RecordsError(Exception):
    """A file of records that can't be read. The controller does not start on it: to forget a revocation would be to undo it."""


class RecordFile(Generic[R]):
    """The records of one type in one file; a missing file holds none."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(tuple[kind, ...])  # type: ignore[valid-type]

    def load(self) -> tuple[R, ...]:
        """Raises RecordsError if the file is damaged."""
        try:
            return self._decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError) as error:
            raise RecordsError(f"{self._path}: {error}; restore it from a backup, or remove it to start without its records") from error

    def store(self, records: tuple[R, ...]) -> None:
        """Returns when the records are on disk."""
        write_private(self._path, msgspec.json.format(msgspec.json.encode(records)))
