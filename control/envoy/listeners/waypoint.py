"""`main_internal`: what came through a tunnel, by the address and port that its client dialled, to the filter chain of that service."""

from typing import Any, Final

from msgspec import Struct

from control.envoy.built import Built, built
from control.envoy.catalogue import CatalogPort, CatalogService
from control.envoy.filters import http_filters, network_filters
from control.envoy.listeners.requests import judges_paths, reading
from control.envoy.listeners.tunnel import LISTENER_MESSAGE, MANAGER
from control.envoy.messages import Message, new, packed
from control.envoy.naming import INTERNAL, Layer, chain_name
from control.envoy.parts import ads, extension, original_destination
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey
from control.envoy.routes import tcp_target
from control.envoy.world import World
from control.kinds import ObjectKey
from meshapi.workload import ServiceKey

_INPUTS: Final = "matching.common_inputs.network.v3"
SNIFF_TIMEOUT_S: Final = 5
HTTP_VERSIONS: Final = ("http/1.0", "http/1.1", "h2c")


class Chain(Struct, frozen=True):
    """A filter chain, with what shaped it."""

    message: Message
    sources: tuple[ObjectKey, ...] = ()


def internal_listener(world: World, proxy: ProxyKey, services: tuple[ServiceKey, ...]) -> Built | None:
    """The chains of all services of the waypoint; None without any. What is none of them has no chain, and is closed."""
    chains: list[Chain] = []
    by_address: dict[str, Message] = {}
    sniffed: set[int] = set()
    for key in services:
        service = world.service(key)
        if service is None or not service.addresses:
            continue
        chains += world.ask(service_chains, proxy, key)
        by_port = _map("DestinationPortInput", {str(port.number): _port_match(service, port) for port in service.ports})
        sniffed |= {port.number for port in service.ports if port.sniffed}
        by_address |= {str(address): _then(by_port) for address in service.addresses}
    if not chains:
        # Envoy refuses a listener with nothing in it.
        return None
    message = new(
        LISTENER_MESSAGE,
        name=INTERNAL,
        internal_listener={},
        traffic_direction="INBOUND",
        listener_filters=_listener_filters(sniffed),
        # A client that says nothing first is no HTTP's.
        listener_filters_timeout={"seconds": SNIFF_TIMEOUT_S},
        continue_on_listener_filters_timeout=True,
        filter_chains=[chain.message for chain in chains],
    )
    message.filter_chain_matcher.CopyFrom(_map("DestinationIPInput", by_address))
    return built(INTERNAL, message, tuple(source for chain in chains for source in chain.sources))


def service_chains(world: World, proxy: ProxyKey, key: ServiceKey) -> tuple[Chain, ...]:
    """The chains of one service: of each port one for HTTP, one for TCP, or both where the first bytes tell."""
    service = world.service(key)
    found: list[Chain] = []
    for port in service.ports if service is not None else ():
        place = Place(proxy, key, port.number)
        if port.http or port.sniffed:
            found.append(world.ask(_http_chain, place))
        if not port.http and (chain := world.ask(_tcp_chain, place)) is not None:
            found.append(chain)
    return tuple(found)


def layers(port: CatalogPort) -> tuple[Layer, ...]:
    """What a port's connections may carry."""
    if port.sniffed:
        return (Layer.HTTP, Layer.TCP)
    return (Layer.HTTP,) if port.http else (Layer.TCP,)


def _http_chain(world: World, place: Place) -> Chain:
    parts = world.ask(http_filters, place)
    service = _service(place)
    name = chain_name(service, place.port, Layer.HTTP)
    manager = extension(
        "http",
        MANAGER,
        stat_prefix=name,
        rds={"config_source": ads(), "route_config_name": name},
        http_filters=list(parts.filters),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        stream_idle_timeout={},
        use_remote_address={"value": False},
        **reading(strict=world.ask(judges_paths, place)),
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,
    )
    return Chain(new("envoy.config.listener.v3.FilterChain", name=name, filters=[manager]), parts.sources)


def _tcp_chain(world: World, place: Place) -> Chain | None:
    parts, target = world.ask(network_filters, place), world.ask(tcp_target, place)
    if target is None:
        return None
    name = chain_name(_service(place), place.port, Layer.TCP)
    message = new("envoy.config.listener.v3.FilterChain", name=name, filters=[*parts.filters, target.filter])
    return Chain(message, (*parts.sources, *target.sources))


def _service(place: Place) -> ServiceKey:
    if place.service is None:
        raise ValueError("a chain of a service needs one")
    return place.service


def _port_match(service: CatalogService, port: CatalogPort) -> dict[str, Any]:
    http, tcp = (_chain(chain_name(service.key, port.number, layer)) for layer in Layer)
    if port.http:
        return http
    if not port.sniffed:
        return tcp
    return _then(_map("ApplicationProtocolInput", dict.fromkeys((f"'{version}'" for version in HTTP_VERSIONS), http), tcp))


def _chain(name: str) -> dict[str, Any]:
    return {"action": {"name": name, "typed_config": packed(new("google.protobuf.StringValue", value=name))}}


def _then(matcher: Message) -> dict[str, Any]:
    return {"matcher": matcher}


def _map(by: str, entries: dict[str, Any], otherwise: dict[str, Any] | None = None) -> Message:
    tree = {"input": extension(by, f"{_INPUTS}.{by}"), "exact_match_map": {"map": entries}}
    fields = {"matcher_tree": tree} | ({"on_no_match": otherwise} if otherwise else {})
    return new("xds.type.matcher.v3.Matcher", **fields)


def _listener_filters(sniffed: set[int]) -> list[dict[str, Any]]:
    """Only ports that do not say what they carry wait for the first bytes: where the server speaks first, that would be a delay."""
    if not sniffed:
        return [original_destination()]
    ports = [{"destination_port_range": {"start": port, "end": port + 1}} for port in sorted(sniffed)]
    anywhere = ports[0] if len(ports) == 1 else {"or_match": {"rules": ports}}
    inspector = extension("http_inspector", "filters.listener.http_inspector.v3.HttpInspector")
    return [original_destination(), inspector | {"filter_disabled": {"not_match": anywhere}}]
