"""The next snapshot from the last one and what arrived; it costs as much as changed, not as much as there is."""

from dataclasses import dataclass, replace

from meshapi.authorization import Policy
from meshapi.workload import IPAddress, Service, Workload, WorkloadUID
from nodeagent.snapshot.places import PlacesEdit
from nodeagent.snapshot.rules import ALL_POLICIES, RulesEdit
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.view import PROBE_SOURCES, Missing


@dataclass(frozen=True, slots=True)
class Update:
    """What arrived together; removals come first."""

    workloads: tuple[Workload, ...] = ()
    services: tuple[Service, ...] = ()
    removed: tuple[str, ...] = ()
    """Primary keys of workloads and services that are known no longer, because they are gone or nobody asks for them."""
    forgotten: tuple[str, ...] = ()
    """Keys that nobody asks for any more."""
    absent: tuple[str, ...] = ()
    """Keys that are asked for and name nothing."""
    answered: tuple[str, ...] = ()
    """Keys that are asked for and that what came stands for."""
    unreadable: tuple[str, ...] = ()
    """Keys of what could not be understood and has no last good form."""
    policies: tuple[Policy, ...] = ()
    removed_policies: tuple[str, ...] = ()
    rejected_policies: tuple[tuple[str, str], ...] = ()
    """`namespace/name` and the error."""
    policies_arrived: bool = False
    local_identities: tuple[tuple[WorkloadUID, str | None], ...] = ()
    """Workloads of this node and their SPIFFE ids; None: runs here no more."""
    probe_ports: tuple[tuple[WorkloadUID, frozenset[int] | None], ...] = ()
    """Workloads of this node and the ports that they declare for probes; None: runs here no more."""
    unit_ports: tuple[tuple[WorkloadUID, frozenset[int] | None], ...] = ()
    """Workloads that share the node's network, and their ports; None: runs here no more, or not so."""
    probe_sources: frozenset[IPAddress] | None = None
    """The whole set; None: as it was."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The next snapshot, and the dependencies that changed: keys of workloads, addresses, services and policies."""

    snapshot: Snapshot
    touched: frozenset[str]


def apply(snapshot: Snapshot, update: Update) -> Applied:
    """Applies an update."""
    places, rules = PlacesEdit(snapshot), RulesEdit(snapshot)
    _edit_places(places, update)
    _edit_rules(rules, update)
    arrived = update.policies_arrived and not snapshot.policies_arrived
    local_identities, probe_ports, unit_ports = dict(update.local_identities), dict(update.probe_ports), dict(update.unit_ports)
    probe_sources = snapshot.probe_sources if update.probe_sources is None else update.probe_sources
    following = replace(
        snapshot,
        generation=snapshot.generation + 1,
        workloads=places.workloads.applied(),
        workload_addresses=places.workload_addresses.applied(),
        services=places.services.applied(),
        service_addresses=places.service_addresses.applied(),
        service_blocks=frozenset(places.blocks),
        service_members=places.members.applied(),
        absent=places.absent.applied(),
        answered=places.answered.applied(),
        policies_by_key=rules.policies.applied(),
        policies_by_namespace=rules.namespaces.applied(),
        rejected=rules.rejected.applied(),
        policies_arrived=snapshot.policies_arrived or arrived,
        local_identities=snapshot.local_identities.changed(local_identities),
        probe_sources=probe_sources,
        probe_ports=snapshot.probe_ports.changed(probe_ports),
        unit_ports=snapshot.unit_ports.changed(unit_ports),
    )
    touched = places.touched | rules.touched | local_identities.keys() | probe_ports.keys() | unit_ports.keys()
    if probe_sources != snapshot.probe_sources:
        touched |= {PROBE_SOURCES}
    return Applied(following, frozenset(touched | {ALL_POLICIES} if arrived else touched))


def _edit_places(places: PlacesEdit, update: Update) -> None:
    for key in update.forgotten:
        places.forget(key)
    for name in update.removed:
        places.remove(name)
    for service in update.services:
        places.put_service(service)
    for workload in update.workloads:
        places.put_workload(workload)
    for key in update.answered:
        places.set_answered(key)
    for key in update.absent:
        places.set_missing(key, Missing.ABSENT)
    for key in update.unreadable:
        places.set_missing(key, Missing.UNREADABLE)


def _edit_rules(rules: RulesEdit, update: Update) -> None:
    for key in update.removed_policies:
        rules.remove(key)
    for policy in update.policies:
        rules.put(policy)
    for name, error in update.rejected_policies:
        rules.reject(name, error)
