"""One YAML document understood: an object with its warnings, or why it is none and what stands in for it."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.envoy.patches.closed import closed_filter, closed_plugin
from control.kinds import (
    AuthorizationPolicy,
    EnvoyFilter,
    Kind,
    MeshObject,
    ObjectKey,
    PeerAuthentication,
    RateLimit,
    RequestAuthentication,
    Telemetry,
    WasmPlugin,
    mesh_config,
)
from control.kinds.metadata import Meta
from control.kinds.rate_limits import OnFailure, RateLimitSpec
from control.kinds.security import (
    AuthorizationPolicySpec,
    MTLSMode,
    MutualTLS,
    PeerAuthenticationSpec,
    PolicyAction,
    PolicyRule,
    PolicyTarget,
    Selector,
)
from control.validation import (
    core_checks,
    destination_checks,
    entry_checks,
    envoy_filter_checks,
    gateway_checks,
    gateway_route_checks,
    group_checks,
    istio_gateway_checks,
    mesh_checks,
    policy_checks,
    rate_limit_checks,
    routing_checks,
    telemetry_checks,
    token_checks,
    wasm_checks,
)
from control.validation.decoding import KINDS, beyond, decode, object_key
from control.validation.finding import Finding, Origin, Remark, Severity
from control.validation.json_text import read_json
from control.validation.target_checks import TARGET_GROUPS, target_remarks
from control.validation.values import label_name, object_name
from control.validation.yaml_text import YAMLError, YAMLNode, read_document, split_documents, syntax_finding

_MAX_DOCUMENTS: Final = 20_000
_POLICY_KIND: Final = re.compile(r"^kind:\s*[\"']?(AuthorizationPolicy|PeerAuthentication)\b", re.MULTILINE)
_METADATA: Final = re.compile(r"^metadata:.*?(?=^[A-Za-z]|\Z)", re.MULTILINE | re.DOTALL)
_NAMES: Final = {name: re.compile(rf"(?:^|[\s{{,]){name}:\s*[\"']?([a-z0-9.-]+)") for name in ("name", "namespace")}
Manifest = dict[str, Any]
# The values take the type of their key's kind, which a mapping can't express.
_CHECKS: Final[dict[Kind, Callable[[Any], Iterator[Remark]]]] = {
    Kind.NAMESPACE: core_checks.namespace_remarks,
    Kind.NODE: core_checks.node_remarks,
    Kind.POD: core_checks.pod_remarks,
    Kind.SERVICE: core_checks.service_remarks,
    Kind.ENDPOINT_SLICE: core_checks.slice_remarks,
    Kind.SERVICE_ENTRY: entry_checks.service_entry_remarks,
    Kind.WORKLOAD_ENTRY: entry_checks.workload_entry_remarks,
    Kind.VIRTUAL_SERVICE: routing_checks.virtual_service_remarks,
    Kind.DESTINATION_RULE: destination_checks.destination_rule_remarks,
    Kind.ENVOY_FILTER: envoy_filter_checks.envoy_filter_remarks,
    Kind.WASM_PLUGIN: wasm_checks.wasm_plugin_remarks,
    Kind.WORKLOAD_GROUP: group_checks.workload_group_remarks,
    Kind.AUTHORIZATION_POLICY: policy_checks.authorization_remarks,
    Kind.GATEWAY: gateway_checks.gateway_remarks,
    Kind.ISTIO_GATEWAY: istio_gateway_checks.istio_gateway_remarks,
    Kind.HTTP_ROUTE: gateway_route_checks.http_route_remarks,
    Kind.GRPC_ROUTE: gateway_route_checks.grpc_route_remarks,
    Kind.TLS_ROUTE: gateway_route_checks.tls_route_remarks,
    Kind.TCP_ROUTE: gateway_route_checks.tcp_route_remarks,
    Kind.REFERENCE_GRANT: gateway_route_checks.reference_grant_remarks,
    Kind.REQUEST_AUTHENTICATION: token_checks.request_authentication_remarks,
    Kind.RATE_LIMIT: rate_limit_checks.rate_limit_remarks,
    Kind.TELEMETRY: telemetry_checks.telemetry_remarks,
    Kind.MESH_CONFIG: mesh_checks.mesh_config_remarks,
}


class Document(Struct, frozen=True):
    """What a document says.

    `key` is None where it can't be told whose document it is; `object` is None if `findings` hold an error.
    `closed` stands in for a policy that can't be understood and was never understood before.
    `unreadable`: what the document was meant to define can't be told, so nothing may be concluded from what is missing in its file.
    """

    origin: Origin
    key: ObjectKey | None = None
    object: MeshObject | None = None
    manifest: Manifest = {}
    findings: tuple[Finding, ...] = ()
    closed: MeshObject | None = None
    unreadable: bool = False


def read_documents(text: str, file: str, root_namespace: str) -> list[Document]:
    """Every document of a file; those of other kinds are passed over."""
    documents: list[Document] = []
    for line, part in split_documents(text):
        try:
            node = read_document(part, line)
        except YAMLError as error:
            documents.append(_broken(part, syntax_finding(file, error)))
            continue
        documents += [_document(item, file, root_namespace) for item in _items(node)]
        if len(documents) > _MAX_DOCUMENTS:
            return [*documents[:_MAX_DOCUMENTS], _keyless(Origin(file, line), f"more than {_MAX_DOCUMENTS} objects in one file")]
    return documents


def read_object(raw: bytes, key: ObjectKey, version: str, place: str, root_namespace: str) -> Document:
    """The object `key` in JSON, as an API server has it in a list: without saying of which kind and version it is."""
    try:
        node = read_json(raw)
    except YAMLError as error:
        origin = Origin(place, 0, 0)
        return Document(origin, key, findings=(Finding(origin, Severity.ERROR, str(error), "", str(key)),), closed=closed_form(key, {}))
    if isinstance(node.value, dict):
        node.value |= {"apiVersion": YAMLNode(version, 0, 0), "kind": YAMLNode(key.kind.api_name, 0, 0)}
    return _document(node, place, root_namespace)


def _items(node: YAMLNode | None) -> Iterator[YAMLNode]:
    """The objects of a document: itself, or the items of a List."""
    if node is None:
        return
    entries = node.value if isinstance(node.value, dict) else {}
    items = entries.get("items")
    kind = entries.get("kind")
    if kind is not None and kind.value == "List" and items is not None and isinstance(items.value, list):
        yield from items.value
    else:
        yield node


def _document(node: YAMLNode, file: str, root_namespace: str) -> Document:
    origin = Origin(file, node.line, node.column)
    if not isinstance(node.value, dict):
        return _keyless(origin, "not an object: a map with apiVersion, kind and metadata is expected")
    version, kind = (node.value[name].value if name in node.value else None for name in ("apiVersion", "kind"))
    if not isinstance(version, str) or not isinstance(kind, str):
        return _keyless(origin, "an object needs apiVersion and kind")
    known = KINDS.get((version, kind))
    if known is None:
        return _foreign(origin, version, kind)
    key = object_key(known.kind_of, node)
    if key is None:
        return _keyless(origin, f"{kind}: metadata.name or metadata.namespace is missing or no valid name")
    if key.kind is Kind.MESH_CONFIG and (key.namespace, key.name) != (root_namespace, mesh_config.NAME):
        return _foreign(origin, version, kind)
    return _known(node, known, key, origin, root_namespace)


def _foreign(origin: Origin, version: str, kind: str) -> Document:
    if kind != Kind.MESH_CONFIG and any(name == kind for _, name in KINDS):
        return _keyless(origin, f"{kind[:80]} of {version[:80]!r} is not supported", "use a version that is")
    what = f"{kind[:80]} ({version[:80]}) is not read by the mesh"
    return Document(origin, findings=(Finding(origin, Severity.WARNING, what),))


def _known(node: YAMLNode, kind: type[MeshObject], key: ObjectKey, origin: Origin, root_namespace: str) -> Document:
    decoded, remarks = decode(kind, key, node)
    if decoded is not None:
        remarks += beyond(remarks, object_remarks(decoded, root_namespace))
    findings = tuple(_locate(remark, node, origin.file, key) for remark in remarks)
    manifest = node.plain()
    if not isinstance(manifest, dict):
        return _keyless(origin, "not an object")
    if any(finding.severity is Severity.ERROR for finding in findings):
        return Document(origin, key, None, manifest, findings, closed_form(key, manifest))
    return Document(origin, key, decoded, manifest, findings)


def object_remarks(item: MeshObject, root_namespace: str) -> Iterator[Remark]:
    """Every check of one object."""
    yield from core_checks.metadata_remarks(item.metadata)
    if isinstance(item, PeerAuthentication):
        yield from policy_checks.peer_authentication_remarks(item, root_namespace)
    elif item.kind_of in _CHECKS:
        yield from _CHECKS[item.kind_of](item)
    if isinstance(item, AuthorizationPolicy | RequestAuthentication | Telemetry | RateLimit | EnvoyFilter | WasmPlugin):
        yield from target_remarks(item, root_namespace)


def closed_form(key: ObjectKey, manifest: Manifest) -> MeshObject | None:
    """What a policy that can't be understood is taken for: the strictest one that its kind knows, for the workloads it seems to mean.

    An ALLOW becomes one that allows nothing, so that other policies still do; anything else denies. Without a readable selector
    or readable targets it holds for the whole namespace. A RateLimit lets nothing through to what it names, unless `onFailure` says so.
    """
    spec = manifest.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    selector = _readable_selector(spec)
    if key.kind is Kind.PEER_AUTHENTICATION:
        return PeerAuthentication(Meta(key.name, key.namespace), PeerAuthenticationSpec(selector, MutualTLS(MTLSMode.STRICT)))
    targets = _readable_targets(spec)
    if key.kind is Kind.RATE_LIMIT and targets and spec.get("onFailure") != OnFailure.ALLOW:
        return RateLimit(Meta(key.name, key.namespace), RateLimitSpec(targets))
    if key.kind is Kind.ENVOY_FILTER:
        return closed_filter(key, spec, targets)
    if key.kind is Kind.WASM_PLUGIN:
        return closed_plugin(key, spec, selector, targets)
    if key.kind is not Kind.AUTHORIZATION_POLICY or spec.get("action") == "AUDIT":
        return None
    meta = Meta(key.name, key.namespace, annotations={policy_checks.DRY_RUN: "true"} if _is_dry_run(manifest) else {})
    if manifest and spec.get("action", "ALLOW") == "ALLOW":
        return AuthorizationPolicy(meta, AuthorizationPolicySpec(selector, target_refs=targets))
    return AuthorizationPolicy(meta, AuthorizationPolicySpec(selector, None, targets, PolicyAction.DENY, rules=(PolicyRule(),)))


def _readable_targets(spec: Manifest) -> tuple[PolicyTarget, ...]:
    """What it is for where that is not workloads; empty if it has a selector, too, or if one of its targets can't be read."""
    stated = spec.get("targetRefs") or ([spec["targetRef"]] if spec.get("targetRef") else [])
    try:
        targets = msgspec.convert(stated, tuple[PolicyTarget, ...])
    except msgspec.ValidationError:
        return ()
    return targets if "selector" not in spec and all(target.kind in TARGET_GROUPS for target in targets) else ()


