"""`rbac.istio.io/v1alpha1`: ServiceRole, ServiceRoleBinding and RbacConfig become AuthorizationPolicy.

A request was let in if one binding's subject and one rule of its role matched; where RbacConfig said so, all else was denied.
A rule that looks at more than connections is enforced by the service's waypoint, and its workloads then let the waypoint in.
"""

from typing import Any, Final

from msgspec import Struct

from control.convert.rbac_subjects import Subject, conditions_of, subject_of
from control.convert.targets import (
    SECURITY,
    ConversionError,
    Manifest,
    Services,
    guarded_at,
    guarded_by_waypoint,
    manifest,
    name_of,
    only,
    part,
    parts,
    selector_of,
    texts,
)

VERSION: Final = "rbac.istio.io/v1alpha1"
DRY_RUN: Final = {"istio.io/dry-run": "true"}
_RULE: Final = frozenset(
    {"services", "methods", "notMethods", "paths", "notPaths", "hosts", "notHosts", "ports", "notPorts", "constraints"}
)
_OPERATION: Final = ("methods", "notMethods", "paths", "notPaths", "hosts", "notHosts")


class Roles(Struct, frozen=True):
    """The old documents that only mean something together, by kind."""

    roles: tuple[Manifest, ...]
    bindings: tuple[Manifest, ...]
    configs: tuple[Manifest, ...]


class Place(Struct, frozen=True):
    """Where old policies are turned into new ones."""

    services: Services
    root_namespace: str
    domain: str
    waypoint: str


class Enforcement(Struct, frozen=True):
    """What RbacConfig said: `mode`, and the services (namespace, name; name None is all of the namespace) that it includes or excludes."""

    mode: str
    listed: frozenset[tuple[str, str | None]]

    def of(self, namespace: str, service: str) -> bool:
        """Whether roles were enforced for a service."""
        listed = bool({(namespace, service), (namespace, None)} & self.listed)
        return {"OFF": False, "ON": True, "ON_WITH_INCLUSION": listed, "ON_WITH_EXCLUSION": not listed}[self.mode]


def convert_binding(binding: Manifest, roles: Roles, enforcement: Enforcement | None, place: Place) -> tuple[list[Manifest], list[str]]:
    """The policies of one binding with its role, and what to know; raises ConversionError."""
    namespace, name = name_of(binding)
    spec = part(binding, "spec")
    only(spec, frozenset({"roleRef", "subjects", "mode", "role"}), "spec")
    role = _role(spec, namespace, roles)
    subjects = [subject_of(one) for one in parts(spec, "subjects")]
    if not subjects:
        raise ConversionError("a binding without subjects let nobody in")
    notes: list[str] = []
    annotations = {}
    if spec.get("mode") == "PERMISSIVE":
        annotations = DRY_RUN
    documents: list[Manifest] = []
    rules = parts(part(role, "spec"), "rules")
    for rule in rules:
        for service in _services(rule, namespace, place):
            if enforcement is not None and not enforcement.of(namespace, service):
                notes.append(f"RbacConfig did not enforce roles for service {service}: its policy only reports (istio.io/dry-run)")
                marks = DRY_RUN
            else:
                marks = annotations
            made, more = _policy((namespace, f"{name}-{service}"), service, rule, subjects, place)
            notes += more
            documents.append({**made, "metadata": {**made["metadata"], **({"annotations": marks} if marks else {})}})
    return _distinct(documents), list(dict.fromkeys(notes))


def _role(spec: Manifest, namespace: str, roles: Roles) -> Manifest:
    reference = part(spec, "roleRef")
    wanted = reference.get("name") or spec.get("role")
    if not isinstance(wanted, str):
        raise ConversionError("a binding without roleRef.name")
    for role in roles.roles:
        if name_of(role) == (namespace, wanted):
            return role
    raise ConversionError(f"its role {wanted} of namespace {namespace} is not among the documents")


