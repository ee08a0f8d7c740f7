"""`main_internal` and its twin that sniffs: by the address and port that the client of a tunnel dialled, to the chain of that service."""

from typing import Any, Final

from control.envoy.built import Built, built
from control.envoy.catalogue import CatalogPort, CatalogService
from control.envoy.filters import network_filters
from control.envoy.listeners.chains import (
    FILTER_CHAIN,
    Chain,
    by_first_bytes,
    by_server_name,
    choose,
    described,
    exactly,
    http_chain,
    logged,
    patched,
    then,
)
from control.envoy.listeners.tunnel import LISTENER_MESSAGE
from control.envoy.listeners.workloads import direct_chains, direct_tcp_chains, matches, tcp_matches
from control.envoy.logging_rules import logging_at
from control.envoy.messages import new
from control.envoy.metric_rules import metrics_at
from control.envoy.naming import INTERNAL, SNIFFING, Layer, chain_name
from control.envoy.parts import ads, extension, original_destination
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey
from control.envoy.reports import place_metadata
from control.envoy.routes import TCPTarget, server_name_targets, tcp_target
from control.envoy.security import table_name
from control.envoy.world import World
from meshapi.workload import ServiceKey

SNIFF_TIMEOUT_S: Final = 2
"""How long the first bytes are waited for: what says nothing until then is TCP, and would be taken for it if it were HTTP."""


def internal_listener(world: World, proxy: ProxyKey, services: tuple[ServiceKey, ...], *, sniffing: bool) -> Built | None:
    """The chains of services and workloads; None without any. What is none of them has no chain, and is closed.

    There are two such listeners. Waiting for the first bytes is a delay where the server speaks first, so only ports whose chain depends
    on them are `sniffing`'s, and those of workloads, which take any port, unless their services say that it is TCP's. It can't be a matter
    of the port within one listener: a listener that changes in anything but its chains drains all of its connections.
    """
    chains = list(world.ask(direct_chains if sniffing else direct_tcp_chains, proxy))
    by_address = dict(world.ask(matches if sniffing else tcp_matches, proxy))
    for key in services:
        service = world.service(key)
        ports = [port for port in service.ports if world.ask(waits, Place(proxy, key, port.number)) is sniffing] if service else []
        if service is None or not service.addresses or not ports:
            continue
        for port in ports:
            chains += world.ask(port_chains, Place(proxy, key, port.number))
        by_port = exactly("DestinationPortInput", {str(port.number): _port_match(world, proxy, service, port) for port in ports})
        by_address |= {str(address): then(by_port) for address in service.addresses}
    if not chains:
        # Envoy refuses a listener with nothing in it.
        return None
    name = SNIFFING if sniffing else INTERNAL
    message = new(
        LISTENER_MESSAGE,
        name=name,
        internal_listener={},
        traffic_direction="INBOUND",
        listener_filters=[original_destination(), *(_inspectors() if sniffing else ())],
        # A client that says nothing first is no HTTP's.
        listener_filters_timeout={"seconds": SNIFF_TIMEOUT_S},
        continue_on_listener_filters_timeout=True,
        filter_chains=[chain.message for chain in chains],
    )
    message.filter_chain_matcher.CopyFrom(exactly("DestinationIPInput", by_address))
    sources = tuple(source for chain in chains for source in chain.sources)
    return built(name, message, sources, tuple(problem for chain in chains for problem in chain.problems))


def waits(world: World, place: Place) -> bool:
    """Whether the first bytes decide which chain takes a connection to a port."""
    port = _port(world, place)
    return port is not None and (port.sniffed or (not port.http and bool(world.ask(server_name_targets, place))))


def port_chains(world: World, place: Place) -> tuple[Chain, ...]:
    """The chains of one port of a service: one for HTTP, one for TCP, or both where the first bytes tell."""
    service, port = world.service(_service(place)), _port(world, place)
    found: list[Chain] = []
    if port is not None and (port.http or port.sniffed):
        found.append(world.ask(_http_chain, place))
    if port is not None and not port.http and (chain := world.ask(_tcp_chain, place)) is not None:
        found += [*world.ask(_named_chains, place), chain]
    told = world.ask(metrics_at, place)
    if service is None:
        return ()
    metadata = place_metadata(service, rules=told.text)
    return tuple(patched(world, place, described(one, metadata, told.sources)) for one in found)


def _port(world: World, place: Place) -> CatalogPort | None:
    service = world.service(_service(place))
    return service.port(place.port) if service is not None else None


def layers(port: CatalogPort) -> tuple[Layer, ...]:
    """What a port's connections may carry."""
    if port.sniffed:
        return (Layer.HTTP, Layer.TCP)
    return (Layer.HTTP,) if port.http else (Layer.TCP,)


def _http_chain(world: World, place: Place) -> Chain:
    name = chain_name(_service(place), place.port, Layer.HTTP)
    return http_chain(world, place, name, {"rds": {"config_source": ads(), "route_config_name": world.ask(table_name, place)}})


def _tcp_chain(world: World, place: Place) -> Chain | None:
    target = world.ask(tcp_target, place)
    return _carrying(world, place, target, chain_name(_service(place), place.port, Layer.TCP)) if target is not None else None


def _named_chains(world: World, place: Place) -> tuple[Chain, ...]:
    """The chains of TLS connections that are told apart by the name that they ask for."""
    targets = world.ask(server_name_targets, place)
    return tuple(_carrying(world, place, one, _named(_service(place), place.port, index)) for index, one in enumerate(targets))


def _carrying(world: World, place: Place, target: TCPTarget, name: str) -> Chain:
    parts, told = world.ask(network_filters, place), world.ask(logging_at, place)
    message = new(FILTER_CHAIN, name=name, filters=[*parts.filters, logged(world, place, target.filter)])
    return Chain(message, (*parts.sources, *target.sources, *told.sources), (*target.problems, *told.problems))


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


def _inspectors() -> tuple[dict[str, Any], ...]:
    """What reads the first bytes: of HTTP, and of TLS for the name that is asked for."""
    return (
        extension("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector"),
        extension("http_inspector", "filters.listener.http_inspector.v3.HttpInspector"),
    )