def _is_dry_run(manifest: Manifest) -> bool:
    metadata = manifest.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and annotations.get(policy_checks.DRY_RUN) == "true"


def _readable_selector(spec: Manifest) -> Selector | None:
    try:
        selector = msgspec.convert(spec.get("selector"), Selector)
    except msgspec.ValidationError:
        return None
    unreadable = any(core_checks.label_remarks(selector.match_labels, ()))
    return selector if selector.match_labels and not unreadable else None


def _keyless(origin: Origin, what: str, hint: str = "") -> Document:
    return Document(origin, findings=(Finding(origin, Severity.ERROR, what, hint),), unreadable=True)


def _broken(text: str, finding: Finding) -> Document:
    """A document that is no YAML; where it looks like a policy, the policy is there in its closed form."""
    found = _POLICY_KIND.search(text)
    metadata = _METADATA.search(text)
    if found is None or metadata is None:
        return Document(finding.origin, findings=(finding,), unreadable=True)
    names = {name: match.group(1) for name, pattern in _NAMES.items() if (match := pattern.search(metadata.group()))}
    try:
        key = ObjectKey(Kind(found.group(1)), label_name(names.get("namespace", "default")), object_name(names.get("name", "")))
    except ValueError:
        return Document(finding.origin, findings=(finding,), unreadable=True)
    finding = msgspec.structs.replace(finding, object=str(key))
    return Document(finding.origin, key, findings=(finding,), closed=closed_form(key, {}), unreadable=True)


def _locate(remark: Remark, node: YAMLNode, file: str, key: ObjectKey) -> Finding:
    at = node.at(remark.path)
    return Finding(Origin(file, at.line, at.column), remark.severity, remark.what, remark.hint, str(key))