def _services(rule: Manifest, namespace: str, place: Place) -> list[str]:
    only(rule, _RULE, "a rule")
    found: list[str] = []
    for stated in texts(rule.get("services"), "services"):
        if "*" in stated:
            here = sorted(name for at, name in place.services if at == namespace)
            known = [name for name in here if _matches(stated, f"{name}.{namespace}.svc.{place.domain}")]
            if not known:
                raise ConversionError(f"{stated} matches no service among the documents: give the manifests of those it means")
            found += known
        else:
            found.append(_short(stated, namespace, place.domain))
    if not found:
        raise ConversionError("a rule without services let nobody in")
    return list(dict.fromkeys(found))


def _short(service: str, namespace: str, domain: str) -> str:
    for suffix in (f".{namespace}.svc.{domain}", f".{namespace}.svc", f".{namespace}"):
        if service.endswith(suffix):
            return service.removesuffix(suffix)
    if "." in service:
        raise ConversionError(f"{service} is no service of namespace {namespace}, for which its role is")
    return service


def _matches(pattern: str, value: str) -> bool:
    """A * at either end of a pattern stands for anything."""
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value.endswith(pattern[1:]) if pattern.startswith("*") else value == pattern


def _policy(name: tuple[str, str], service: str, rule: Manifest, subjects: list[Subject], place: Place) -> tuple[Manifest, list[str]]:
    operation: Manifest = {field: values for field in _OPERATION if (values := texts(rule.get(field), field))}
    for field in ("methods", "paths"):
        if "*" in operation.get(field, ()):
            del operation[field]
    for field in ("ports", "notPorts"):
        if rule.get(field):
            operation[field] = [str(port) for port in rule[field]]
    constraints = parts(rule, "constraints")
    more, labels = conditions_of(constraints, name[0])
    new_rules = [_rule(subject, operation, more) for subject in subjects]
    sees_requests = any(field in operation for field in _OPERATION) or any(subject.of_requests for subject in subjects)
    sees_requests = sees_requests or any(one["key"].startswith("request.") for one in more)
    if not sees_requests:
        selector = dict(selector_of(place.services, name[0], service))
        if any(selector.get(key, value) != value for key, value in labels.items()):
            raise ConversionError(f"destination.labels asks for others than the workloads of service {service}: it let nobody in")
        selector |= labels
        return manifest(SECURITY, "AuthorizationPolicy", name, {"selector": {"matchLabels": selector}, "rules": new_rules}), []
    if labels:
        raise ConversionError("destination.labels together with methods, paths or tokens: a waypoint guards a service as a whole")
    note = f"service {service} needs a waypoint ({place.waypoint}) to look at requests: label it with istio.io/use-waypoint"
    spec = {**guarded_by_waypoint(service), "rules": new_rules}
    return manifest(SECURITY, "AuthorizationPolicy", name, spec), [note]


def _rule(subject: Subject, operation: Manifest, conditions: list[Manifest]) -> Manifest:
    rule: Manifest = {}
    if subject.source:
        rule["from"] = [{"source": subject.source}]
    if operation:
        rule["to"] = [{"operation": operation}]
    if subject.conditions or conditions:
        rule["when"] = [*subject.conditions, *conditions]
    return rule


def _distinct(documents: list[Manifest]) -> list[Manifest]:
    """Rules for one service are one policy of several rules: policies of one name would replace each other."""
    by_name: dict[tuple[Any, ...], Manifest] = {}
    for document in documents:
        metadata, spec = document["metadata"], document["spec"]
        how = "selector" if "selector" in spec else "targetRefs"
        key = (metadata["name"], how, repr(spec[how]), repr(metadata.get("annotations")))
        if key in by_name:
            by_name[key]["spec"]["rules"] += spec["rules"]
        else:
            by_name[key] = document
    taken: dict[str, int] = {}
    for document in by_name.values():
        name = document["metadata"]["name"]
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            document["metadata"]["name"] = f"{name}-{taken[name]}"
    return list(by_name.values())


# ---- what is denied otherwise


