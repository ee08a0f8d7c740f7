"""The WorkloadEntry of a machine: pure functions from its group and what it says, in the form that Istio's auto-registration gives it."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any, Final

import msgspec

from control.kinds import ObjectKey, WorkloadEntry, WorkloadGroup
from control.kinds.networking import EntryWorkload
from control.model import vm
from control.validation import values
from control.validation.document import Manifest
from control.vm.machines import Connected
from meshapi.attendance import Health, Member
from meshapi.wire import ANNOTATION_REDIRECTION
from meshapi.workload import IPAddress

MAX_NAME: Final = 253
_IN_CHARGE: Final = frozenset({vm.CONTROLLER, vm.CONNECTED_AT, vm.DISCONNECTED_AT, vm.SEEN_AT})


class RegistrationError(ValueError):
    """Why a machine gets no entry, in words for its owner."""


def address_of(member: Member, source: str, group: WorkloadGroup) -> IPAddress:
    """Where the machine is reached: from where it connects, unless its group lets it choose; raises RegistrationError."""
    return _checked(member.address or source, source, group)


def other_address_of(member: Member, source: str, group: WorkloadGroup) -> IPAddress | None:
    """Where it is reached by the other IP version, if it is; raises RegistrationError."""
    if not member.other_address:
        return None
    found = _checked(member.other_address, source, group)
    if found.version == address_of(member, source, group).version:
        raise RegistrationError(f"the machine's second address, {found}, must be of the other IP version")
    return found


def _checked(text: str, source: str, group: WorkloadGroup) -> IPAddress:
    try:
        found = values.serving_address(text)
    except ValueError as error:
        raise RegistrationError(f"{error}: set `address` in the machine's configuration, and let its group allow it") from error
    if text != source and not _allowed(found, group):
        raise RegistrationError(
            f"the machine connects from {source} and says that it is {found}, which its group does not allow in {vm.ALLOWED_ADDRESSES}"
        )
    return found


def _allowed(address: IPAddress, group: WorkloadGroup) -> bool:
    # Blocks that can't be read have kept the group from being taken.
    return any(ip_address(str(address)) in ip_network(block, strict=False) for block in vm.allowed_addresses(group))


def entry_name(group: WorkloadGroup, address: IPAddress) -> str:
    """As Istio names it: shortened from the front, where it is too long."""
    parts = [group.metadata.name, str(address).replace(":", "-")]
    if group.spec.template.network:
        parts.append(group.spec.template.network)
    return "-".join(parts)[-MAX_NAME:].lstrip("-.")


def entry_for(connected: Connected, member: Member, group: WorkloadGroup, version: str) -> Manifest:
    """What the machine's entry says, without who is in charge of it; `version` is the one that its group was read in.

    Raises RegistrationError.
    """
    address = address_of(member, connected.source, group)
    labels = {**group.spec.template.labels, **group.spec.metadata.labels}
    annotations = {key: value for key, value in group.spec.metadata.annotations.items() if key not in vm.OWN}
    annotations |= {vm.GROUP: group.metadata.name, vm.NODE: connected.machine.node, ANNOTATION_REDIRECTION: "enabled"}
    if group.spec.probe is not None:
        annotations[vm.HEALTH_CHECKED] = "true"
    if member.shares_address:
        annotations[vm.SHARES_ADDRESS] = "true"
    if (other := other_address_of(member, connected.source, group)) is not None:
        annotations[vm.OTHER_ADDRESS] = str(other)
    metadata: dict[str, Any] = {"labels": labels, "annotations": annotations}
    if group.metadata.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": version,
                "kind": "WorkloadGroup",
                "name": group.metadata.name,
                "uid": group.metadata.uid,
                "controller": True,
            }
        ]
    return {"apiVersion": version, "metadata": metadata, "spec": _spec(group.spec.template, labels, str(address), group.service_account)}


def _spec(template: EntryWorkload, labels: dict[str, str], address: str, service_account: str) -> dict[str, Any]:
    spec = msgspec.structs.replace(template, address=address, labels=labels, service_account=service_account)
    return {key: value for key, value in msgspec.to_builtins(spec).items() if value}


def merged(wanted: Manifest, present: Manifest | None, key: ObjectKey, now_s: float) -> Manifest:
    """The whole object, of the version that is there; what else stands in the labels and annotations of that goes."""
    before: Manifest = present or {"kind": str(key.kind), "metadata": {"creationTimestamp": timestamp(now_s)}}
    metadata = {**before["metadata"], "namespace": key.namespace, "name": key.name, **wanted["metadata"]}
    return {"apiVersion": wanted["apiVersion"], **before, "metadata": metadata, "spec": wanted["spec"]}


def in_charge(manifest: Manifest, annotations: dict[str, str]) -> Manifest:
    """A copy with other annotations about who is in charge; those that are not given are taken off."""
    kept = manifest["metadata"].get("annotations") or {}
    others = {key: value for key, value in kept.items() if key not in _IN_CHARGE}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": others | annotations}}


def says(manifest: Manifest) -> tuple[Any, ...]:
    """What is compared to tell whether an entry is as it should be."""
    metadata = manifest.get("metadata") or {}
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(vm.SEEN_AT, None)
    return manifest.get("spec"), metadata.get("labels") or {}, annotations, metadata.get("ownerReferences") or []


def with_health(entry: WorkloadEntry, manifest: Manifest, member: Member, now_s: float) -> Manifest | None:
    """The object with the condition that says how the machine is; None if it stands there, or nothing is known."""
    if member.health is Health.UNKNOWN or vm.HEALTH_CHECKED not in entry.metadata.annotations:
        return None
    status, message = ("True", "") if member.health is Health.HEALTHY else ("False", member.message)
    before_all = manifest.get("status")
    before_all = before_all if isinstance(before_all, dict) else {}
    stated = before_all.get("conditions")
    conditions = [one for one in stated if isinstance(one, dict)] if isinstance(stated, list) else []
    before = next((one for one in conditions if one.get("type") == vm.HEALTHY), None)
    if before is not None and (before.get("status"), before.get("message", "")) == (status, message):
        return None
    changed = before is None or before.get("status") != status
    now = timestamp(now_s)
    condition: dict[str, Any] = {"type": vm.HEALTHY, "status": status, "lastProbeTime": now}
    condition["lastTransitionTime"] = now if changed or before is None else before.get("lastTransitionTime", now)
    if message:
        condition["message"] = message
    others = [one for one in conditions if one.get("type") != vm.HEALTHY]
    return {**manifest, "status": {**before_all, "conditions": [*others, condition]}}


def timestamp(at_s: float) -> str:
    """RFC 3339 to the second, as the API server writes it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(at_s: float) -> str:
    """RFC 3339, finer: two connections of one second are told apart."""
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds(text: str | None) -> float | None:
    """A moment in Unix seconds; None for what is none. Others write it in nanoseconds."""
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
