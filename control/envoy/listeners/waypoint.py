"""`main_internal`: what came through a tunnel, by the address and port that its client dialled, to the filter chain of that service."""

from typing import Any, Final

from control.envoy.built import Built, built
from control.envoy.catalogue import CatalogPort, CatalogService
from control.envoy.filters import network_filters
from control.envoy.listeners.chains import Chain, by_first_bytes, by_server_name, choose, exactly, http_chain, then
from control.envoy.listeners.tunnel import LISTENER_MESSAGE
from control.envoy.listeners.workloads import direct_chains, matches
from control.envoy.messages import new
from control.envoy.naming import INTERNAL, Layer, chain_name
from control.envoy.parts import ads, extension, original_destination
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey
from control.envoy.routes import TCPTarget, server_name_targets, tcp_target
from control.envoy.world import World
from meshapi.workload import ServiceKey

SNIFF_TIMEOUT_S: Final = 5


def internal_listener(world: World, proxy: ProxyKey, services: tuple[ServiceKey, ...]) -> Built | None:
    """The chains of all services and workloads of the waypoint; None without any. What is none of them has no chain, and is closed."""
    chains = list(world.ask(direct_chains, proxy))
    by_address = dict(world.ask(matches, proxy))
    anywhere = bool(by_address)
    ports: list[CatalogPort] = []
    named: set[int] = set()
    for key in services:
        service = world.service(key)
        if service is None or not service.addresses:
            continue
        chains += world.ask(service_chains, proxy, key)
        by_port = exactly("DestinationPortInput", {str(port.number): _port_match(world, proxy, service, port) for port in service.ports})
        named |= {port.number for port in service.ports if not port.http and world.ask(server_name_targets, Place(proxy, key, port.number))}
        ports += service.ports
        by_address |= {str(address): then(by_port) for address in service.addresses}
    if not chains:
        # Envoy refuses a listener with nothing in it.
        return None
    sniffed, spoken = {port.number for port in ports if port.sniffed}, {port.number for port in ports if not port.sniffed and not port.http}
    message = new(
        LISTENER_MESSAGE,
        name=INTERNAL,
        internal_listener={},
        traffic_direction="INBOUND",
        listener_filters=[*_listener_filters(sniffed, spoken, anywhere=anywhere), *_tls_inspector(named)],
        # A client that says nothing first is no HTTP's.
        listener_filters_timeout={"seconds": SNIFF_TIMEOUT_S},
        continue_on_listener_filters_timeout=True,
        filter_chains=[chain.message for chain in chains],
    )
    message.filter_chain_matcher.CopyFrom(exactly("DestinationIPInput", by_address))
    sources = tuple(source for chain in chains for source in chain.sources)
    return built(INTERNAL, message, sources, tuple(problem for chain in chains for problem in chain.problems))


def service_chains(world: World, proxy: ProxyKey, key: ServiceKey) -> tuple[Chain, ...]:
    """The chains of one service: of each port one for HTTP, one for TCP, or both where the first bytes tell."""
    service = world.service(key)
    found: list[Chain] = []
    for port in service.ports if service is not None else ():
        place = Place(proxy, key, port.number)
        if port.http or port.sniffed:
            found.append(world.ask(_http_chain, place))
        if not port.http and (chain := world.ask(_tcp_chain, place)) is not None:
            found += [*world.ask(_named_chains, place), chain]
    return tuple(found)


def layers(port: CatalogPort) -> tuple[Layer, ...]:
    """What a port's connections may carry."""
    if port.sniffed:
        return (Layer.HTTP, Layer.TCP)
    return (Layer.HTTP,) if port.http else (Layer.TCP,)


def _http_chain(world: World, place: Place) -> Chain:
    name = chain_name(_service(place), place.port, Layer.HTTP)
    return http_chain(world, place, name, {"rds": {"config_source": ads(), "route_config_name": name}})


def _tcp_chain(world: World, place: Place) -> Chain | None:
    target = world.ask(tcp_target, place)
    return _carrying(world, place, target, chain_name(_service(place), place.port, Layer.TCP)) if target is not None else None


def _named_chains(world: World, place: Place) -> tuple[Chain, ...]:
    """The chains of TLS connections that are told apart by the name that they ask for."""
    targets = world.ask(server_name_targets, place)
    return tuple(_carrying(world, place, one, _named(_service(place), place.port, index)) for index, one in enumerate(targets))


def _carrying(world: World, place: Place, target: TCPTarget, name: str) -> Chain:
    parts = world.ask(network_filters, place)
    message = new("envoy.config.listener.v3.FilterChain", name=name, filters=[*parts.filters, target.filter])
    return Chain(message, (*parts.sources, *target.sources), target.problems)


def _named(service: ServiceKey, port: int, index: int) -> str:
    return f"{chain_name(service, port, Layer.TCP)}~{index}"


def _service(place: Place) -> ServiceKey:
    if place.service is None:
        raise ValueError("a chain of a service needs one")
    return place.service


def _port_match(world: World, proxy: ProxyKey, service: CatalogService, port: CatalogPort) -> dict[str, Any]:
    http, tcp = (chain_name(service.key, port.number, layer) for layer in Layer)
    if port.http:
        return choose(http)
    targets = world.ask(server_name_targets, Place(proxy, service.key, port.number))
    by_name = [(one.server_names, _named(service.key, port.number, index)) for index, one in enumerate(targets)]
    otherwise = by_server_name(by_name, tcp) if by_name else choose(tcp)
    return by_first_bytes(http, otherwise) if port.sniffed else otherwise


def _listener_filters(sniffed: set[int], spoken: set[int], *, anywhere: bool) -> list[dict[str, Any]]:
    """Only ports that do not say what they carry wait for the first bytes: where the server speaks first, that would be a delay.

    Workloads take any port (`anywhere`); of theirs, too, those do not wait that say of a service what they carry.
    """
    if not sniffed and not anywhere:
        return [original_destination()]
    inspector = extension("http_inspector", "filters.listener.http_inspector.v3.HttpInspector")
    silent = {"not_match": _any_of(sniffed)} if not anywhere else _any_of(spoken - sniffed) if spoken - sniffed else None
    return [original_destination(), inspector | ({"filter_disabled": silent} if silent is not None else {})]


def _tls_inspector(named: set[int]) -> list[dict[str, Any]]:
    """Reads what name is asked for, at the ports where that matters."""
    inspector = extension("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")
    return [inspector | {"filter_disabled": {"not_match": _any_of(named)}}] if named else []


def _any_of(ports: set[int]) -> dict[str, Any]:
    rules = [{"destination_port_range": {"start": port, "end": port + 1}} for port in sorted(ports)]
    return rules[0] if len(rules) == 1 else {"or_match": {"rules": rules}}
