"""Turns a YAML node into a typed object, collecting every type error instead of stopping at the first.

What is wrong is cut out and decoding tried again, so that one pass lists all; the object itself is only used if nothing was.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from control.kinds import (
    AuthorizationPolicy,
    DestinationRule,
    EndpointSlice,
    EnvoyFilter,
    Gateway,
    GatewayClass,
    GRPCRoute,
    HTTPRoute,
    IstioGateway,
    Kind,
    MeshConfig,
    MeshObject,
    Namespace,
    Node,
    ObjectKey,
    PeerAuthentication,
    Pod,
    RateLimit,
    ReferenceGrant,
    RequestAuthentication,
    Service,
    ServiceAccount,
    ServiceEntry,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
    WasmPlugin,
    WorkloadEntry,
    WorkloadGroup,
)
from control.kinds.rate_limits import VERSION
from control.validation import values
from control.validation.finding import Remark
from control.validation.former_fields import renew, renewed_path
from control.validation.yaml_text import YAMLNode

_SECURITY: Final = ("security.istio.io/v1", "security.istio.io/v1beta1")
_NETWORKING: Final = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
_GATEWAY: Final = tuple(f"gateway.networking.k8s.io/{version}" for version in ("v1", "v1beta1", "v1alpha3", "v1alpha2"))
KINDS: Final[dict[tuple[str, str], type[MeshObject]]] = {
    ("v1", "Namespace"): Namespace,
    ("v1", "Node"): Node,
    ("v1", "ServiceAccount"): ServiceAccount,
    ("v1", "Pod"): Pod,
    ("v1", "Service"): Service,
    ("v1", "ConfigMap"): MeshConfig,
    ("discovery.k8s.io/v1", "EndpointSlice"): EndpointSlice,
    **{(version, "PeerAuthentication"): PeerAuthentication for version in _SECURITY},
    **{(version, "AuthorizationPolicy"): AuthorizationPolicy for version in _SECURITY},
    **{(version, "RequestAuthentication"): RequestAuthentication for version in _SECURITY},
    **{(version, "Telemetry"): Telemetry for version in ("telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1")},
    (VERSION, "RateLimit"): RateLimit,
    **{(version, "ServiceEntry"): ServiceEntry for version in _NETWORKING},
    **{(version, "WorkloadEntry"): WorkloadEntry for version in _NETWORKING},
    **{(version, "WorkloadGroup"): WorkloadGroup for version in _NETWORKING},
    **{(version, "VirtualService"): VirtualService for version in _NETWORKING},
    **{(version, "DestinationRule"): DestinationRule for version in _NETWORKING},
    ("networking.istio.io/v1alpha3", "EnvoyFilter"): EnvoyFilter,
    ("extensions.istio.io/v1alpha1", "WasmPlugin"): WasmPlugin,
    **{(version, "Gateway"): IstioGateway for version in _NETWORKING},
    **{(version, "Gateway"): Gateway for version in _GATEWAY},
    **{(version, "GatewayClass"): GatewayClass for version in _GATEWAY},
    **{(version, "HTTPRoute"): HTTPRoute for version in _GATEWAY},
    **{(version, "GRPCRoute"): GRPCRoute for version in _GATEWAY},
    **{(version, "TLSRoute"): TLSRoute for version in _GATEWAY},
    **{(version, "TCPRoute"): TCPRoute for version in _GATEWAY},
    **{(version, "ReferenceGrant"): ReferenceGrant for version in _GATEWAY},
}
STRICT_KINDS: Final = frozenset(
    {
        Kind.PEER_AUTHENTICATION,
        Kind.AUTHORIZATION_POLICY,
        Kind.REQUEST_AUTHENTICATION,
        Kind.TELEMETRY,
        Kind.RATE_LIMIT,
        Kind.VIRTUAL_SERVICE,
        Kind.DESTINATION_RULE,
        Kind.ENVOY_FILTER,
        Kind.WASM_PLUGIN,
        Kind.ISTIO_GATEWAY,
        Kind.HTTP_ROUTE,
        Kind.GRPC_ROUTE,
        Kind.TLS_ROUTE,
        Kind.TCP_ROUTE,
        Kind.REFERENCE_GRANT,
    }
)
_TOP_LEVEL: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_MAX_REMARKS: Final = 50
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_]*)|\[(\d+)\]")
_MISSING = re.compile(r"Object missing required field `(.*?)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\Z", re.DOTALL)

Path = tuple[str | int, ...]


def object_key(kind: Kind, node: YAMLNode) -> ObjectKey | None:
    """The key of the object in `node`, if its name can be told; without a namespace it is in `default`, as kubectl would have it."""
    name = node.at(("metadata", "name"))
    namespace = node.at(("metadata", "namespace"))
    if not isinstance(name.value, str) or not isinstance(namespace.value, str | dict):
        return None
    stated = namespace.value if isinstance(namespace.value, str) else "default"
    try:
        values.object_name(name.value)
        return ObjectKey(kind, values.label_name(stated) if kind.namespaced else "", name.value)
    except ValueError:
        return None


def decode(kind: type[MeshObject], key: ObjectKey, node: YAMLNode) -> tuple[MeshObject | None, list[Remark]]:
    """The object and what is wrong with its types; with remarks it is only what could be read of it, fit for further checks."""
    written: Any = node.plain()
    raw, renewals = renew(key.kind.api_name, written)
    remarks: list[Remark] = []
    if kind.kind_of in STRICT_KINDS:
        remarks += _strict_remarks(node)
        # An unknown field elsewhere in metadata is the API server's; here only these parts are read.
        raw = {part: raw[part] for part in ("metadata", "spec") if part in raw}
    if isinstance(raw.get("metadata"), dict):
        raw["metadata"]["namespace"] = key.namespace
    decoded, type_remarks = _Converter(kind, raw).run()
    unknown = {remark.path for remark in type_remarks}
    return decoded, remarks + [one for one in renewals if renewed_path(one) not in unknown] + type_remarks


def beyond(remarks: list[Remark], further: Iterable[Remark]) -> list[Remark]:
    """The further remarks that are not blurred by what was cut out of the object for an earlier one."""
    cuts = [remark.path for remark in remarks]
    return [remark for remark in further if not any(_blurs(cut, remark.path) for cut in cuts)]


def _blurs(cut: Path, path: Path) -> bool:
    """Whether the cut is inside of what `path` names, or moved the indexes of its list."""
    same_list = bool(cut) and isinstance(cut[-1], int) and path[: len(cut) - 1] == cut[:-1]
    return same_list or cut[: len(path)] == path


def _strict_remarks(node: YAMLNode) -> list[Remark]:
    entries = node.value if isinstance(node.value, dict) else {}
    hint = "remove it or correct its name"
    unknown = [Remark((key,), f"unknown field {key[:80]!r}", hint) for key in entries if key not in _TOP_LEVEL]
    spec = entries.get("spec")
    return unknown + (_null_remarks(spec, ("spec",)) if spec is not None else [])


def _null_remarks(node: YAMLNode, path: Path) -> list[Remark]:
    """A field that was left empty restricts nothing, though its author meant it to: an error, where policy is concerned."""
    match node.value:
        case dict() as entries:
            empty = [
                Remark((*path, key), f"{key[:80]!r} is empty", "give it a value or remove it")
                for key, child in entries.items()
                if child.value is None
            ]
            return empty + [remark for key, child in entries.items() for remark in _null_remarks(child, (*path, key))]
        case list() as items:
            return [remark for index, child in enumerate(items) for remark in _null_remarks(child, (*path, index))]
    return []


class _Converter:
    """Converts until nothing is wrong any more, remembering what was cut so that paths stay those of the text."""

    def __init__(self, kind: type[MeshObject], raw: Any) -> None:
        self._kind = kind
        self._raw = raw
        self._cut: set[Path] = set()
        self._gone: dict[int, list[int]] = {}
        """Original indexes that were cut from a list, by the list's id."""

    def run(self) -> tuple[MeshObject | None, list[Remark]]:
        remarks: list[Remark] = []
        while len(remarks) < _MAX_REMARKS:
            try:
                return msgspec.convert(self._raw, self._kind), remarks
            except msgspec.ValidationError as error:
                remark, here = self._understand(str(error))
            if remark is not None:
                remarks.append(remark)
            if not here:
                break
            self._remove(here)
        return None, remarks

    def _understand(self, message: str) -> tuple[Remark | None, Path]:
        """The remark that msgspec's message amounts to, and what to cut (by the indexes of now) to get on."""
        what, _, place = message.rpartition(" - at `$")
        # Below a map with free keys, msgspec writes [...] and does not say which: the map is cut as a whole.
        place, free_keys, _ = place.partition("[...]")
        here: Path = tuple(name or int(index) for name, index in _STEP.findall(place)) if what else ()
        if not self._leads_somewhere(here):
            # Only a field whose own name imitates such a message gets here.
            return Remark((), message), ()
        path, what = self._original(here), what or message
        if unknown := _UNKNOWN.match(what):
            field = unknown.group(1)
            cut = here if free_keys or not self._leads_somewhere((*here, field)) else (*here, field)
            return Remark((*path, field), f"unknown field {field[:80]!r}", "remove it or correct its name"), cut
        if (missing := _MISSING.match(what)) and (*path, missing.group(1)) in self._cut:
            return None, here
        dotted = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        what = what[:1].lower() + what[1:]
        return Remark(path, f"{dotted}: {what}" if dotted else what), here

    def _leads_somewhere(self, here: Path) -> bool:
        at = self._raw
        for step in here:
            match at, step:
                case dict(), str() if step in at:
                    at = at[step]
                case list(), int() if step < len(at):
                    at = at[step]
                case _:
                    return False
        return True

    def _original(self, here: Path) -> Path:
        path: list[str | int] = []
        at = self._raw
        for step in here:
            path.append(self._index_in_text(at, step) if isinstance(step, int) else step)
            at = at[step]
        return tuple(path)

    def _index_in_text(self, items: list[Any], index: int) -> int:
        for gone in sorted(self._gone.get(id(items), ())):
            index += gone <= index
        return index

    def _remove(self, here: Path) -> None:
        path = self._original(here[:-1])
        parent = self._raw
        for step in here[:-1]:
            parent = parent[step]
        last = here[-1]
        original = self._original(here)[-1] if isinstance(last, int) else last
        self._cut.add((*path, original))
        if isinstance(last, int):
            self._gone.setdefault(id(parent), []).append(int(original))
        del parent[last]
