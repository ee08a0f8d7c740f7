"""Where configuration comes from: a source delivers typed changes, and the model does not know which source it was."""

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from control.kinds import MeshObject, ObjectKey
from control.validation.document import Manifest
from control.validation.finding import Finding, Origin


class Upsert(Struct, frozen=True):
    """An object is there, new or changed; `findings` are warnings, or errors about rivals that lost to it."""

    object: MeshObject
    origin: Origin
    manifest: Manifest
    findings: tuple[Finding, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return self.object.key


class Reject(Struct, frozen=True):
    """An object can't be understood: what it was before stays in force, or else `closed`, a policy that denies in its place."""

    key: ObjectKey
    origin: Origin
    findings: tuple[Finding, ...]
    manifest: Manifest = {}
    closed: MeshObject | None = None


class Remove(Struct, frozen=True):
    """An object is gone."""

    key: ObjectKey


class FileFindings(Struct, frozen=True):
    """What is wrong in a file beside what is said about its objects; without findings it is cured."""

    file: str
    findings: tuple[Finding, ...] = ()


class Synced(Struct, frozen=True):
    """All that was there at the start has been delivered."""


Change = Upsert | Reject | Remove | FileFindings | Synced


class Source(Protocol):
    """A source of configuration."""

    def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """First everything, then what changes, in batches to be applied at once; ends when it is closed."""
