"""From what a machine is configured for, what runs there, and what was assigned, to its workloads and what it says of itself. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from meshapi.attendance import Assigned, Health, Member
from meshapi.vm import GroupName
from nodeagent.capture.annotations import read_host_terms, read_terms
from nodeagent.linux.namespaces import NamespaceKey
from nodeagent.runtime.base import HOST_NETWORK, LocalWorkload
from nodeagent.vm.configuration import Place
from nodeagent.vm.health import Verdict

UNIT_GRACE_S: Final = 10.0
"""A unit that starts again keeps its place meanwhile."""


def members(places: Iterable[Place], absent: Mapping[str, float], verdicts: Mapping[GroupName, Verdict]) -> tuple[Member, ...]:
    """What to tell the controller. `absent`: for how long units have not been there, in seconds."""
    return tuple(_member(place, verdicts.get(place.group, Verdict())) for place in places if _counts(place, absent))


def _counts(place: Place, absent: Mapping[str, float]) -> bool:
    return not place.unit or absent.get(place.unit, 0.0) < UNIT_GRACE_S


def _member(place: Place, verdict: Verdict) -> Member:
    return Member(place.group, place.address, place.shares_address, verdict.health, verdict.message, place.other_address)


def stopped(place: Place) -> Verdict:
    """Of a unit that is not there."""
    return Verdict(Health.UNHEALTHY, f"{place.unit} does not run")


def workload(place: Place, assigned: Assigned, where: str, key: NamespaceKey | None, *, cgroup: str = "") -> LocalWorkload:
    """`where`: of a unit the directory of its cgroup, which is `cgroup` below the mount; `key`: what is there now."""
    host = not place.unit
    if host:
        terms, problem = read_host_terms(place.annotations)
    else:
        terms, problem = read_terms(place.annotations, cgroup=cgroup)
        ports = place.ports or assigned.ports or terms.include_inbound_ports
        # A tunnel says for whom it is too late: it is for who has the address alone.
        alone = () if place.shares_address else tuple(sorted(filter(None, (assigned.address, assigned.other_address))))
        terms = replace(terms, include_inbound_ports=ports, addresses=alone)
    return LocalWorkload(
        uid=assigned.uid,
        name=assigned.name,
        namespace=place.group.namespace,
        service_account=assigned.service_account,
        netns=HOST_NETWORK if host else where,
        network=key,
        terms=terms,
        terms_problem=problem,
        process_group=not host,
    )
