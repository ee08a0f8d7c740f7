"""What holds for one service, and in what order: what `meshctl describe` shows."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from control.analysis import extensions
from control.analysis.exposure import exposed
from control.analysis.limits import in_words
from control.analysis.words import calling_words, connection_words, route_words
from control.envoy.catalogue import CatalogService, Endpoint
from control.envoy.destinations.rules import holding_rules, policy
from control.envoy.filters import http_filters
from control.envoy.guarding import authentication_of, authorization_of, limits_of
from control.envoy.listeners.waypoint import layers
from control.envoy.naming import ClusterRef, Layer
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey
from control.envoy.routes import http_routes, rules_of
from control.envoy.routing.api_table import api_rules, ranked_routes
from control.envoy.routing.delegation import with_delegates
from control.envoy.world import World
from control.kinds import AuthorizationPolicy, DestinationRule, ObjectKey, VirtualService
from control.kinds.security import PolicyAction
from control.model.labels import workload_labels
from control.model.mesh import Mesh
from control.model.waypoint_store import Bound
from meshapi.workload import ServiceKey

_ORDER = (PolicyAction.CUSTOM, PolicyAction.DENY, PolicyAction.ALLOW, PolicyAction.AUDIT)


class Described(Struct, frozen=True):
    """A service. Each list is in the order in which it is looked at; `problems` are what rules ask for in vain."""

    service: str
    owner: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    endpoints: str
    mutual_tls: tuple[str, ...]
    waypoint: str
    gateways: str
    exposed: tuple[str, ...]
    tokens: tuple[str, ...]
    policies: tuple[str, ...]
    agent_policies: tuple[str, ...]
    limits: tuple[str, ...]
    extensions: tuple[str, ...]
    routing: tuple[str, ...]
    routes: tuple[str, ...]
    rules: tuple[str, ...]
    calling: tuple[str, ...]
    subsets: tuple[str, ...]
    problems: tuple[str, ...]


def describe(mesh: Mesh, world: World, name: str, namespace: str) -> tuple[Described, ...]:
    """Every service of a name: a host, or a name inside of `namespace`. Raises LookupError if there is none."""
    host = name if "." in name else mesh.settings.hostname(name, namespace or "default")
    keys = [key for key in world.services_named(host) if namespace in {"", key.partition("/")[0]}]
    if not keys:
        raise LookupError(f"there is no service {host}")
    return tuple(_describe(mesh, world, key, service) for key in keys if (service := world.service(key)) is not None)


def _describe(mesh: Mesh, world: World, key: ServiceKey, service: CatalogService) -> Described:
    endpoints = world.endpoints(key)
    bound = mesh.store.waypoints.of(service.owner)
    binding = bound.binding
    proxy = ProxyKey(binding.waypoint.key.namespace, binding.waypoint.key.name) if binding.waypoint is not None else None
    places = [Place(proxy, key, port.number) for port in service.ports] if proxy is not None else []
    held = {policy.key: policy for place in places for policy in world.ask(authorization_of, place)}
    tokens = {policy.key: policy for place in places for policy in world.ask(authentication_of, place)}
    limits = {item.key: item for place in places for item in world.ask(limits_of, place)}
    rules = [world.find(DestinationRule, one.namespace, one.name) for one in world.ask(holding_rules, proxy, key)] if proxy else []
    routing = tuple(dict.fromkeys(rule for place in places for rule in rules_of(world, place, service)))
    attached = tuple(dict.fromkeys(one for place in places for one in world.ask(api_rules, service.owner, place.port)))
    return Described(
        service=key,
        owner=str(service.owner),
        addresses=tuple(str(address) for address in service.addresses),
        ports=tuple(f"{port.number} {port.name or '-'} {port.protocol.name}" for port in service.ports),
        endpoints=_endpoints(endpoints),
        mutual_tls=tuple(_modes(mesh, endpoints)),
        waypoint=_waypoint(bound),
        gateways=_gateways(bound, service),
        exposed=tuple(exposed(world, service)),
        tokens=tuple(str(one) for one in tokens),
        policies=tuple(_ordered(held.values())),
        agent_policies=tuple(_of_agents(mesh, endpoints)),
        limits=tuple(in_words(limits.values())),
        extensions=tuple(extensions.in_words(world, places)),
        routing=tuple(_routing(routing, attached)),
        routes=tuple(f"{number}. {words}" for number, words in enumerate(_routes(world, routing, attached), 1)),
        rules=tuple(str(rule.key) for rule in rules if rule is not None),
        calling=tuple(_calling(world, places, service)),
        subsets=tuple(line for rule in rules if rule is not None for line in _subsets(rule, endpoints)),
        problems=tuple(_problems(world, service, places)),
    )


def _waypoint(bound: Bound) -> str:
    binding = bound.binding
    if binding.waypoint is not None:
        return f"{binding.waypoint.key.namespace}/{binding.waypoint.key.name}"
    closed = "no connection is taken for it: policies hold that only a waypoint enforces" if bound.guarded else ""
    why = "; ".join(part for part in (binding.message, closed) if part)
    return f"none: {why}" if why else "none"


def _gateways(bound: Bound, service: CatalogService) -> str:
    """How those come to a service who come from outside, and why."""
    if bound.guarded and (bound.binding.waypoint is None or not service.addresses):
        return "refused: policies hold for it that only a waypoint enforces, and there is none for them to go through"
    if bound.binding.waypoint is None:
        return "call it directly"
    if bound.guarded or bound.ingress:
        why = "policies hold for it that only the waypoint enforces" if bound.guarded else "istio.io/ingress-use-waypoint"
        return f"go through its waypoint: {why}" if service.addresses else "call it directly: it has no address of its own"
    return "go past its waypoint: istio.io/ingress-use-waypoint does not say true"


def _endpoints(endpoints: tuple[Endpoint, ...]) -> str:
    ready, tunnelled = (sum(flags) for flags in ([one.healthy for one in endpoints], [one.identity is not None for one in endpoints]))
    return f"{len(endpoints)}, {ready} of them ready, {tunnelled} in mutual TLS"


def _modes(mesh: Mesh, endpoints: tuple[Endpoint, ...]) -> Iterator[str]:
    """The modes that PeerAuthentication gives the workloads, each once."""
    found: dict[str, None] = {}
    for owner, labels in _workloads(mesh, endpoints):
        _, peer = mesh.store.policies.of_workload(owner.namespace, labels)
        found[str(peer.mode)] = None
    yield from found


def _of_agents(mesh: Mesh, endpoints: tuple[Endpoint, ...]) -> Iterator[str]:
    """The policies that the nodes of the workloads enforce, on connections."""
    found: dict[ObjectKey, AuthorizationPolicy] = {}
    for owner, labels in _workloads(mesh, endpoints):
        named, _ = mesh.store.policies.of_workload(owner.namespace, labels)
        for name in named:
            policy = mesh.store.find(AuthorizationPolicy, *name.split("/", 1))
            if policy is not None:
                found[policy.key] = policy
    yield from _ordered(found.values())


def _workloads(mesh: Mesh, endpoints: tuple[Endpoint, ...]) -> Iterator[tuple[ObjectKey, dict[str, str]]]:
    for endpoint in endpoints:
        found = mesh.address(endpoint.uid)
        if found is not None:
            yield found[1].key, dict(workload_labels(found[1]))


def _ordered(policies: Iterable[AuthorizationPolicy]) -> Iterator[str]:
    listed = list(policies)
    for action in _ORDER:
        for one in listed:
            if one.spec.action is action:
                yield f"{action} {one.metadata.namespace}/{one.metadata.name}"


def _routes(world: World, rules: tuple[ObjectKey, ...], routes: tuple[ObjectKey, ...]) -> Iterator[str]:
    """Each route in words, in the order in which they are tried: of the VirtualService that holds, else of the Gateway API's routes."""
    service = world.find(VirtualService, rules[0].namespace, rules[0].name) if rules else None
    if service is None:
        yield from (route_words(owned.route) for owned in ranked_routes(world, routes))
        return
    yield from (route_words(owned.route) for owned in with_delegates(world, service).routes)
    yield from (connection_words("tls", one.match, [(to.destination, to.weight) for to in one.route]) for one in service.spec.tls)
    yield from (connection_words("tcp", one.match, [(to.destination, to.weight) for to in one.route]) for one in service.spec.tcp)


