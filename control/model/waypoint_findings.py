"""What there is to say about waypoints: what keeps an object from its own, and a policy from being enforced by one."""

from collections.abc import Iterator
from typing import Final

from control.kinds import (
    AuthorizationPolicy,
    Gateway,
    MeshObject,
    Namespace,
    ObjectKey,
    Pod,
    RateLimit,
    RequestAuthentication,
    Service,
    ServiceEntry,
)
from control.kinds.security import PolicyTarget
from control.model.settings import MeshSettings
from control.model.store import Store
from control.model.waypoint_guards import ClassTarget, target_of
from control.model.waypoint_reach import gates_of, rivals, without_tunnels
from control.model.waypoint_store import account_of
from meshapi import wire

_OPT_OUT: Final = f"{wire.LABEL_DATAPLANE_MODE}=none"


def waypoint_notes(item: MeshObject, store: Store, settings: MeshSettings) -> Iterator[str]:
    """Limits of what is in force."""
    bound = store.waypoints.of(item.key)
    if bound.binding.message and not (bound.binding.reason == "UnsupportedTrafficType" and _is_inherited(item)):
        yield f"is not reached through a waypoint: {bound.binding.message}"
    if bound.guarded and isinstance(item, Service | ServiceEntry):
        for rival, gate in rivals(store, item.key).items():
            name = f"{gate.key.namespace}/{gate.key.name}"
            yield f"shares workloads with {rival}: at ports of both what comes through its waypoint {name} meets its policies, not these"
    match item:
        case Gateway():
            yield from _gateway_notes(item, store)
        case AuthorizationPolicy() | RequestAuthentication() | RateLimit():
            for target in item.targets:
                yield from _target_notes(item, target, store, settings)
    if isinstance(item, AuthorizationPolicy) and not item.for_waypoint:
        yield from _client_notes(item, store)


def _gateway_notes(item: Gateway, store: Store) -> Iterator[str]:
    if captured := _captured(item, store):
        yield f"{captured} of its workloads are captured themselves, and take no tunnels for others: label them {_OPT_OUT}"
    if (waypoint := store.waypoints.waypoint(item.key)) is None:
        return
    name, run_by = item.metadata.name, store.waypoints.run_by(item.key)
    accounts = {key: account for key in store.selected(item.metadata.namespace, {}) if (account := account_of(store.get(key)))}
    if strange := sum(accounts.get(key, name) != name for key in run_by):
        yield f"{strange} of its workloads run as another account than {name}: they get no configuration"
    passing = {principal.rpartition("/")[2] for principal in waypoint.principals}
    if others := sum(account in passing for key, account in accounts.items() if key not in run_by):
        yield f"{others} other workloads run as its account, which is all that can be asked for: they pass wherever only it may"


def _captured(gateway: Gateway, store: Store) -> int:
    """How many pods of a waypoint are in the mesh like any other."""
    namespace = store.find(Namespace, "", gateway.metadata.namespace)
    above = namespace.metadata.labels if namespace else {}
    pods = (item for key in store.waypoints.run_by(gateway.key) if isinstance(item := store.get(key), Pod) and item.live)
    return sum({**above, **pod.metadata.labels}.get(wire.LABEL_DATAPLANE_MODE) == "ambient" for pod in pods)


def _is_inherited(item: MeshObject) -> bool:
    """Whether it asks for a waypoint by its namespace only: those are of one kind of traffic, and the rest is as it should be."""
    return wire.LABEL_USE_WAYPOINT not in item.metadata.labels


def _target_notes(
    policy: AuthorizationPolicy | RequestAuthentication | RateLimit, target: PolicyTarget, store: Store, settings: MeshSettings
) -> Iterator[str]:
    found = target_of(target, policy.metadata.namespace, settings.root_namespace)
    if found is None or isinstance(found, ClassTarget):
        return
    match store.get(found):
        case None:
            yield f"{found} does not exist"
        case Service() | ServiceEntry():
            bound = store.waypoints.of(found)
            if bound.binding.waypoint is None:
                why = bound.binding.message or "it asks for none"
                closed = "; its workloads take no connections for it" if bound.guarded else ""
                yield f"no waypoint enforces it for {found}: {why}{closed}"
            elif bound.guarded and (count := without_tunnels(store, found, settings)):
                yield f"{count} of the workloads behind {found} take no tunnels: outside the mesh nothing keeps callers from going around"
        case Gateway() if store.waypoints.waypoint(found) is not None and not store.waypoints.bound_to(found):
            yield f"nothing is reached through {found}"


def _client_notes(policy: AuthorizationPolicy, store: Store) -> Iterator[str]:
    """A policy for workloads that looks at clients, where those come through a waypoint."""
    if not any(source for rule in policy.spec.rules for source in rule.sources or ()):
        return
    scope = store.policies.authorization_scope(policy.key)
    if policy.selector:
        gates: set[ObjectKey] = set().union(*(gates_of(store, key) for key in store.selected(scope, policy.selector)))
    else:
        gates = store.waypoints.gates_within(scope)
    for gate in sorted(gates):
        yield f"what comes through the waypoint {gate.namespace}/{gate.name} has that for its source, not the client behind it"
