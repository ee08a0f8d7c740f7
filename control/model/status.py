"""What there is to say about an object: whether it was accepted, what keeps it from its effect, and what it is bound to."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.kinds import AuthorizationPolicy, Kind, MeshObject, ObjectKey, PeerAuthentication, Service, ServiceEntry, WorkloadEntry
from control.model.derivation import Derived, rivals_text
from control.model.labels import ANYWHERE
from control.model.mesh import Mesh, Record
from control.model.waypoint_findings import waypoint_notes
from control.model.waypoint_reach import behind
from control.validation.decoding import KINDS
from control.validation.document import Manifest
from control.validation.finding import Finding, Severity

_SHORT: Final = {
    "ns": Kind.NAMESPACE,
    "no": Kind.NODE,
    "sa": Kind.SERVICE_ACCOUNT,
    "po": Kind.POD,
    "svc": Kind.SERVICE,
    "pa": Kind.PEER_AUTHENTICATION,
    "ap": Kind.AUTHORIZATION_POLICY,
    "ra": Kind.REQUEST_AUTHENTICATION,
    "rl": Kind.RATE_LIMIT,
    "cm": Kind.MESH_CONFIG,
    "se": Kind.SERVICE_ENTRY,
    "we": Kind.WORKLOAD_ENTRY,
    "wg": Kind.WORKLOAD_GROUP,
    "vs": Kind.VIRTUAL_SERVICE,
    "dr": Kind.DESTINATION_RULE,
    "ef": Kind.ENVOY_FILTER,
    "gtw": Kind.GATEWAY,
    "gc": Kind.GATEWAY_CLASS,
    "gw": Kind.ISTIO_GATEWAY,
    "refgrant": Kind.REFERENCE_GRANT,
}


class Condition(Struct, frozen=True):
    """One statement, in the manner of Kubernetes' conditions."""

    type: str
    status: str
    reason: str
    message: str


class Description(Struct, frozen=True):
    """An object as `meshctl get` shows it: `summary` is a line; `bound` is how many workloads it concerns (see `bound`)."""

    kind: str
    namespace: str
    name: str
    source: str
    accepted: bool
    bound: int | None
    summary: str
    conditions: tuple[Condition, ...]
    manifest: Manifest


class Listing(Struct, frozen=True):
    """The objects asked for, and what is wrong in files beside them."""

    objects: tuple[Description, ...]
    files: tuple[str, ...]


def objects(mesh: Mesh, kind: str, namespace: str, name: str) -> Listing:
    """The objects of a kind, by its name in any form (`pod`, `pods`, `po`); empty strings do not restrict.

    Raises LookupError for a kind that does not exist, and for a name that nothing has.
    """
    wanted = parse_kind(kind) if kind else None
    found = tuple(
        _describe(mesh, key, mesh.records[key])
        for key in sorted(mesh.records)
        if wanted in {None, key.kind} and namespace in {"", key.namespace} and name in {"", key.name}
    )
    if name and not found:
        raise LookupError(f"there is no {kind} {namespace}/{name}" if namespace else f"there is no {kind} {name}")
    return Listing(found, tuple(str(finding) for findings in mesh.file_findings.values() for finding in findings))


def parse_kind(text: str) -> Kind:
    """A kind from what people write; raises LookupError."""
    forms = {form: kind for kind in Kind for form in (kind.lower(), _plural(kind.lower()))} | _SHORT
    kind = forms.get(text.lower())
    if kind is None:
        raise LookupError(f"there is no kind {text[:80]!r}: one of {', '.join(Kind)}")
    return kind


def _plural(word: str) -> str:
    name, dot, group = word.partition(".")
    many = f"{name[:-1]}ies" if name.endswith("y") else f"{name}es" if name.endswith("s") else f"{name}s"
    return f"{many}{dot}{group}"


def describe(mesh: Mesh, kind: Kind, namespace: str, name: str) -> Description | None:
    """One object, None if it is not there."""
    key = ObjectKey(kind, namespace, name)
    record = mesh.records.get(key)
    return _describe(mesh, key, record) if record is not None else None


def findings_in_mesh(mesh: Mesh, key: ObjectKey) -> Iterator[Finding]:
    """What only shows beside all other objects: claims that were lost, and limits of what can be enforced."""
    record = mesh.records[key]
    derived = mesh.derived.get(key, Derived())
    for claim, winner in dict(mesh.lost(key, derived.all_claims)).items():
        yield Finding(record.origin, Severity.ERROR, rivals_text(claim, winner, key.namespace), "it is not served", str(key))
    for refused in derived.refused:
        yield Finding(record.origin, Severity.ERROR, refused, "it is not served", str(key))
    for note in derived.notes:
        yield Finding(record.origin, Severity.WARNING, note, "", str(key))
    for note in waypoint_notes(record.object, mesh.store, mesh.settings) if record.object is not None else ():
        yield Finding(record.origin, Severity.WARNING, note, "", str(key))
    for words in dict.fromkeys((*mesh.in_vain.get(key, ()), *mesh.told_elsewhere.in_vain.get(key, ()))):
        yield Finding(record.origin, Severity.WARNING, words, "", str(key))
    for words in dict.fromkeys((*mesh.refused.get(key, ()), *mesh.told_elsewhere.refused.get(key, ()))):
        yield Finding(record.origin, Severity.WARNING, words, "what was in force before stays", str(key))
    if (older := mesh.store.policies.older_than(key)) is not None:
        yield Finding(record.origin, Severity.WARNING, f"has no effect: {older} is older and holds for the same workloads", "", str(key))


