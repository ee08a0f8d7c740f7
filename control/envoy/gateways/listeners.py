"""The listeners of a gateway, one for each port: plaintext HTTP, TCP, or chains of TLS, told apart by the name that clients ask for."""

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from control.envoy.access_logs import request_logs
from control.envoy.built import Built, Problem, built
from control.envoy.filters import http_filters, network_filters
from control.envoy.gateways.callers import connection_filters, request_filters, route_settings
from control.envoy.gateways.connections import Way, ways
from control.envoy.gateways.hosts import virtual_hosts
from control.envoy.gateways.servers import ANY, Carries, Server, servers_of
from control.envoy.gateways.terms import downstream
from control.envoy.listeners.chains import logged
from control.envoy.listeners.requests import judges_paths, reading, without_ambiguity
from control.envoy.listeners.tunnel import HANDSHAKE_S
from control.envoy.logging_rules import logging_at
from control.envoy.messages import Message, new
from control.envoy.metric_rules import metrics_at
from control.envoy.naming import ClusterRef
from control.envoy.parts import ads, extension, socket_address
from control.envoy.patches.chains import patch_chain, patch_listener
from control.envoy.patches.routes import TableNames, patched_routes
from control.envoy.patches.spot import spot_at
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey, find_proxy
from control.envoy.reports import place_metadata
from control.envoy.routing.http_table import body_limit
from control.envoy.tracing import request_tracing
from control.envoy.tracing_rules import tracing_at
from control.envoy.world import World
from control.kinds import ObjectKey

MANAGER: Final = "filters.network.http_connection_manager.v3.HttpConnectionManager"
IDLE_S: Final = 3600
HEADERS_S: Final = 30
MAX_STREAMS: Final = 100
BUFFER: Final = 1 << 20


class Port(Struct, frozen=True):
    """The servers of one port that are served, and why others are not. `conflicts`: because of those that came first."""

    number: int
    servers: tuple[Server, ...]
    problems: tuple[Problem, ...] = ()
    conflicts: tuple[Problem, ...] = ()


class _Chain(Struct, frozen=True):
    message: Message
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


class _Chains(Struct, frozen=True):
    chains: tuple[_Chain, ...] = ()
    problems: tuple[Problem, ...] = ()
    conflicts: tuple[Problem, ...] = ()


class _Names:
    """The names that lead to a chain of a port already: a name leads to one."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self.conflicts: list[Problem] = []

    def take(self, server: Server, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those that are free; the others become conflicts."""
        free = tuple(dict.fromkeys(one for one in names if one not in self._taken))
        lost = [one for one in names if one in self._taken]
        self._taken.update((ANY,) if ANY in free else free)
        if lost:
            self.conflicts.append(Problem(server.owner, f"port {server.port}: another server has {', '.join(lost)[:200]} already"))
        return free


def ports_of(world: World, proxy: ProxyKey) -> tuple[Port, ...]:
    """The ports of a gateway. Plaintext HTTP, TCP and TLS do not mix at one: what came first holds."""
    found: dict[int, list[Server]] = {}
    problems: dict[int, list[Problem]] = {}
    conflicts: dict[int, list[Problem]] = {}
    for server in world.ask(servers_of, proxy):
        there = found.setdefault(server.port, [])
        if server.problem:
            problems.setdefault(server.port, []).append(Problem(server.owner, server.problem))
        elif there and (_family(there[0]) != _family(server) or server.carries is Carries.TCP):
            told = conflicts.setdefault(server.port, [])
            told.append(Problem(server.owner, f"port {server.port} is {there[0].gateway}'s already, as {there[0].carries}"))
        else:
            there.append(server)
    return tuple(
        Port(number, tuple(servers), tuple(problems.get(number, ())), tuple(conflicts.get(number, ())))
        for number, servers in sorted(found.items())
    )


def tables(port: Port) -> tuple[tuple[str, tuple[Server, ...]], ...]:
    """The tables of routes at a port by their names: one for all of plaintext HTTP, one for each server of HTTPS."""
    if port.servers and port.servers[0].carries is Carries.HTTP:
        return ((f"http.{port.number}", port.servers),)
    return tuple((_table_name(one), (one,)) for one in port.servers if one.carries is Carries.HTTPS)


