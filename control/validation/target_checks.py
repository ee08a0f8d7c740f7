"""Checks of the targetRefs of policies: what names nothing that a policy can hold for would be no policy at all."""

from collections.abc import Iterator
from typing import Final

from control.kinds import AuthorizationPolicy, EnvoyFilter, RateLimit, RequestAuthentication, Telemetry, WasmPlugin
from control.kinds.security import PolicyTarget
from control.validation import values
from control.validation.core_checks import Path, attempt
from control.validation.finding import Remark

_GATEWAY_API: Final = "gateway.networking.k8s.io"
TARGET_GROUPS: Final = {
    "Service": ("", "core"),
    "ServiceEntry": ("", "networking.istio.io"),
    "Gateway": ("", _GATEWAY_API),
    "GatewayClass": ("", _GATEWAY_API),
}
"""The kinds that a policy may name, with their groups; an empty one is the kind's own."""
_MAX_TARGETS: Final = 16


Targeting = AuthorizationPolicy | RequestAuthentication | Telemetry | RateLimit | EnvoyFilter | WasmPlugin
"""What names what it is for."""


def target_remarks(policy: Targeting, root_namespace: str) -> Iterator[Remark]:
    namespace, spec = policy.metadata.namespace, policy.spec
    if not isinstance(policy, RateLimit | EnvoyFilter) and policy.spec.target_ref is not None:
        yield from _remarks(policy.spec.target_ref, ("spec", "targetRef"), namespace, root_namespace)
    for index, target in enumerate(spec.target_refs):
        yield from _remarks(target, ("spec", "targetRefs", index), namespace, root_namespace)
    if len(spec.target_refs) > _MAX_TARGETS:
        yield Remark(("spec", "targetRefs"), f"more than {_MAX_TARGETS} targets", "write several policies")


def _remarks(target: PolicyTarget, path: Path, namespace: str, root_namespace: str) -> Iterator[Remark]:
    groups = TARGET_GROUPS.get(target.kind)
    if groups is None:
        yield Remark((*path, "kind"), f"a policy can't be for a {target.kind[:40]!r}", f"one of {', '.join(TARGET_GROUPS)}")
        return
    if target.group not in groups:
        yield Remark((*path, "group"), f"there is no {target.kind} in {target.group[:80]!r}", f"leave it out, or write {groups[-1]}")
    if target.namespace not in {"", namespace}:
        yield Remark((*path, "namespace"), "a policy is for objects of its own namespace", "put it where they are")
    if target.kind == "GatewayClass" and namespace != root_namespace:
        yield Remark((*path, "kind"), f"a policy for all waypoints of a class belongs in the root namespace {root_namespace}")
    yield from attempt(values.object_name, target.name, (*path, "name"))
