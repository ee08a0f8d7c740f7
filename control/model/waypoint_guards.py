"""No way around a waypoint: who is protected by policies that a waypoint enforces takes connections from that waypoint only.

A guard is a DENY policy for node agents, stock ones included. Where no waypoint could enforce the policies, it denies everyone.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from control.kinds import AuthorizationPolicy, Kind, MeshObject, ObjectKey, RateLimit, RequestAuthentication
from control.kinds.rate_limits import OnFailure
from control.kinds.security import PolicyAction, PolicyTarget
from control.validation import values
from control.validation.policy_checks import DRY_RUN
from meshapi import wire
from meshapi.authorization import Action, Exact, Match, Policy, PolicyScope

GATEWAY_CLASS: Final = "GatewayClass"
_KINDS: Final = {"Service": Kind.SERVICE, "ServiceEntry": Kind.SERVICE_ENTRY, "Gateway": Kind.GATEWAY}


class ClassTarget(Struct, frozen=True):
    """All waypoints of a class."""

    name: str


Target = ObjectKey | ClassTarget


def targets(policy: MeshObject | None, root_namespace: str) -> frozenset[Target]:
    """What a policy for waypoints protects: objects of its own namespace; from the root namespace also whole classes of waypoints.

    One that enforces nothing (AUDIT, on trial) or need not (a limit that is let go where nobody counts) protects nothing.
    """
    match policy:
        case AuthorizationPolicy(metadata, spec):
            on_trial = DRY_RUN in metadata.annotations and values.boolean(metadata.annotations[DRY_RUN])
            stated = () if on_trial or spec.action is PolicyAction.AUDIT else policy.targets
        case RequestAuthentication():
            stated = policy.targets
        case RateLimit(spec=limits):
            stated = policy.targets if limits.on_failure is OnFailure.DENY else ()
        case _:
            return frozenset()
    found = (target_of(one, policy.metadata.namespace, root_namespace) for one in stated)
    return frozenset(one for one in found if one is not None)


def guard_key(key: ObjectKey) -> str:
    """`namespace/name` of the guard for an object."""
    return f"{key.namespace}/{_name(key)}"


def guard(key: ObjectKey, admitted: Mapping[int, tuple[str, ...]]) -> Policy:
    """The guard of a service: on each of these ports only those principals are let in."""
    ports: dict[tuple[str, ...], list[int]] = {}
    for port, principals in sorted(admitted.items()):
        ports.setdefault(principals, []).append(port)
    matches = (Match(not_principals=_exactly(principals), destination_ports=tuple(at)) for principals, at in ports.items())
    return _denying(key, tuple(((match,),) for match in matches))


def guard_everywhere(key: ObjectKey, principals: Iterable[str]) -> Policy:
    """The guard of workloads: on all ports only these principals are let in."""
    only = _exactly(principals)
    # No clause rather than an empty match, which Istio's agents take for one that never holds.
    return _denying(key, (((Match(not_principals=only),),),) if only else ((),))


def _exactly(principals: Iterable[str]) -> tuple[Exact, ...]:
    return tuple(Exact(principal) for principal in principals)


def _denying(key: ObjectKey, rules: tuple[tuple[tuple[Match, ...], ...], ...]) -> Policy:
    return Policy(_name(key), key.namespace, PolicyScope.WORKLOAD_SELECTOR, Action.DENY, rules)


def _name(key: ObjectKey) -> str:
    return f"{wire.WAYPOINT_GUARD}{key.kind.lower()}_{key.name}"


def target_of(target: PolicyTarget, namespace: str, root_namespace: str) -> Target | None:
    """What a reference of a policy in `namespace` means; None for what it may not mean, or what no waypoint knows."""
    if target.kind == GATEWAY_CLASS:
        return ClassTarget(target.name) if namespace == root_namespace else None
    kind = _KINDS.get(target.kind)
    return ObjectKey(kind, namespace, target.name) if kind is not None and target.namespace in {"", namespace} else None
