"""Entries of machines in the controller's own directory, as a second layer beside the user's files, which are never written."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from control.ca.records import RecordFile
from control.kinds import Kind, ObjectKey
from control.source import Change, Source, Upsert
from control.source.layers import Layers
from control.validation.document import Manifest, read_object
from control.vm.plan import Delete, Put, PutStatus
from control.vm.registrar import VERSION, EntryError

PLACE: Final = "registered"
log = logging.getLogger(__name__)


class _Kept(Struct, frozen=True):
    namespace: str
    name: str
    manifest: Manifest

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(Kind.WORKLOAD_ENTRY, self.namespace, self.name)


class KeptEntries:
    """Implements Entries, and is the source of both layers; one use of `changes` at a time."""

    def __init__(self, files: Source, path: Path, root_namespace: str) -> None:
        """Raises RecordsError if what was kept can't be read."""
        self._files = files
        self._root_namespace = root_namespace
        self._store = RecordFile(path, _Kept)
        self._kept = {record.key: record for record in self._store.load()}
        self._dirty = False
        self._layers = Layers()
        self._changes: asyncio.Queue[tuple[Change, ...] | None] = asyncio.Queue()
        """None: the files' source has ended."""

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """What was kept comes first: when the files' first batch says that all is there, it is."""
        for record in self._kept.values():
            if (understood := self._understood(record)) is not None:
                self._changes.put_nowait(self._layers.put(understood))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_files(), name="follow files")
            while (batch := await self._changes.get()) is not None:
                if batch:
                    yield batch

    async def put(self, step: Put) -> None:
        """Raises EntryError."""
        self._write(step.key, step.manifest)

    async def put_status(self, step: PutStatus) -> None:
        """Raises EntryError."""
        self._write(step.key, step.manifest)

    async def delete(self, step: Delete) -> None:
        """See `Entries`."""
        self._dirty = self._kept.pop(step.key, None) is not None or self._dirty
        self._changes.put_nowait(self._layers.remove(step.key))

    async def keep(self) -> None:
        """On disk, if anything has changed; raises EntryError."""
        if not self._dirty:
            return
        self._dirty = False
        try:
            await asyncio.to_thread(self._store.store, tuple(self._kept.values()))
        except OSError as error:
            self._dirty = True
            raise EntryError(str(error)) from error

    def _write(self, key: ObjectKey, manifest: Manifest) -> None:
        if self._layers.defines(key):
            raise EntryError("a file defines it")
        record = _Kept(key.namespace, key.name, manifest)
        understood = self._understood(record)
        if understood is None:
            raise EntryError("its group asks for what an entry can't be")
        self._kept[key] = record
        self._dirty = True
        self._changes.put_nowait(self._layers.put(understood))

    def _understood(self, record: _Kept) -> Upsert | None:
        document = read_object(msgspec.json.encode(record.manifest), record.key, VERSION, PLACE, self._root_namespace)
        if document.object is None:
            log.error("%s: %s", record.key, "; ".join(finding.what for finding in document.findings))
            return None
        return Upsert(document.object, document.origin, record.manifest, document.findings)

    async def _follow_files(self) -> None:
        async for changes in self._files.changes():
            self._changes.put_nowait(self._layers.first(changes))
        self._changes.put_nowait(None)