def bound(mesh: Mesh, item: MeshObject) -> int | None:
    """How many workload objects a policy or a service concerns; of a WorkloadEntry, of how many services it is.

    None if that means nothing.
    """
    namespace = item.metadata.namespace
    match item:
        case AuthorizationPolicy() if item.for_waypoint:
            return len({one for target in mesh.store.waypoints.protected_by(item.key) for one in behind(mesh.store, target)})
        case AuthorizationPolicy():
            return len(mesh.store.selected(mesh.store.policies.authorization_scope(item.key), item.selector))
        case PeerAuthentication():
            everywhere = namespace == mesh.settings.root_namespace and not item.selector
            return len(mesh.store.selected(ANYWHERE if everywhere else namespace, item.selector))
        case ServiceEntry() if not item.spec.endpoints and item.spec.workload_selector is None:
            # Where its hosts are is known to their callers alone.
            return None
        case Service() | ServiceEntry():
            candidates = mesh.derived.get(item.key, Derived()).candidates
            served = next((one for one in candidates if not mesh.lost(item.key, one.claims)), None)
            return len(mesh.members(served.type_url, served.name)) if served is not None else 0
        case WorkloadEntry():
            return sum(len(one.services) for one in mesh.derived.get(item.key, Derived()).candidates)
    return None


def _describe(mesh: Mesh, key: ObjectKey, record: Record) -> Description:
    findings = [*record.findings, *findings_in_mesh(mesh, key)]
    accepted = not record.rejected and not any(finding.severity is Severity.ERROR for finding in findings)
    count = bound(mesh, record.object) if record.object is not None else None
    conditions = tuple(_conditions(record, findings, count, accepted=accepted))
    return Description(
        kind=str(key.kind),
        namespace=key.namespace,
        name=key.name,
        source=str(record.origin),
        accepted=accepted,
        bound=count,
        summary=_summary(findings),
        conditions=conditions,
        manifest=_with_status(_manifest(record), conditions),
    )


def _summary(findings: list[Finding]) -> str:
    """The first error, or else the first warning, and how many more there are."""
    if not findings:
        return ""
    first = min(findings, key=lambda finding: (finding.severity is not Severity.ERROR, finding))
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    where = f"line {first.origin.line}: " if first.origin.line else ""
    return f"{where}{first.what}{more}"


def _conditions(record: Record, findings: list[Finding], count: int | None, *, accepted: bool) -> Iterator[Condition]:
    errors, warnings = ([_told(one) for one in sorted(findings) if one.severity is kind] for kind in (Severity.ERROR, Severity.WARNING))
    if accepted:
        yield Condition("Accepted", "True", "Accepted", f"as in {record.origin}")
    else:
        yield Condition("Accepted", "False", "Invalid" if record.rejected else "Conflict", "; ".join([*errors, *_instead(record)]))
    if warnings:
        yield Condition("Warnings", "True", "Limited", "; ".join(warnings))
    if count is not None:
        what = "services" if isinstance(record.object, WorkloadEntry) else "workloads"
        yield Condition("Bound", "True" if count else "False", what.capitalize(), f"{count} {what}")


def _told(finding: Finding) -> str:
    where = f"{finding.origin}: " if finding.origin.line else ""
    return f"{where}{finding.what} ({finding.hint})" if finding.hint else f"{where}{finding.what}"


def _instead(record: Record) -> list[str]:
    if not record.rejected:
        return []
    if record.closed:
        return ["until it is corrected, a policy that denies stands in for it"]
    return ["its last good form stays in force"] if record.object is not None else ["it is not used"]


def _manifest(record: Record) -> Manifest:
    """What was written; or, where that was not kept, what was read of it."""
    if record.manifest or record.object is None:
        return record.manifest
    known = next(version for version, kind in KINDS if KINDS[version, kind] is type(record.object))
    read: Manifest = msgspec.to_builtins(record.object)
    return {"apiVersion": known, "kind": record.object.kind_of.api_name, **read}


def _with_status(manifest: Manifest, conditions: tuple[Condition, ...]) -> Manifest:
    status = manifest.get("status")
    status = dict(status) if isinstance(status, dict) else {}
    own: list[Any] = [{"type": one.type, "status": one.status, "reason": one.reason, "message": one.message} for one in conditions]
    stated = status.get("conditions")
    status["conditions"] = [*(stated if isinstance(stated, list) else []), *own]
    return {**manifest, "status": status}
