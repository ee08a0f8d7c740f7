"""Which endpoints come first, seen from where a proxy is: by distance, by labels, or in the shares that a rule states."""

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from control.envoy.catalogue import Endpoint
from control.envoy.destinations.rules import Policy
from control.envoy.proxies import ProxyKey
from control.envoy.world import World
from control.kinds.destination import Distribute, LocalityBalancing
from meshapi.workload import BalancingMode, LoadBalancing, Locality, service_key

_TOPOLOGY: Final = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone")


class Ranking(Struct, frozen=True):
    """`priority` of an endpoint, 0 first; `share` of its locality among those of the same priority, None: as many as it has."""

    priority: Callable[[Endpoint], int]
    share: Callable[[Locality], int | None]


def proxy_locality(world: World, proxy: ProxyKey) -> Locality:
    """Where a proxy is: what its workloads have in common of their localities, from the region on."""
    service = service_key(proxy.namespace, world.settings.hostname(proxy.name, proxy.namespace))
    places = {_parts(one.locality) for one in world.endpoints(service)}
    common: list[str] = []
    for level in zip(*places, strict=True):
        if len(set(level)) > 1 or not level[0]:
            break
        common.append(level[0])
    return Locality(*common)


def ranking(policy: Policy, wish: LoadBalancing | None, here: Locality) -> Ranking | None:
    """What the rules say of distance, else what the service itself wishes; None where it does not matter."""
    setting = policy.load_balancer.locality_lb_setting if policy.load_balancer is not None else None
    if setting is not None and setting.enabled is False:
        return None
    if setting is not None and setting.distribute:
        shares = next((one for one in setting.distribute if _covers(one.source, here)), None)
        return Ranking(lambda _: 0, lambda place: _share(shares, place)) if shares is not None else None
    if policy.outlier_detection is None:
        # Without it nobody notices that the near ones fail; a service that wants the near ones first is content with those that are ready.
        near = wish is not None and wish.mode is BalancingMode.FAILOVER and bool(here.region)
        return Ranking(lambda one: _distance(None, here, one.locality), lambda _: None) if near else None
    if setting is not None and setting.failover_priority:
        labels = setting.failover_priority
        return Ranking(lambda one: _label_distance(labels, here, one), lambda _: None)
    return Ranking(lambda one: _distance(setting, here, one.locality), lambda _: None) if here.region else None


def closed_up(priorities: Iterable[int]) -> dict[int, int]:
    """Priorities without gaps, as Envoy wants them."""
    return {one: index for index, one in enumerate(sorted(set(priorities)))}


def _parts(place: Locality) -> tuple[str, str, str]:
    return (place.region, place.zone, place.subzone)


def _covers(pattern: str, place: Locality) -> bool:
    """`*`, `region/*`, `region/zone`, `region/zone/subzone`."""
    if pattern == "*":
        return True
    stated = pattern.removesuffix("/*").split("/")
    return tuple(stated) == _parts(place)[: len(stated)]


def _share(shares: Distribute | None, place: Locality) -> int:
    """Localities that the rule does not name get nothing."""
    return next((share for pattern, share in shares.to.items() if _covers(pattern, place)), 0) if shares is not None else 0


def _distance(setting: LocalityBalancing | None, here: Locality, there: Locality) -> int:
    """0: the same subzone, then zone, region; others, of which those that the region fails over to come first."""
    same = 0
    for one, two in zip(_parts(here), _parts(there), strict=True):
        if one != two:
            break
        same += 1
    if same:
        return 3 - same
    failover = next((one.to for one in setting.failover if one.source == here.region), None) if setting is not None else None
    return 3 if failover in {None, there.region} else 4


def _label_distance(labels: tuple[str, ...], here: Locality, endpoint: Endpoint) -> int:
    """How many of the labels are behind the first one in which the endpoint differs from the proxy."""
    own = dict(zip(_TOPOLOGY, _parts(here), strict=True))
    its = {**endpoint.labels, **dict(zip(_TOPOLOGY, _parts(endpoint.locality), strict=True))}
    for index, label in enumerate(labels):
        name, stated, value = label.partition("=")
        if its.get(name, "") != (value if stated else own.get(name, "")):
            return len(labels) - index
    return 0
