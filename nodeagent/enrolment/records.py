"""What was enrolled, on disk: an agent that starts anew knows what to keep, and what to take off."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import msgspec

from nodeagent.runtime.base import LocalWorkload

_NAME: Final = "enrolled"


class Store(Protocol):
    """Private files that are whole or not there (`nodeagent.state.files.StateDirectory`)."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, body: bytes) -> None: ...

    def set_aside(self, name: str, why: str) -> None: ...


class Record(msgspec.Struct, frozen=True):
    """A namespace that may hold something of ours. `leaving`: it was released, only the removal is missing."""

    workload: LocalWorkload
    leaving: bool = False


class _File(msgspec.Struct, frozen=True):
    boot: str
    records: tuple[Record, ...]


_decoder = msgspec.json.Decoder(_File)


def load(store: Store) -> tuple[Record, ...]:
    """What was enrolled since the machine booted: after that the same path and number are another namespace. Blocks."""
    body = store.read(_NAME)
    if body is None:
        return ()
    try:
        file = _decoder.decode(body)
        return file.records if file.boot == _boot_id() else ()
    except msgspec.MsgspecError as error:
        store.set_aside(_NAME, str(error))
        return ()


def save(store: Store, records: tuple[Record, ...]) -> None:
    """Blocks."""
    store.write(_NAME, msgspec.json.encode(_File(_boot_id(), records)))


def of(enrolled: Iterable[LocalWorkload], leaving: Iterable[Record], expected: Iterable[LocalWorkload]) -> tuple[Record, ...]:
    """What is to be on disk. `expected`: what a former agent enrolled, and this one may not have come to yet."""
    wanted = {workload.uid: workload for workload in expected} | {workload.uid: workload for workload in enrolled}
    found = (*(Record(workload) for workload in wanted.values()), *leaving)
    return tuple(sorted(found, key=lambda record: (record.workload.uid, record.leaving)))


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