def _routing(rules: tuple[ObjectKey, ...], routes: tuple[ObjectKey, ...]) -> Iterator[str]:
    for index, rule in enumerate((*rules, *routes)):
        outranked = bool(rules) and index > 0
        yield f"{rule}{' (has no effect: the first one holds)' if outranked else ''}"


def _calling(world: World, places: list[Place], service: CatalogService) -> Iterator[str]:
    """How its endpoints are called, port by port where they differ."""
    found: dict[str, list[int]] = {}
    for place in places:
        port = service.port(place.port)
        for layer in layers(port)[:1] if port is not None else ():
            held = world.ask(policy, place.proxy, ClusterRef(service.key, place.port, layer))
            if held.sources:
                found.setdefault(calling_words(held), []).append(place.port)
    for words, ports in found.items():
        yield words if len(ports) == len(places) else f"port {', '.join(map(str, ports))}: {words}"


def _subsets(rule: DestinationRule, endpoints: tuple[Endpoint, ...]) -> Iterator[str]:
    for subset in rule.spec.subsets:
        count = sum(subset.labels.items() <= endpoint.labels.items() for endpoint in endpoints)
        labels = ", ".join(f"{key}={value}" for key, value in sorted(subset.labels.items()))
        yield f"{subset.name} ({labels}): {count} endpoint{'' if count == 1 else 's'}"


def _problems(world: World, service: CatalogService, places: list[Place]) -> Iterator[str]:
    found: dict[str, None] = {}
    for place in places:
        port = service.port(place.port)
        if port is None or Layer.HTTP not in layers(port):
            continue
        table = world.ask(http_routes, place)
        told = table.routes.problems if table is not None else ()
        for problem in (*told, *world.ask(http_filters, place, "", ()).problems):
            found[f"{problem.object}: {problem.what}"] = None
    yield from found
