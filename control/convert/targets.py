"""Whom a policy is for: older ones named services, today's select workloads by labels, or name a service for its waypoint to guard."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

Manifest = dict[str, Any]
SECURITY: Final = "security.istio.io/v1"


class ConversionError(ValueError):
    """What has no new form: the text says why, and what to do."""


class KnownService(Struct, frozen=True):
    """A Service among the documents: what it selects, and the target port of each of its ports by number and by name."""

    namespace: str
    name: str
    selector: dict[str, str]
    targets: dict[str, int]


Services = Mapping[tuple[str, str], KnownService]


def known_services(documents: Iterable[Manifest]) -> dict[tuple[str, str], KnownService]:
    """The services of `documents` by namespace and name; what is malformed is passed over."""
    found = {}
    for document in documents:
        if document.get("apiVersion") != "v1" or document.get("kind") != "Service":
            continue
        namespace, name = name_of(document)
        spec = document.get("spec") or {}
        ports = [port for port in spec.get("ports") or () if isinstance(port, dict) and isinstance(port.get("port"), int)]
        targets: dict[str, int] = {}
        for port in ports:
            target = port.get("targetPort", port["port"])
            if isinstance(target, int):
                targets |= {str(port["port"]): target, str(port.get("name", "")): target}
        found[(namespace, name)] = KnownService(namespace, name, dict(spec.get("selector") or {}), targets)
    return found


def name_of(document: Manifest) -> tuple[str, str]:
    """Namespace and name of a manifest; raises ConversionError if it has none."""
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        raise ConversionError("metadata.name is missing")
    namespace = metadata.get("namespace") or "default"
    if not isinstance(namespace, str):
        raise ConversionError("metadata.namespace is no text")
    return namespace, name


def selector_of(services: Services, namespace: str, name: str) -> dict[str, str]:
    """The labels that a service selects its workloads by; raises ConversionError if they are not known."""
    service = services.get((namespace, name))
    if service is None:
        raise ConversionError(f"it names the service {name} of namespace {namespace}, whose labels are needed: give its manifest, too")
    if not service.selector:
        raise ConversionError(f"it names the service {name} of namespace {namespace}, which selects no workloads")
    return service.selector


def guarded_by_waypoint(name: str) -> Manifest:
    """The part of a specification that makes a policy hold for a service, at its waypoint."""
    return {"targetRefs": [{"group": "", "kind": "Service", "name": name}]}


def guarded_at(waypoint: str) -> Manifest:
    """The part of a specification that makes a policy hold at a waypoint, for all that goes through it."""
    return {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": waypoint}]}


def manifest(version: str, kind: str, name: tuple[str, str], spec: Manifest, annotations: dict[str, str] | None = None) -> Manifest:
    """A new document; `name` is namespace and name."""
    metadata: Manifest = {"namespace": name[0], "name": name[1]}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def texts(value: Any, what: str) -> list[str]:
    """A list of texts; raises ConversionError if it is something else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConversionError(f"{what} is no list of texts")
    return list(value)


def part(holder: Manifest, field: str) -> Manifest:
    """A map inside of another, empty where there is none; raises ConversionError if it is something else."""
    value = holder.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConversionError(f"{field} is no map")
    return value


def parts(holder: Manifest, field: str) -> list[Manifest]:
    """A list of maps; raises ConversionError if it is something else."""
    value = holder.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ConversionError(f"{field} is no list of maps")
    return list(value)


def only(holder: Manifest, allowed: frozenset[str], what: str) -> None:
    """Raises ConversionError for a field that is not among `allowed`: leaving it out could let more pass."""
    unknown = sorted(str(field) for field in holder if field not in allowed)
    if unknown:
        raise ConversionError(f"{what} has a field that has no new form: {', '.join(unknown)[:200]}")
