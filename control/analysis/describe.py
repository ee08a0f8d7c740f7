"""What holds for one service, and in what order: what `meshctl describe` shows."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from control.analysis.limits import in_words
from control.envoy.catalogue import CatalogService, Endpoint
from control.envoy.destinations.rules import holding_rules
from control.envoy.guarding import authentication_of, authorization_of, limits_of
from control.envoy.listeners.waypoint import layers
from control.envoy.naming import Layer
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey
from control.envoy.routes import http_routes, rules_of
from control.envoy.routing.delegation import with_delegates
from control.envoy.world import World
from control.kinds import AuthorizationPolicy, DestinationRule, ObjectKey, VirtualService
from control.kinds.routing import Destination, HTTPMatch, HTTPRoute, StringMatch
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
    tokens: tuple[str, ...]
    policies: tuple[str, ...]
    agent_policies: tuple[str, ...]
    limits: tuple[str, ...]
    routing: tuple[str, ...]
    routes: tuple[str, ...]
    rules: tuple[str, ...]
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
    routing = dict.fromkeys(rule for place in places for rule in rules_of(world, place, service))
    return Described(
        service=key,
        owner=str(service.owner),
        addresses=tuple(str(address) for address in service.addresses),
        ports=tuple(f"{port.number} {port.name or '-'} {port.protocol.name}" for port in service.ports),
        endpoints=_endpoints(endpoints),
        mutual_tls=tuple(_modes(mesh, endpoints)),
        waypoint=f"{proxy}" if proxy is not None else f"none: {binding.message}" if binding.message else "none",
        gateways=_gateways(bound, service),
        tokens=tuple(str(one) for one in tokens),
        policies=tuple(_ordered(held.values())),
        agent_policies=tuple(_of_agents(mesh, endpoints)),
        limits=tuple(in_words(limits.values())),
        routing=tuple(f"{rule}{'' if index == 0 else ' (has no effect: the first one holds)'}" for index, rule in enumerate(routing)),
        routes=tuple(_routes(world, next(iter(routing), None))),
        rules=tuple(str(rule.key) for rule in rules if rule is not None),
        subsets=tuple(line for rule in rules if rule is not None for line in _subsets(rule, endpoints)),
        problems=tuple(_problems(world, service, places)),
    )


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
        for policy in listed:
            if policy.spec.action is action:
                yield f"{action} {policy.metadata.namespace}/{policy.metadata.name}"


def _routes(world: World, key: ObjectKey | None) -> Iterator[str]:
    """Each route in words, in the order in which they are tried."""
    service = world.find(VirtualService, key.namespace, key.name) if key is not None else None
    if service is None:
        return
    for owned in with_delegates(world, service).routes:
        conditions = " or ".join(_match(match) for match in owned.route.match) or "anything"
        yield f"{conditions} -> {_action(owned.route)}"
    for name, routes in (("tls", service.spec.tls), ("tcp", service.spec.tcp)):
        for route in routes:
            yield f"{name} -> {', '.join(_destination(one.destination) for one in route.route)}"


def _match(match: HTTPMatch) -> str:
    parts = [f"{name} {_text(value)}" for name in ("uri", "method", "authority", "scheme") if (value := getattr(match, name)) is not None]
    parts += [f"header {name} {_text(value)}" for name, value in match.headers.items()]
    parts += [f"no header {name} {_text(value)}" for name, value in match.without_headers.items()]
    parts += [f"query {name} {_text(value)}" for name, value in match.query_params.items()]
    parts += [f"port {match.port}"] if match.port else []
    parts += [f"from {key}={value}" for key, value in match.source_labels.items()]
    return " and ".join(parts) or "anything"


def _text(match: StringMatch) -> str:
    return " ".join(f"{name} {getattr(match, name)}" for name in match.stated) or "present"


def _action(route: HTTPRoute) -> str:
    if route.redirect is not None:
        return f"redirect to {route.redirect.authority}{route.redirect.uri}"
    if route.direct_response is not None:
        return f"answer {route.direct_response.status}"
    shares = sum(one.weight for one in route.route)
    words = []
    for one in route.route:
        share = f" {100 * one.weight // shares}%" if len(route.route) > 1 and shares else ""
        words.append(f"{_destination(one.destination)}{share}")
    extras = [name for name in ("fault", "timeout", "retries", "rewrite", "mirror") if getattr(route, name)]
    return ", ".join(words) + (f" (with {', '.join(extras)})" if extras else "")


def _destination(destination: Destination) -> str:
    port = f":{destination.port.number}" if destination.port is not None else ""
    return f"{destination.host}{port}" + (f" subset {destination.subset}" if destination.subset else "")


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
        for problem in table.routes.problems if table is not None else ():
            found[f"{problem.object}: {problem.what}"] = None
    yield from found
