"""A real Envoy with the routes and clusters that the controller makes for a waypoint, reached without tunnels.

Each service's port has a listener of its own on loopback, with the filters, routes and clusters as they are served; endpoints are exchanged
for servers of the test.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from control.envoy.catalogue import CatalogPort, CatalogService
from control.envoy.filters import http_filters
from control.envoy.limits.server import NOBODY
from control.envoy.listeners.requests import judges_paths, reading
from control.envoy.listeners.waypoint import _port_match
from control.envoy.messages import Message, new
from control.envoy.naming import SNIFFING
from control.envoy.parts import DESTINATION, PEER, SDS_CLUSTER, extension, shared_state
from control.envoy.place import Place
from control.envoy.routes import server_name_targets, tcp_target
from control.envoy.waypoint import waypoint_services
from tests.control.envoy.echo import Upstream
from tests.control.envoy.real_envoy import RealEnvoy, as_json, running
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service

MANAGER = "filters.network.http_connection_manager.v3.HttpConnectionManager"
HTTP_PORT = 80
PEER_ID = "spiffe://cluster.local/ns/team/sa/page"
"""Who every client is."""
CLIENTS = {"127.0.0.1": "10.9.0.1", "127.0.0.2": "10.9.0.2", "127.0.0.3": "10.9.0.3"}
"""At which address of the mesh it is, by the one that it really calls from."""


_NO_SECRETS = {
    "name": SDS_CLUSTER,
    "type": "STATIC",
    "load_assignment": {
        "cluster_name": SDS_CLUSTER,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/nowhere"}}}}]}],
    },
}


class Answer:
    """What came back: of an echo also what had arrived there."""

    def __init__(self, response: http.client.HTTPResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        self.body = body

    @property
    def echo(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def upstream(self) -> str:
        return str(self.echo["upstream"]) if self.status == 200 else ""


class Routed:
    """Requests to services by their names."""

    def __init__(self, envoy: RealEnvoy, served: Served, upstreams: Mapping[str, Upstream], tell: Callable[[str], None]) -> None:
        self.envoy = envoy
        self.served = served
        self.upstreams = upstreams
        self.tell = tell
        """Has Envoy take the endpoints of a service that is among `moving` as they are served now."""

    def ask(
        self, name: str, path: str = "/", *, method: str = "GET", host: str = "", body: str = "", source: str = "", **headers: str
    ) -> Answer:
        """`headers` with underscores for their dashes; `source`: one of CLIENTS."""
        connection = http.client.HTTPConnection("127.0.0.1", self.envoy.ports[name], timeout=20, source_address=(source, 0))
        try:
            fields = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body=body or None, headers={"host": host or f"{name}.shop", **fields})
            response = connection.getresponse()
            return Answer(response, response.read())
        finally:
            connection.close()

    def counted(self, name: str, times: int, path: str = "/", **headers: str) -> dict[str, int]:
        """How many of several requests each server answered, or with which status none did."""
        found: dict[str, int] = {}
        for _ in range(times):
            answer = self.ask(name, path, **headers)
            key = answer.upstream or str(answer.status)
            found[key] = found.get(key, 0) + 1
        return found


def until(done: Callable[[], bool]) -> None:
    """Polls, for a while."""
    deadline_s = time.monotonic() + 15
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def echo_pods(addresses: Mapping[str, str]) -> str:
    """Pods outside of the mesh, one for each version."""
    return "\n---\n".join(
        pod(f"echo-{version}", "echo", address, mesh="none").replace("version: v1", f"version: {version}")
        for version, address in addresses.items()
    )


def echo_service(name: str, number: int, ports: str = "[{name: http, port: 80, targetPort: 8080}]") -> str:
    """A service of all echo pods."""
    return service(name, f"10.96.{number // 250}.{number % 250 + 1}", ports).replace(f"selector: {{app: {name}}}", "selector: {app: echo}")


@contextmanager
def routed(
    directory: Path,
    served: Served,
    addresses: Mapping[str, Upstream],
    secrets: Sequence[dict[str, Any]] = (),
    dns_port: int = 0,
    moving: Sequence[str] = (),
    hosts: Mapping[str, str] | None = None,
) -> Iterator[Routed]:
    """`addresses`: which server stands for the endpoint with an address; `secrets`: Envoy's, by the names that SDS has them.

    `dns_port`: where on loopback names are looked up; `moving`: services whose endpoints will change.
    `hosts`: addresses of hosts that are called beside the services.
    """

    known = {one["name"] for one in secrets}

    def adapted(message: Message) -> dict[str, Any]:
        return dict(json.loads(json.dumps(as_json(message)), object_hook=lambda part: _looked_up(_static_secret(part, known), dns_port)))

    ports = {address: one.port for address, one in addresses.items()}
    files = {f"inbound-vip|{HTTP_PORT}|http|{name}.shop.svc.cluster.local": directory / f"{name}.endpoints.json" for name in moving}

    def tell(short: str) -> None:
        (name,) = (one for one in files if one.endswith(f"|{short}.shop.svc.cluster.local"))
        _write_endpoints(files[name], _placed(served.of(ENDPOINTS)[name], ports))

    for short in moving:
        tell(short)
    names = [name for name in served.of(CLUSTER) if name.startswith(("inbound-vip", "outbound|")) or name == NOBODY]
    clusters = [_cluster(served, name, ports, files.get(name)) for name in names]
    clusters += [found for one in served.of(CLUSTER).values() if (found := _found(one, hosts or {})) is not None]
    listeners = [_http_listener(served, name, routes) for name, routes in served.of(ROUTES).items() if name.startswith("inbound-vip")]
    listeners += _tcp_listeners(served)
    found = [*(adapted(one) for one in clusters), _NO_SECRETS]
    node = {"id": "test", "cluster": "test"}
    with running(directory, [adapted(one) for one in listeners], found, secrets=secrets, node=node) as envoy:
        yield Routed(envoy, served, {one.name: one for one in addresses.values()}, tell)


def _static_secret(part: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """A secret that would come by SDS, from the file; one that is not there is asked for in vain."""
    return {"name": part["name"]} if part.keys() == {"name", "sds_config"} and part["name"] in known else part


def _looked_up(part: dict[str, Any], dns_port: int) -> dict[str, Any]:
    """Asks the test's own server for names."""
    if dns_port and "dns_lookup_family" in part:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": dns_port, "protocol": "UDP"}}
        config = {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [address],
            "dns_resolver_options": {"no_default_search_domain": True},
        }
        part["typed_dns_resolver_config"] = {"name": "envoy.network.dns_resolver.cares", "typed_config": config}
    return part


