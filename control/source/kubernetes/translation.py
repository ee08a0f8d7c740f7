"""An object in the API server's JSON as a change of the mesh.

Most objects are what they should be, and thousands come at once: they are read straight into their type. One that is not, and every
policy and entry, takes the way that files take, where each fault is found and told.
"""

from typing import Final

import msgspec

from control.kinds import Kind, MeshObject, ObjectKey
from control.source import Change, Reject, Upsert
from control.source.kubernetes.resources import BUILT_IN, ResourceType
from control.validation.decoding import KINDS
from control.validation.document import Manifest, closed_form, object_remarks, read_object
from control.validation.finding import Finding, Origin, Severity
from kubeapi.watching import Item

PLACE: Final = "Kubernetes"
ORIGIN: Final = Origin(PLACE, 0, 0)
_DIRECT: Final[frozenset[Kind]] = frozenset(resource.kind for resource in BUILT_IN)
_decoders: Final[dict[type[MeshObject], msgspec.json.Decoder[MeshObject]]] = {kind: msgspec.json.Decoder(kind) for kind in KINDS.values()}


def translate(resource: ResourceType, item: Item, root_namespace: str) -> Change:
    """What an object means, whatever it holds."""
    if resource.kind in _DIRECT:
        direct = _decoded(resource, item, root_namespace)
        if direct is not None:
            return direct
    return _documented(resource, item, root_namespace)


def key_of(resource: ResourceType, name: tuple[str, str]) -> ObjectKey:
    return ObjectKey(resource.kind, *name)


def _decoded(resource: ResourceType, item: Item, root_namespace: str) -> Upsert | None:
    """The object with what is to be said of it, if nothing is wrong with it."""
    try:
        found = _decoders[KINDS[resource.api_version, resource.kind.api_name]].decode(item.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    remarks = tuple(object_remarks(found, root_namespace))
    if any(remark.severity is Severity.ERROR for remark in remarks):
        return None
    return Upsert(found, ORIGIN, {}, tuple(Finding(ORIGIN, one.severity, one.what, one.hint, str(found.key)) for one in remarks))


def _documented(resource: ResourceType, item: Item, root_namespace: str) -> Change:
    key = key_of(resource, item.key)
    document = read_object(item.raw, key, resource.api_version, PLACE, root_namespace)
    # Of Kubernetes' own kinds, what was read can be shown without keeping all of it.
    manifest = {} if resource.kind in _DIRECT else _without_bookkeeping(document.manifest)
    if document.object is None:
        return Reject(key, ORIGIN, document.findings, manifest, document.closed if document.key else closed_form(key, {}))
    return Upsert(document.object, ORIGIN, manifest, document.findings)


def _without_bookkeeping(manifest: Manifest) -> Manifest:
    metadata = manifest.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
    return manifest