def enforcement_of(configs: tuple[Manifest, ...], domain: str) -> Enforcement | None:
    """Of the mesh's one RbacConfig; None without one."""
    if not configs:
        return None
    if len(configs) > 1:
        raise ConversionError("more than one RbacConfig or ClusterRbacConfig: only one was in force, named default")
    spec = part(configs[0], "spec")
    only(spec, frozenset({"mode", "inclusion", "exclusion", "enforcement_mode", "enforcementMode"}), "spec")
    mode = spec.get("mode", "OFF")
    if mode not in {"OFF", "ON", "ON_WITH_INCLUSION", "ON_WITH_EXCLUSION"}:
        raise ConversionError(f"mode {str(mode)[:40]!r} is none of OFF, ON, ON_WITH_INCLUSION, ON_WITH_EXCLUSION")
    target = part(spec, "inclusion" if mode == "ON_WITH_INCLUSION" else "exclusion")
    listed: set[tuple[str, str | None]] = {(namespace, None) for namespace in texts(target.get("namespaces"), "namespaces")}
    for service in texts(target.get("services"), "services"):
        name, _, rest = service.removesuffix(f".svc.{domain}").partition(".")
        if not rest or "." in rest or "*" in service:
            raise ConversionError(f"RbacConfig lists {service}: name.namespace.svc.{domain} is expected")
        listed.add((rest, name))
    return Enforcement(str(mode), frozenset(listed))


def denials(enforcement: Enforcement, waypoint_namespaces: set[str], place: Place) -> list[Manifest]:
    """The policies that let nobody in where roles were enforced, and those that keep the rest open."""
    found: list[Manifest] = []
    nothing: Manifest = {}
    if enforcement.mode in {"ON", "ON_WITH_EXCLUSION"}:
        found.append(manifest(SECURITY, "AuthorizationPolicy", (place.root_namespace, "allow-nothing"), nothing))
    for namespace, service in sorted(enforcement.listed, key=lambda one: (one[0], one[1] or "")):
        if enforcement.mode == "ON_WITH_INCLUSION" and service is None:
            found.append(manifest(SECURITY, "AuthorizationPolicy", (namespace, "allow-nothing"), nothing))
        elif enforcement.mode == "ON_WITH_INCLUSION" and service is not None:
            spec = {"selector": {"matchLabels": selector_of(place.services, namespace, service)}}
            found.append(manifest(SECURITY, "AuthorizationPolicy", (namespace, f"{service}-allow-nothing"), spec))
        elif enforcement.mode == "ON_WITH_EXCLUSION":
            selector = {"selector": {"matchLabels": selector_of(place.services, namespace, service)}} if service else {}
            name = f"{service}-allow-all" if service else "allow-all"
            found.append(manifest(SECURITY, "AuthorizationPolicy", (namespace, name), {**selector, "rules": [{}]}))
    if enforcement.mode != "OFF":
        for namespace in sorted(waypoint_namespaces):
            found += _through_waypoint(namespace, enforcement, place)
    return found


def _through_waypoint(namespace: str, enforcement: Enforcement, place: Place) -> list[Manifest]:
    """Workloads let the waypoint in, which itself lets in nobody but those of the policies for its services."""
    principal = f"*/ns/{namespace}/sa/{place.waypoint}"
    rules = [{"from": [{"source": {"principals": [principal]}}]}]
    found = [manifest(SECURITY, "AuthorizationPolicy", (namespace, f"allow-{place.waypoint}"), {"rules": rules})]
    listed = (namespace, None) in enforcement.listed
    if listed != (enforcement.mode == "ON_WITH_INCLUSION"):
        return found
    found.append(manifest(SECURITY, "AuthorizationPolicy", (namespace, f"{place.waypoint}-allow-nothing"), guarded_at(place.waypoint)))
    for at, service in sorted((at, name) for at, name in enforcement.listed if at == namespace and name is not None):
        if enforcement.mode == "ON_WITH_EXCLUSION":
            spec = {**guarded_by_waypoint(service), "rules": [{}]}
            found.append(manifest(SECURITY, "AuthorizationPolicy", (at, f"{service}-{place.waypoint}-allow-all"), spec))
    return found
