"""Patches of clusters: of those of services, and clusters of one's own beside them."""

from msgspec import Struct

from control.envoy.built import CLUSTER, Built, Problem, Recipe, built
from control.envoy.messages import Message
from control.envoy.naming import ClusterRef
from control.envoy.patches.allowed import PatchError
from control.envoy.patches.applied import Applied
from control.envoy.patches.holding import Bound, patches_at, patches_for
from control.envoy.patches.merging import merge, unnamed
from control.envoy.patches.reading import ReadPatch
from control.envoy.patches.spot import Spot
from control.envoy.proxies import ProxyKey, ProxyKind, find_proxy
from control.envoy.world import World
from control.kinds import ObjectKey
from control.kinds.envoy_filter import ApplyTo, Operation


class PatchedCluster(Struct, frozen=True):
    """`there`: false where a patch removes it."""

    there: bool = True
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


def patch_cluster(world: World, proxy: ProxyKey, ref: ClusterRef, cluster: Message) -> PatchedCluster:
    """Changes the cluster of a service's port, which was just made."""
    spot = _spot(world, proxy, ref)
    held = patches_at(world, spot, ApplyTo.CLUSTER) if spot is not None else ()
    applied, there = Applied(world.settings.root_namespace), True
    for bound in held:
        if spot is None or bound.patch.operation is Operation.ADD or not _matches(bound.patch, ref, spot):
            continue
        if bound.patch.operation is Operation.REMOVE:
            there = False
        else:
            try:
                merge(cluster, unnamed(bound.patch.message))
            except PatchError as error:
                applied.refused(bound, error)
                continue
        applied.did(bound)
    return PatchedCluster(there, tuple(applied.sources), tuple(applied.problems))


def added_clusters(world: World, proxy: ProxyKey) -> tuple[Recipe, ...]:
    """The clusters that patches add at a proxy; of several of one name the first."""
    found: dict[str, Recipe] = {}
    for bound in _adding(world, proxy):
        name = bound.patch.message.name
        found.setdefault(name, Recipe(CLUSTER, name, added_cluster, (proxy, name)))
    return tuple(found.values())


def added_cluster(world: World, proxy: ProxyKey, name: str) -> Built | None:
    """One of them, as the merges of its own objects leave it."""
    found = [one for one in _adding(world, proxy) if one.patch.message.name == name]
    if not found:
        return None
    first, others = found[0], found[1:]
    problems = tuple(Problem(one.object, f"{one.name}: {first.object} has a cluster {name[:100]} already") for one in others)
    return built(name, first.patch.message, (first.object,), problems)


def _adding(world: World, proxy: ProxyKey) -> tuple[Bound, ...]:
    # For whichever services an object is, its clusters are their proxy's: who calls them from there is another patch's matter.
    return tuple(one for one in patches_for(world, proxy) if one.patch.apply_to is ApplyTo.CLUSTER and one.patch.operation is Operation.ADD)


def _spot(world: World, proxy: ProxyKey, ref: ClusterRef) -> Spot | None:
    found, service = world.ask(find_proxy, proxy), world.service(ref.service)
    if found is None or service is None:
        return None
    owner = found.namespace if found.kind is ProxyKind.GATEWAY else service.namespace
    return Spot(found, owner, service.owner, ref.port)


def _matches(patch: ReadPatch, ref: ClusterRef, spot: Spot) -> bool:
    if patch.match.waypoint is not None:
        return patch.match.waypoint.port_number in {0, ref.port}
    match = patch.match.cluster
    # At gateways Istio calls them so.
    outbound = f"outbound|{ref.port}|{ref.subset}|{ref.hostname}" if spot.proxy.kind is ProxyKind.GATEWAY else ref.name
    return match is None or (
        match.name in {"", ref.name, outbound}
        and match.port_number in {0, ref.port}
        and match.service in {"", ref.hostname}
        and match.subset in {"", ref.subset}
    )