def route_table(world: World, proxy: ProxyKey, name: str, servers: tuple[Server, ...]) -> Built:
    """One of them."""
    place = Place(proxy, None, servers[0].port)
    found = world.ask(virtual_hosts, proxy, servers)
    message = new(
        "envoy.config.route.v3.RouteConfiguration",
        name=name,
        virtual_hosts=list(found.hosts),
        ignore_port_in_host_matching=True,
        validate_clusters={"value": False},
        typed_per_filter_config=route_settings(world, servers[0].terms),
        **body_limit(tuple(route for host in found.hosts for route in host["routes"])),
    )
    owners = tuple(server.owner for server in servers)
    spoken = TableNames(tuple(server.name for server in servers), tuple(server.gateway for server in servers))
    routes = built(name, message, (*owners, *found.rules.sources), found.rules.problems)
    return without_ambiguity(world, place, patched_routes(world, spot_at(world, place), routes, spoken))


def port_clusters(world: World, proxy: ProxyKey, port: Port) -> tuple[ClusterRef, ...]:
    """The clusters that are named at a port."""
    refs = [ref for _, servers in tables(port) for ref in world.ask(virtual_hosts, proxy, servers).rules.clusters]
    carried = (one for one in port.servers if one.carries not in {Carries.HTTP, Carries.HTTPS})
    refs += [ref for server in carried for way in ways(world, proxy, server) for ref in way.clusters]
    return tuple(dict.fromkeys(refs))


def port_listener(world: World, proxy: ProxyKey, number: int, listen: tuple[str, ...]) -> Built | None:
    """The listener of a port; None where there is nothing to serve at it."""
    port = next((one for one in world.ask(ports_of, proxy) if one.number == number), None)
    chains = world.ask(_chains, proxy, port).chains if port is not None else ()
    if port is None or not chains:
        return None
    addresses = [_bound(one, number) for one in dict.fromkeys(one.bind for one in port.servers if one.bind)]
    addresses = addresses or [_bound(one, number) for one in listen or ("::",)]
    inspector = [extension("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")] if port.servers[0].told_by_name else []
    message = new(
        "envoy.config.listener.v3.Listener",
        name=listener_name(number),
        address=addresses[0],
        additional_addresses=[{"address": one} for one in addresses[1:]],
        listener_filters=inspector,
        filter_chains=[one.message for one in chains],
        traffic_direction="OUTBOUND",
        per_connection_buffer_limit_bytes={"value": BUFFER},
    )
    sources = (*(one.owner for one in port.servers), *(source for one in chains for source in one.sources))
    patched = patch_listener(world, spot_at(world, Place(proxy, None, number)), message)
    return built(message.name, patched.message, (*sources, *patched.sources), patched.problems)


def port_problems(world: World, proxy: ProxyKey) -> tuple[Problem, ...]:
    """What is asked of ports in vain, also of those that have no listener then."""
    ports = world.ask(ports_of, proxy)
    others = (one for port in ports for one in (*port.problems, *world.ask(_chains, proxy, port).problems))
    return (*others, *world.ask(port_conflicts, proxy))


def port_conflicts(world: World, proxy: ProxyKey) -> tuple[Problem, ...]:
    """Of that, what others have already."""
    ports = world.ask(ports_of, proxy)
    return tuple(one for port in ports for one in (*port.conflicts, *world.ask(_chains, proxy, port).conflicts))


def listener_name(number: int) -> str:
    return f"0.0.0.0_{number}"


def _family(server: Server) -> str:
    return "named" if server.told_by_name else server.carries


def _table_name(server: Server) -> str:
    return f"https.{server.port}.{server.name}.{server.owner.name}.{server.owner.namespace}"


def _bound(address: str, number: int) -> dict[str, Any]:
    found = socket_address(address, number)
    if address == "::":
        found["socket_address"]["ipv4_compat"] = True
    return found


# ---- chains


def _chains(world: World, proxy: ProxyKey, port: Port) -> _Chains:
    place = Place(proxy, None, port.number)
    told = (*world.ask(logging_at, place).problems, *world.ask(tracing_at, place).problems)
    if port.servers and port.servers[0].carries is Carries.HTTP:
        chain = _http_chain(world, place, f"http.{port.number}")
        return _Chains((chain,), (*told, *chain.problems))
    names, found, problems = _Names(), list[_Chain](), list[Problem](told)
    for server in port.servers:
        if server.carries is Carries.HTTPS:
            if free := names.take(server, tuple(claim.host for claim in server.claims)):
                found.append(_http_chain(world, place, _table_name(server), server, free))
            continue
        for way in ways(world, proxy, server):
            problems += way.problems
            found += _carrying(world, place, server, way, names)
    problems += [problem for one in found for problem in one.problems]
    return _Chains(tuple(found), tuple(problems), tuple(names.conflicts))


