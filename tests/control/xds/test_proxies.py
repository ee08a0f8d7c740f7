"""An Envoy at a running controller: its certificate decides what it is served, whatever it says of itself."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from control.envoy.built import CLUSTER, LISTENER
from control.kinds import Kind
from control.model.status import describe
from control.rpc import grpc
from control.xds.proxies import listening
from meshapi import discovery, wire
from tests.control.agent import Agent, Discovery, bearer, create
from tests.control.fakes import csr_pem
from tests.control.model.builders import Config
from tests.control.world import World, refused, running, until

GATEWAYS = """
    kind: Gateway
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {name: gate, namespace: shop}
    spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""
CART = """
    kind: Service
    apiVersion: v1
    metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: gate}}
    spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
    ---
    kind: VirtualService
    apiVersion: networking.istio.io/v1
    metadata: {name: cart, namespace: shop}
    spec:
      hosts: [cart]
      http:
      - {match: [{uri: {prefix: /v9}}], route: [{destination: {host: cart, subset: v9}}]}
      - route: [{destination: {host: cart}}]
"""
FOREIGN = GATEWAYS.replace("istio-waypoint", "another")
GATE = "spiffe://cluster.local/ns/shop/sa/gate"


class Meshed(World):
    """A controller with the real model."""

    def __init__(self, path: Path) -> None:
        self.config = Config(GATEWAYS)
        super().__init__(path, self.config.mesh)

    async def runner(self, gateway: str = "shop/gate") -> Agent:
        """Who runs an Envoy of a Gateway, joined by a token."""
        runner = await self.stranger()
        runner.identity = f"spiffe://cluster.local/ns/{gateway.replace('/', '/sa/')}"
        await runner.join((await self.admin("POST", "/tokens", json={"gateway": gateway}))["token"])
        return runner


@pytest.fixture
async def meshed(tmp_path: Path) -> AsyncIterator[Meshed]:
    async with running(Meshed(tmp_path)) as world:
        yield world


async def test_it_gets_its_own_configuration_and_nothing_of_the_agents(meshed: Meshed) -> None:
    runner = await meshed.runner()
    async with runner.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(CLUSTER)
        assert {one.name for one in (await stream.read()).resources} == {"main_internal", "main_internal_sniffing", "connect_originate"}
        # Without an answer: the next one is that to the request behind it.
        await stream.ask(wire.ADDRESS_TYPE)
        await stream.ask(LISTENER)
        assert (await stream.read()).type_url == LISTENER
        (status,) = await meshed.admin("GET", "/proxies")
        assert status["proxy"] == "shop/gate"
        assert await meshed.admin("GET", "/agents") == []


async def test_a_gateway_that_is_gone_or_anothers_ends_the_stream(meshed: Meshed) -> None:
    runner = await meshed.runner()
    for text in (FOREIGN, ""):
        meshed.config.write("a.yaml", GATEWAYS)
        async with runner.by_certificate() as channel:
            stream = Discovery(channel)
            await stream.ask(CLUSTER)
            await stream.read()
            meshed.config.write("a.yaml", text)
            assert (await stream.ended())[0] == grpc.StatusCode.UNAUTHENTICATED
            await refused(create(channel, csr_pem(GATE, runner.key)))


async def test_a_revoked_identity_ends_the_stream(meshed: Meshed) -> None:
    runner = await meshed.runner()
    async with runner.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(CLUSTER)
        await stream.read()
        await meshed.admin("POST", "/revocations", json={"identity": GATE})
        assert (await stream.ended())[0] == grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_of_a_gateway_is_for_its_identity_once(meshed: Meshed) -> None:
    token = (await meshed.admin("POST", "/tokens", json={"gateway": "shop/gate"}))["token"]
    runner = await meshed.stranger()
    async with runner.by_token() as channel:
        assert await Discovery(channel, bearer(token)).ended() == (grpc.StatusCode.PERMISSION_DENIED, "permission denied")
        other = "spiffe://cluster.local/ns/shop/sa/cart"
        await refused(create(channel, csr_pem(other, runner.key), bearer(token), impersonated=other))
        await create(channel, csr_pem(GATE, runner.key), bearer(token))
        await refused(create(channel, csr_pem(GATE, runner.key), bearer(token)))


async def test_a_refusal_is_told_of_the_objects_that_caused_it(meshed: Meshed) -> None:
    service = """
    kind: Service
    apiVersion: v1
    metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: gate}}
    spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
    """
    meshed.config.write("a.yaml", GATEWAYS.replace("spec: {", "spec: {addresses: [{value: 192.0.2.9}], "))
    meshed.config.write("b.yaml", service)
    mesh, name = meshed.config.mesh, "inbound-vip|80|http|cart.shop.svc.cluster.local"

    def told() -> str:
        described = describe(mesh, Kind.SERVICE, "shop", "cart")
        assert described is not None
        return described.summary

    runner = await meshed.runner()
    async with runner.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(CLUSTER)
        batches = mesh.batches
        await stream.read(f"Error adding/updating cluster(s) {name}: no such thing")
        await until(lambda: f"the Envoy of Gateway shop/gate refuses the Cluster {name}: no such thing" in told())
        assert mesh.batches > batches, "else nobody would look at the status again"
        assert await metric(meshed, "nodemesh_connected_proxies") == 1
        assert await metric(meshed, "nodemesh_refused_proxy_resources") == 1
        ((refused,),) = [one["refused"] for one in await meshed.admin("GET", "/proxies")]
        assert refused["sources"] == ["Service shop/cart"]
    await until(lambda: "refuses" not in told())


async def metric(world: World, name: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{world.ports.metrics}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


async def test_what_it_is_served_can_be_looked_at(meshed: Meshed) -> None:
    (found,) = [
        one for one in await meshed.admin("GET", "/proxies/config?proxy=shop/gate&kind=listeners") if one["name"] == "connect_terminate"
    ]
    assert found["summary"] == ":::15008"
    (chain,) = found["details"]
    assert chain.startswith("connect_terminate: "), chain
    assert found["content"]["name"] == "connect_terminate"


async def test_who_wrote_a_rule_sees_what_it_asks_for_in_vain(meshed: Meshed) -> None:
    meshed.config.write("a.yaml", GATEWAYS.replace("spec: {", "spec: {addresses: [{value: 192.0.2.9}], "))
    meshed.config.write("cart.yaml", CART)
    mesh, told = meshed.config.mesh, "line 7: at shop/gate: no DestinationRule for cart.shop.svc.cluster.local has a subset v9"

    def summary() -> str:
        description = describe(mesh, Kind.VIRTUAL_SERVICE, "shop", "cart")
        assert description is not None
        return description.summary

    runner = await meshed.runner()
    async with runner.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(CLUSTER)
        await stream.read()
        assert summary() == told
        batches = mesh.batches
        meshed.config.write("cart.yaml", CART.replace(", subset: v9", ""))
        assert summary() == ""
        assert mesh.batches == batches + 2, "else nobody would look at the status again"
        meshed.config.write("cart.yaml", CART)
        assert summary() == told
    await until(lambda: summary() == "")


def test_where_an_envoy_says_that_it_is() -> None:
    def of(text: str) -> tuple[str, ...]:
        return listening(discovery.Node("x", {"INSTANCE_IPS": text}))

    assert of("10.0.0.1, fd00::1,10.0.0.1") == ("10.0.0.1", "fd00::1")
    assert of("garbage,300.1.1.1,/etc/passwd") == ()
    assert len(of(",".join(f"10.0.0.{last}" for last in range(100)))) == 8
