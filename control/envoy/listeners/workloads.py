"""Chains for workloads that were dialled themselves, not by a service: to exactly the address that was dialled, as exactly who lives there.

There is one pair of chains (HTTP, TCP) for each identity. A chain writes the destination and the identity into the connection's state;
both are part of the key of the pools on the way, so that a connection to one workload is never used for another. Workloads that take
no tunnel are dialled in plaintext.
"""

from typing import Any, Final

from control.envoy.access_logs import connection_logs
from control.envoy.built import Built, built
from control.envoy.filters import network_filters
from control.envoy.listeners.chains import FILTER_CHAIN, Chain, by_first_bytes, choose, described, exactly, http_chain, patched, then
from control.envoy.listeners.requests import judges_paths, refusals
from control.envoy.listeners.tunnel import CLUSTER_MESSAGE, Destinations
from control.envoy.messages import new
from control.envoy.metric_rules import metrics_at
from control.envoy.naming import DIRECT, DIRECT_ORIGINATE, DIRECT_PLAIN
from control.envoy.parts import DESTINATION, IDENTITY_STATE, extension, http_options, internal_address, internal_upstream, shared_state
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey, find_proxy
from control.envoy.reports import place_metadata
from control.envoy.world import World
from meshapi.workload import NetworkMode, TunnelProtocol, Workload

PLAIN: Final = "plaintext"


def direct_workloads(world: World, proxy: ProxyKey) -> tuple[Workload, ...]:
    """The workloads bound to a waypoint that are dialled by an address of their own."""
    found = world.ask(find_proxy, proxy)
    if found is None or found.address is None:
        return ()
    return tuple(one for one in world.bound_workloads(found.address) if one.addresses and one.network_mode is NetworkMode.STANDARD)


def destinations(world: World, proxy: ProxyKey) -> tuple[Destinations, ...]:
    """What may be asked for by CONNECT: any port of these."""
    found = world.ask(direct_workloads, proxy)
    return tuple(Destinations(one.uid, one.addresses, tcp_ports(world, one), any_port=True) for one in found)


def tcp_ports(world: World, workload: Workload) -> tuple[int, ...]:
    """The ports of a workload of which all its services say that they carry no HTTP: nobody needs to wait for the first bytes there."""
    found: dict[int, bool] = {}
    for key, ports in workload.services.items():
        service = world.service(key)
        for port in ports:
            said = service.port(port.service) if service is not None else None
            found[port.target] = found.get(port.target, True) and said is not None and not said.http and not said.sniffed
    return tuple(sorted(port for port, is_tcp in found.items() if is_tcp))


def direct_chains(world: World, proxy: ProxyKey) -> tuple[Chain, ...]:
    """The chains of all identities."""
    identities = sorted({_identity(one) for one in world.ask(direct_workloads, proxy)})
    return tuple(chain for identity in identities for chain in world.ask(_chains_of, proxy, identity))


def direct_tcp_chains(world: World, proxy: ProxyKey) -> tuple[Chain, ...]:
    """The chains of those that have ports that say that they carry no HTTP."""
    found = (one for one in world.ask(direct_workloads, proxy) if tcp_ports(world, one))
    return tuple(world.ask(_chains_of, proxy, identity)[-1] for identity in sorted({_identity(one) for one in found}))


def tcp_matches(world: World, proxy: ProxyKey) -> dict[str, dict[str, Any]]:
    """By address and such a port, which chain."""
    found: dict[str, dict[str, Any]] = {}
    for one in world.ask(direct_workloads, proxy):
        if ports := tcp_ports(world, one):
            _, tcp = _names(_identity(one))
            by_port = then(exactly("DestinationPortInput", {str(port): choose(tcp) for port in ports}))
            found |= {str(address): by_port for address in one.addresses}
    return found


def matches(world: World, proxy: ProxyKey) -> dict[str, dict[str, Any]]:
    """By address, which chain."""
    return {str(address): _first_bytes(*_names(_identity(one))) for one in world.ask(direct_workloads, proxy) for address in one.addresses}


def direct_cluster(_world: World) -> Built:
    """To the listener that tunnels to what the connection's state says."""
    message = new(
        CLUSTER_MESSAGE,
        name=DIRECT,
        type="STATIC",
        load_assignment={"cluster_name": DIRECT, "endpoints": [{"lb_endpoints": [{"endpoint": _listener()}]}]},
        transport_socket=internal_upstream(),
        typed_extension_protocol_options=_protocol(),
    )
    return built(DIRECT, message)


def plaintext_cluster(_world: World) -> Built:
    """To the very address, without a tunnel."""
    message = new(
        CLUSTER_MESSAGE,
        name=DIRECT_PLAIN,
        type="ORIGINAL_DST",
        lb_policy="CLUSTER_PROVIDED",
        connect_timeout={"seconds": 5},
        cleanup_interval={"seconds": 60},
        typed_extension_protocol_options=_protocol(),
    )
    return built(DIRECT_PLAIN, message)


def _listener() -> dict[str, Any]:
    return {"address": internal_address(DIRECT_ORIGINATE)}


def _protocol() -> dict[str, Any]:
    return http_options(use_downstream_protocol_config={"http_protocol_options": {}, "http2_protocol_options": {}})


def _identity(workload: Workload) -> str:
    return str(workload.identity) if workload.tunnel_protocol is TunnelProtocol.HBONE else PLAIN


def _first_bytes(http: str, tcp: str) -> dict[str, Any]:
    return by_first_bytes(http, choose(tcp))


def _names(identity: str) -> tuple[str, str]:
    return f"direct-http|{identity}", f"direct-tcp|{identity}"


def _chains_of(world: World, proxy: ProxyKey, identity: str) -> tuple[Chain, ...]:
    place, cluster = Place(proxy), DIRECT_PLAIN if identity == PLAIN else DIRECT
    http, tcp = _names(identity)
    ahead = _state(identity)
    refused = refusals() if world.ask(judges_paths, place) else []
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": {"seconds": 0}}}
    hosts = [{"name": "direct", "domains": ["*"], "routes": [*refused, route]}]
    parts = world.ask(network_filters, place)
    fields = {"stat_prefix": tcp, "cluster": cluster, **connection_logs(world, place)}
    proxying = extension("tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", **fields)
    by_tcp = Chain(new(FILTER_CHAIN, name=tcp, filters=[*ahead, *parts.filters, proxying]), parts.sources)
    by_http = http_chain(world, place, http, {"route_config": {"name": "direct", "virtual_hosts": hosts}}, ahead)
    told = world.ask(metrics_at, place)
    metadata = place_metadata(expected="" if identity == PLAIN else identity, rules=told.text)
    return tuple(patched(world, place, described(one, metadata, told.sources)) for one in (by_http, by_tcp))


def _state(identity: str) -> tuple[dict[str, Any], ...]:
    """Where to, and who must be there."""
    if identity == PLAIN:
        return ()
    states = [shared_state(f"{DESTINATION}.local_ip", "%DOWNSTREAM_LOCAL_ADDRESS%"), shared_state(IDENTITY_STATE, identity)]
    return (extension("destination", "filters.network.set_filter_state.v3.Config", on_new_connection=states),)
