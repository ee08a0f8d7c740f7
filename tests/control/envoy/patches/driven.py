"""A real Envoy that is configured by the controller's own streams, with a way in that needs no tunnel: as the tunnel would leave it."""

import asyncio
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import randbelow

from control.ca.callers import Credentials, ProxyRunner
from control.envoy.messages import new
from control.envoy.parts import DESTINATION, SDS_CLUSTER, extension, http_options, internal_address, internal_upstream, shared_state
from control.metrics import Metrics
from control.rpc import END_OF_STREAM, aio, grpc
from control.waypoint.bootstrap import ADS_CLUSTER
from control.waypoint.local import SDS_METHOD, SDS_SERVICE
from control.waypoint.secrets import Held, SecretStream
from control.xds.hub import Hub
from control.xds.proxies import Proxies
from meshapi import discovery
from tests.control.envoy.authority import Authority
from tests.control.envoy.real_envoy import RealEnvoy, as_json, running
from tests.control.model.builders import Config

SERVICE, METHOD = discovery.DELTA_METHOD.lstrip("/").split("/")
ENTRY = "entry"


class Driven:
    """The Envoy, what it is configured from, and requests to the service at `10.96.0.1:80`."""

    def __init__(self, config: Config, hub: Hub, envoy: RealEnvoy) -> None:
        self.config = config
        self.hub = hub
        self._envoy = envoy

    async def ask(self, path: str = "/") -> http.client.HTTPResponse | None:
        """None where there is nothing to answer yet."""
        return await asyncio.to_thread(self._ask, path)

    def _ask(self, path: str) -> http.client.HTTPResponse | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._envoy.ports[ENTRY], timeout=20)
        try:
            connection.request("GET", path, headers={"host": "cart"})
            response = connection.getresponse()
            response.read()
        except (http.client.HTTPException, OSError):
            return None
        finally:
            connection.close()
        return response

    async def until(self, status: int, path: str = "/", **headers: str) -> None:
        """Asks until an answer is so."""
        async with asyncio.timeout(20):
            while True:
                found = await self.ask(path)
                wanted = {key.replace("_", "-"): value for key, value in headers.items()}
                if found is not None and found.status == status and all(found.headers.get(key) == value for key, value in wanted.items()):
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def driven(directory: Path, config: Config, gateway: str = "waypoint") -> AsyncIterator[Driven]:
    """Until the end of the block."""
    hub = Hub({}, Metrics(), lambda: asyncio.get_running_loop().time(), Proxies(config.mesh))
    server = aio.server()
    server.add_generic_rpc_handlers((_handler(hub, gateway), _secrets(_held(directory))))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # The Envoy waits for its configuration, and so must not be waited for in the thread that serves it.
    envoy = running(directory, [_entry()], [_local(ADS_CLUSTER, port), _local(SDS_CLUSTER, port), _internal()], **_bootstrap())
    try:
        made = await asyncio.to_thread(envoy.__enter__)
        try:
            yield Driven(config, hub, made)
        finally:
            await asyncio.to_thread(envoy.__exit__, None, None, None)
    finally:
        hub.close()
        await server.stop(1)


def _handler(hub: Hub, gateway: str):
    async def serve(_requests, context) -> None:
        connection = hub.open(ProxyRunner("shop", gateway, 0, 2**40), Credentials("test"))

        async def write() -> None:
            while True:
                await connection.wake.wait()
                connection.wake.clear()
                while connection.outbox:
                    await context.write(discovery.encode_response(connection.outbox.popleft()))

        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(write())
                while (body := await context.read()) is not END_OF_STREAM:
                    hub.receive(connection, discovery.decode_request(body))
                writing.cancel()
        finally:
            hub.leave(connection)

    return grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(serve)})


def _held(directory: Path) -> Held:
    authority = Authority(directory)
    chain, key = authority.issue("spiffe://cluster.local/ns/shop/sa/waypoint")
    return Held(chain.read_text(), key.read_text(), authority.root.read_bytes())


def _secrets(held: Held):
    """Without them the listener of tunnels never comes to be, and Envoy is never ready."""

    async def serve(_requests, context) -> None:
        stream = SecretStream()
        while (body := await context.read()) is not END_OF_STREAM:
            stream.request(body)
            if (response := stream.response(held)) is not None:
                await context.write(response)

    return grpc.method_handlers_generic_handler(SDS_SERVICE, {SDS_METHOD: grpc.stream_stream_rpc_method_handler(serve)})


def _bootstrap() -> dict[str, object]:
    own = f"127.{1 + randbelow(254)}.{1 + randbelow(254)}.{1 + randbelow(254)}"
    service = {"envoy_grpc": {"cluster_name": ADS_CLUSTER}}
    ads = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service], "set_node_on_first_message_only": True}
    from_ads = {"ads": {}, "resource_api_version": "V3"}
    message = new(
        "envoy.config.bootstrap.v3.Bootstrap",
        # Where it takes tunnels: an address of loopback that no other test has.
        node={"id": "test", "cluster": "test", "metadata": new("google.protobuf.Struct", fields={"INSTANCE_IPS": {"string_value": own}})},
        bootstrap_extensions=[extension("internal", "bootstrap.internal_listener.v3.InternalListener")],
        dynamic_resources={"ads_config": ads, "lds_config": from_ads, "cds_config": from_ads},
    )
    return as_json(message)


def _entry() -> dict[str, object]:
    states = [shared_state(f"{DESTINATION}.local_ip", "10.96.0.1:80"), shared_state(f"{DESTINATION}.remote_ip", "10.0.0.9:1234")]
    filters = [
        extension("state", "filters.network.set_filter_state.v3.Config", on_new_connection=states),
        extension("carry", "filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=ENTRY, cluster=ENTRY),
    ]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return as_json(new("envoy.config.listener.v3.Listener", name=ENTRY, address=address, filter_chains=[{"filters": filters}]))


def _cluster(name: str, address: dict[str, object], **more: object) -> dict[str, object]:
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    return as_json(new("envoy.config.cluster.v3.Cluster", name=name, type="STATIC", load_assignment=assignment, **more))


def _local(name: str, port: int) -> dict[str, object]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return _cluster(name, address, typed_extension_protocol_options=http_options(explicit_http_config={"http2_protocol_options": {}}))


def _internal() -> dict[str, object]:
    return _cluster(ENTRY, internal_address("main_internal"), transport_socket=internal_upstream())
