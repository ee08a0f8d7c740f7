"""All analyses of a mesh."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from control.analysis import conflicts, extensions, gateways, limits, matching, references, unreachable
from control.analysis.message import Level, Message
from control.envoy.world import World
from control.kinds import ObjectKey
from control.model.mesh import Mesh
from control.model.status import findings_in_mesh
from control.validation.finding import Finding, Origin, Severity

_OF_MESHES: Final[tuple[Callable[[Mesh], Iterator[Message]], ...]] = (
    matching.unmatched,
    matching.unnamed_ports,
    matching.unread_annotations,
)
_OF_WORLDS: Final[tuple[Callable[[World], Iterator[Message]], ...]] = (
    references.missing_hosts,
    conflicts.conflicting_hosts,
    conflicts.conflicting_rules,
    limits.uncounted,
    extensions.unheld,
    extensions.by_chance,
    unreachable.unreachable,
    gateways.unserved,
    gateways.conflicts,
    gateways.bindings,
    gateways.routes,
    matching.unmatched_tokens,
)
_SORTS: Final = (
    ("no waypoint enforces it", ("NM0004", Level.ERROR)),
    ("is not reached through a waypoint", ("NM0003", Level.WARNING)),
    ("they pass wherever only it may", ("NM0008", Level.WARNING)),
    ("does not exist", ("IST0101", Level.ERROR)),
    ("is never reached", ("IST0130", Level.WARNING)),
    ("is a former form of", ("NM0006", Level.INFO)),
)
"""Of warnings, by words that tell them."""


class Suppressed(msgspec.Struct, frozen=True):
    """Messages that nobody wants to see: of a code, of one object (`Kind namespace/name`, `*` for any) or all."""

    code: str
    object: str = "*"

    def has(self, message: Message) -> bool:
        return self.code == message.code and self.object in {"*", str(message.object)}


def analyze(mesh: Mesh, suppressed: Iterable[Suppressed] = ()) -> list[Message]:
    """Everything there is to say of a mesh, the worst first."""
    world = World(mesh)
    found = [_of_finding(finding) for findings in mesh.file_findings.values() for finding in findings]
    for key, record in mesh.records.items():
        found += [_of_finding(finding, key) for finding in record.findings]
        found += [_of_finding(finding, key) for finding in findings_in_mesh(mesh, key)]
    for analyzer in _OF_MESHES:
        found += [_placed(mesh, message) for message in analyzer(mesh)]
    for of_world in _OF_WORLDS:
        found += [_placed(mesh, message) for message in of_world(world)]
    hidden = tuple(suppressed)
    return sorted({one for one in found if not any(hide.has(one) for hide in hidden)}, key=lambda one: one.rank)


def _of_finding(finding: Finding, key: ObjectKey | None = None) -> Message:
    """What each object's own checks and the model have to say, sorted into codes by what it is about."""
    if finding.severity is Severity.ERROR:
        code, level = "IST0106", Level.ERROR
    else:
        code, level = next((sort for words, sort in _SORTS if words in finding.what), ("NM0001", Level.WARNING))
    return Message(code, level, key, finding.origin, finding.what, finding.hint)


def _placed(mesh: Mesh, message: Message) -> Message:
    """With where its object is written."""
    record = mesh.records.get(message.object) if message.object is not None else None
    return msgspec.structs.replace(message, origin=record.origin if record is not None else Origin("", 0, 0))