def _carrying(world: World, place: Place, server: Server, way: Way, names: _Names) -> list[_Chain]:
    parts = network_filters(world, place)
    callers = connection_filters(world, server.terms, requests=False)
    fields: dict[str, Any] = {}
    if server.told_by_name:
        stated = way.names if server.carries is Carries.PASSTHROUGH else tuple(claim.host for claim in server.claims)
        free = names.take(server, stated)
        if not free:
            return []
        fields["filter_chain_match"] = _match(free)
    if server.terms is not None:
        fields |= _ended(downstream(server.terms, world.settings, ()))
    # Of several ways of one server, each is told by its first name.
    which = f"{server.name}~{way.names[0]}" if server.carries is Carries.PASSTHROUGH else server.name
    name = f"{server.carries}.{server.port}.{which}.{server.owner.name}.{server.owner.namespace}"
    filters = [*callers, *parts.filters, logged(world, place, way.filter)]
    return [_chain(world, place, (*parts.sources, *way.sources), name=name, filters=filters, **fields)]


def _http_chain(world: World, place: Place, table: str, server: Server | None = None, names: tuple[str, ...] = ()) -> _Chain:
    parts, terms = http_filters(world, place, table, names), server.terms if server is not None else None
    manager = extension(
        "http",
        MANAGER,
        stat_prefix=table,
        rds={"config_source": ads(), "route_config_name": table},
        http_filters=[*request_filters(terms), *parts.filters],
        **request_logs(world, place),
        **request_tracing(world, place),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        # Whoever it is that connects is the client: what a request says of others before it counts for nothing.
        use_remote_address={"value": True},
        # No address is more trusted than others: what steers Envoy in headers (x-envoy-...) is taken from nobody.
        internal_address_config={},
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details={"subject": {"value": True}, "dns": True, "uri": True},
        common_http_protocol_options={"idle_timeout": {"seconds": IDLE_S}},
        request_headers_timeout={"seconds": HEADERS_S},
        stream_idle_timeout={},
        http2_protocol_options={"max_concurrent_streams": {"value": MAX_STREAMS}},
        server_header_transformation="PASS_THROUGH",
        **reading(strict=world.ask(judges_paths, place)),
    )
    callers = connection_filters(world, terms, requests=True)
    fields: dict[str, Any] = {}
    if terms is not None:
        fields |= _ended(downstream(terms, world.settings, ("h2", "http/1.1")))
        fields["filter_chain_match"] = _match(names)
    found = _chain(world, place, parts.sources, name=table, filters=[*callers, manager], **fields)
    return replace(found, problems=(*parts.problems, *found.problems))


def _chain(world: World, place: Place, sources: tuple[ObjectKey, ...], **fields: Any) -> _Chain:
    """With what is told of its traffic."""
    metrics, lines, traced = world.ask(metrics_at, place), world.ask(logging_at, place), world.ask(tracing_at, place)
    proxy = world.ask(find_proxy, place.proxy)
    about = place_metadata(own=proxy.identity, rules=metrics.text) if proxy is not None else {}
    message = new("envoy.config.listener.v3.FilterChain", metadata=about, **fields)
    patched = patch_chain(world, spot_at(world, place, message.name, tuple(message.filter_chain_match.server_names)), message)
    return _Chain(patched.message, (*sources, *metrics.sources, *lines.sources, *traced.sources, *patched.sources), patched.problems)


def _ended(transport: dict[str, Any]) -> dict[str, Any]:
    """TLS that is ended here, by a client that gets on with it."""
    return {"transport_socket": transport, "transport_socket_connect_timeout": {"seconds": HANDSHAKE_S}}


def _match(names: tuple[str, ...]) -> Message:
    """By server name; what asks for another name, or for none, meets no chain unless one takes all."""
    return new("envoy.config.listener.v3.FilterChainMatch", server_names=[] if ANY in names else list(names))
