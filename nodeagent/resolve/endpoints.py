"""The endpoints of a service for one source: health, target port, IP family, locality, weight, and a bound on their number."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from msgspec import Struct

from meshapi.workload import (
    BalancingMode,
    HealthPolicy,
    IPAddress,
    LoadBalancing,
    Port,
    Scope,
    Service,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
)
from nodeagent.policy.addresses import plain

MAX_ENDPOINTS: Final = 256
"""Of a bigger service each source gets its own part, chosen by hash, so that the parts spread the load evenly."""
_NO_BALANCING: Final = LoadBalancing()


class Candidate(Struct, frozen=True, gc=False):
    """Where a connection may go, before it is known how. Tier 0 is preferred."""

    workload: Workload
    address: IPAddress
    port: int
    tier: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """What can be used, ordered, and how many members can't, by reason."""

    usable: tuple[Candidate, ...]
    left_out: dict[str, int]

    def why_none(self) -> str:
        """Words for the case that nothing is usable."""
        if not self.left_out:
            return "it has no endpoints"
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))


def candidates(source: Workload, service: Service, members: Iterable[Workload], *, port: int, like: IPAddress) -> Candidates:
    """The members that can take a connection to the service's `port`; `like` says which IP family is preferred."""
    usable: list[Candidate] = []
    left_out: Counter[str] = Counter()
    for member in members:
        found = _candidate(source, service, member, port=port, like=like)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            usable.append(found)
    return Candidates(_bounded(source, usable), dict(left_out))


def choose_address(addresses: Sequence[IPAddress], like: IPAddress) -> IPAddress | None:
    """The first address of the same IP family as `like`, else the first."""
    first: IPAddress | None = None
    for address in addresses:
        known = plain(address)
        if known.version == like.version:
            return known
        first = first or known
    return first


def _candidate(source: Workload, service: Service, member: Workload, *, port: int, like: IPAddress) -> Candidate | str:
    balancing = service.load_balancing or _NO_BALANCING
    if member.status is not WorkloadStatus.HEALTHY and balancing.health_policy is not HealthPolicy.ALLOW_ALL:
        return "not healthy"
    if member.network != source.network:
        return "in another network, and gateways between networks are not supported"
    if member.tunnel_protocol is TunnelProtocol.LEGACY_ISTIO_MTLS:
        return "reachable by sidecar mTLS only, which is not supported"
    if member.capacity == 0:
        return "with weight 0"
    target = target_port(service, member, port)
    if target is None:
        return f"without the target port of {port}"
    address = choose_address(member.addresses, like)
    if address is None:
        return "without an address"
    tier = _tier(source, member, balancing)
    if tier is None:
        return "outside the locality that the service is bound to"
    return Candidate(member, address, target, tier)


def target_port(service: Service, member: Workload, port: int) -> int | None:
    """What the member listens on for the service's `port`: as the member says, else as the service says."""
    return _target_of(member.services.get(service.key, ()), port) or _target_of(service.ports, port)


def _target_of(ports: Sequence[Port], port: int) -> int | None:
    for entry in ports:
        if entry.service == port and entry.target:
            return entry.target
    return None


def _tier(source: Workload, member: Workload, balancing: LoadBalancing) -> int | None:
    """How many of the preferred scopes, from the first that differs, are not shared; None = ruled out."""
    if balancing.mode is not BalancingMode.STRICT and balancing.mode is not BalancingMode.FAILOVER:
        return 0
    shared = 0
    for scope in balancing.routing_preference:
        if not _shares(scope, source, member):
            break
        shared += 1
    missed = len(balancing.routing_preference) - shared
    return None if missed and balancing.mode is BalancingMode.STRICT else missed


def _shares(scope: Scope, source: Workload, member: Workload) -> bool:
    match scope:
        case Scope.REGION:
            return source.locality.region == member.locality.region
        case Scope.ZONE:
            return source.locality.zone == member.locality.zone
        case Scope.SUBZONE:
            return source.locality.subzone == member.locality.subzone
        case Scope.NODE:
            return source.node == member.node
        case Scope.CLUSTER:
            return source.cluster == member.cluster
        case Scope.NETWORK:
            return source.network == member.network
        case Scope.UNSPECIFIED:
            return False


def _bounded(source: Workload, usable: list[Candidate]) -> tuple[Candidate, ...]:
    if len(usable) > MAX_ENDPOINTS:
        usable.sort(key=lambda candidate: (candidate.tier, _rank(source, candidate.workload)))
        del usable[MAX_ENDPOINTS:]
    return tuple(sorted(usable, key=lambda candidate: (candidate.tier, candidate.workload.uid)))


def _rank(source: Workload, member: Workload) -> bytes:
    return blake2b(f"{source.uid}|{member.uid}".encode(), digest_size=8).digest()