def _cluster(served: Served, name: str, ports: Mapping[str, int], file: Path | None) -> Message:
    cluster = served.of(CLUSTER)[name]
    changed = type(cluster).FromString(cluster.SerializeToString())
    if file is not None:
        changed.eds_cluster_config.eds_config.CopyFrom(new("envoy.config.core.v3.ConfigSource", path_config_source={"path": str(file)}))
    elif changed.HasField("eds_cluster_config"):
        changed.load_assignment.CopyFrom(served.of(ENDPOINTS)[changed.eds_cluster_config.service_name])
        changed.ClearField("eds_cluster_config")
        changed.type = changed.DiscoveryType.Value("STATIC")
    if changed.HasField("load_assignment"):
        changed.load_assignment.CopyFrom(_placed(changed.load_assignment, ports))
    return changed


def _placed(assignment: Message, ports: Mapping[str, int]) -> Message:
    """With the servers of the test for the endpoints' addresses."""
    changed = type(assignment).FromString(assignment.SerializeToString())
    for place in changed.endpoints:
        for one in place.lb_endpoints:
            socket = one.endpoint.address.socket_address
            if socket.address in ports:
                socket.address, socket.port_value = "127.0.0.1", ports[socket.address]
    return changed


def _write_endpoints(file: Path, assignment: Message) -> None:
    """Envoy watches for files that are moved to the place."""
    resource = {"@type": f"type.googleapis.com/{assignment.DESCRIPTOR.full_name}", **as_json(assignment)}
    file.with_suffix(".new").write_text(json.dumps({"resources": [resource]}))
    file.with_suffix(".new").replace(file)


def _found(cluster: Message, hosts: Mapping[str, str]) -> Message | None:
    """A cluster of one of these hosts, at its address."""
    changed = type(cluster).FromString(cluster.SerializeToString())
    changed.type = changed.DiscoveryType.Value("STATIC")
    sockets = [one.endpoint.address.socket_address for place in changed.load_assignment.endpoints for one in place.lb_endpoints]
    if not sockets or any(socket.address not in hosts for socket in sockets):
        return None
    for socket in sockets:
        socket.address = hosts[socket.address]
    return changed


def _http_listener(served: Served, name: str, routes: Message) -> Message:
    _, port, _, hostname = name.split("|")
    place = Place(WAYPOINT, f"shop/{hostname}", int(port))
    short = hostname.partition(".")[0]
    manager = extension(
        "http",
        MANAGER,
        stat_prefix=name,
        route_config=routes,
        http_filters=list(http_filters(served.world, place).filters),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        **reading(strict=judges_paths(served.world, place)),
    )
    return _listener(short if int(port) == HTTP_PORT else f"{short}:{port}", manager)


def _tcp_listeners(served: Served) -> list[Message]:
    found = []
    for key in waypoint_services(served.world, WAYPOINT):
        service = served.world.service(key)
        for port in service.ports if service is not None else ():
            name = f"{key.partition('/')[2].partition('.')[0]}:{port.number}"
            target = tcp_target(served.world, Place(WAYPOINT, key, port.number))
            if not port.http and target is not None:
                found.append(_listener(f"{name}/tcp", target.filter))
            if not port.http and server_name_targets(served.world, Place(WAYPOINT, key, port.number)):
                found.append(_named_listener(served, service, port, f"{name}/tls"))
    return found


def _named_listener(served: Served, service: CatalogService, port: CatalogPort, name: str) -> Message:
    """The chains of one port as the waypoint's listener has them, and how it chooses among them."""
    (main,) = (one for one in served.of(LISTENER).values() if one.name == SNIFFING)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    inspector = extension("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")
    chains = [one for one in main.filter_chains if one.name.startswith(f"inbound-vip|{port.number}|tcp|{service.hostname}")]
    matcher = _port_match(served.world, WAYPOINT, service, port)["matcher"]
    return new(
        "envoy.config.listener.v3.Listener",
        name=name,
        address=address,
        listener_filters=[inspector],
        filter_chains=chains,
        filter_chain_matcher=matcher,
    )


def _listener(name: str, manager: Any) -> Message:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chains = []
    for source, inside in CLIENTS.items():
        # As the tunnel leaves it there.
        states = [shared_state(PEER, PEER_ID, "envoy.string"), shared_state(f"{DESTINATION}.remote_ip", f"{inside}:40000")]
        client = extension("client", "filters.network.set_filter_state.v3.Config", on_new_connection=states)
        ranges = [{"address_prefix": source, "prefix_len": {"value": 32}}]
        chains.append({"name": source, "filter_chain_match": {"source_prefix_ranges": ranges}, "filters": [client, manager]})
    return new("envoy.config.listener.v3.Listener", name=name, address=address, filter_chains=chains)
