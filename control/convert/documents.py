"""Documents in, documents out: what is old in today's words, all else as it was, with what there is to know of each."""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from control.convert import authentication, quota, rbac
from control.convert.rbac import Enforcement, Place, Roles, convert_binding, denials, enforcement_of
from control.convert.targets import SECURITY, ConversionError, known_services, part
from control.validation.finding import Severity
from control.validation.former_fields import in_json_names, renew
from meshapi import wire

Manifest = dict[str, Any]
_RENEWED_VERSIONS: Final = {
    "networking.istio.io/v1alpha3": "networking.istio.io/v1",
    "networking.istio.io/v1beta1": "networking.istio.io/v1",
    "security.istio.io/v1beta1": "security.istio.io/v1",
    "telemetry.istio.io/v1alpha1": "telemetry.istio.io/v1",
}
_STILL_ALPHA: Final = frozenset({"EnvoyFilter"})
"""Of the kinds of networking.istio.io, those that have no v1."""


class Note(Struct, frozen=True):
    """What to know of a document that was converted, or why one could not be (`error`)."""

    object: str
    what: str
    error: bool = False


class Conversion(Struct, frozen=True):
    """The new documents in the order of the old ones, and the notes."""

    documents: tuple[Manifest, ...]
    notes: tuple[Note, ...]

    @property
    def failed(self) -> bool:
        return any(note.error for note in self.notes)


class Into(Struct, frozen=True):
    """What new documents are made for."""

    root_namespace: str = wire.DEFAULT_ROOT_NAMESPACE
    domain: str = "cluster.local"
    waypoint: str = "waypoint"


def convert(documents: Iterable[Manifest], into: Into) -> Conversion:
    """Converts documents that belong together: bindings find their roles, and policies the labels of services, among them."""
    return _Converter(list(documents), into).run()


class _Converter:
    def __init__(self, documents: list[Manifest], into: Into) -> None:
        gone = (authentication.VERSION, rbac.VERSION)
        self._documents = [in_json_names(one) if one.get("apiVersion") in gone else one for one in documents]
        self._notes: list[Note] = []
        self._into = into
        self._quotas = quota.Quotas({}, {}, (), {}, ())

    def run(self) -> Conversion:
        made: list[Manifest] = []
        place = Place({}, self._into.root_namespace, self._into.domain, self._into.waypoint)
        try:
            place = Place(known_services(self._documents), self._into.root_namespace, self._into.domain, self._into.waypoint)
        except ConversionError as error:
            self._notes.append(Note("Service", str(error), error=True))
        roles = Roles(self._of("ServiceRole"), self._of("ServiceRoleBinding"), self._of("RbacConfig") + self._of("ClusterRbacConfig"))
        enforcement = self._enforcement(roles, place)
        try:
            self._quotas = quota.gather(self._documents)
        except ConversionError as error:
            self._notes.append(Note("quota", str(error), error=True))
        guarded: set[str] = set()
        for document in self._documents:
            try:
                made += self._one(document, roles, enforcement, place, guarded)
            except ConversionError as error:
                self._note(document, str(error), error=True)
        if enforcement is not None and not any(note.error for note in self._notes):
            made += self._denials(enforcement, guarded, place)
        return Conversion(tuple(made), tuple(self._notes))

    def _one(self, document: Manifest, roles: Roles, enforcement: Enforcement | None, place: Place, guarded: set[str]) -> list[Manifest]:
        version, kind = document.get("apiVersion"), document.get("kind")
        if version == authentication.VERSION and kind in {"Policy", "MeshPolicy"}:
            converted = authentication.convert_authentication(document, place.services, self._into.root_namespace, self._into.waypoint)
            self._say(document, f"became {len(converted.documents)} documents of {SECURITY}", *converted.notes)
            return list(converted.documents)
        if version == rbac.VERSION:
            if kind != "ServiceRoleBinding":
                return []
            policies, notes = convert_binding(document, roles, enforcement, place)
            guarded |= {policy["metadata"]["namespace"] for policy in policies if "targetRefs" in policy["spec"]}
            self._say(document, f"became {len(policies)} policies", *notes)
            return policies
        if version == quota.VERSION and kind == "QuotaSpecBinding":
            limits, notes = quota.convert_binding(document, self._quotas, quota.Place(place.services, place.domain))
            self._say(document, f"became {len(limits)} RateLimits", *notes)
            return limits
        if version == quota.VERSION and self._quotas.has(document):
            return []
        if isinstance(version, str) and version.endswith(".istio.io/v1alpha2"):
            raise ConversionError(f"{version} has no new form here")
        return [self._renewed(document)]

    def _renewed(self, document: Manifest) -> Manifest:
        if document.get("kind") == "EnvoyFilter" and "filters" in part(document, "spec"):
            raise ConversionError("filters have no new form: write each as one of configPatches, which name today's configuration")
        renewed, remarks = renew(str(document.get("kind")), document)
        for remark in remarks:
            path = ".".join(str(step) for step in remark.path)
            hint = f" ({remark.hint})" if remark.hint and remark.severity is Severity.ERROR else ""
            self._note(document, f"{path}: {remark.what}{hint}", error=remark.severity is Severity.ERROR)
        version = str(document.get("apiVersion"))
        newest = _RENEWED_VERSIONS.get(version, version)
        if newest != version and document.get("kind") not in _STILL_ALPHA:
            self._note(document, f"{version} is {newest} today")
            renewed = {**renewed, "apiVersion": newest}
        return renewed

    def _of(self, kind: str) -> tuple[Manifest, ...]:
        return tuple(one for one in self._documents if one.get("apiVersion") == rbac.VERSION and one.get("kind") == kind)

    def _enforcement(self, roles: Roles, place: Place) -> Enforcement | None:
        try:
            enforcement = enforcement_of(roles.configs, place.domain)
        except ConversionError as error:
            self._notes.append(Note("RbacConfig", str(error), error=True))
            return None
        if enforcement is None and roles.bindings:
            what = "no RbacConfig is among the documents, without which roles denied nothing; the new policies deny whom they don't name"
            self._notes.append(Note("ServiceRoleBinding", what))
        return enforcement

    def _denials(self, enforcement: Enforcement, guarded: set[str], place: Place) -> list[Manifest]:
        try:
            return denials(enforcement, guarded, place)
        except ConversionError as error:
            self._notes.append(Note("RbacConfig", str(error), error=True))
            return []

    def _say(self, document: Manifest, *notes: str) -> None:
        for note in notes:
            self._note(document, note)

    def _note(self, document: Manifest, what: str, *, error: bool = False) -> None:
        metadata = document.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = "/".join(str(metadata[field]) for field in ("namespace", "name") if metadata.get(field))
        self._notes.append(Note(f"{document.get('kind')} {name}", what, error))
