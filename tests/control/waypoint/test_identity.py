"""control/waypoint/: the identity at a running controller, and what Envoy gets of it over the unix socket."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from control.ca.authority import Authority
from control.envoy.built import CLUSTER
from control.envoy.messages import message_class, new
from control.rpc import aio
from control.waypoint.identity import Identity, NoProofError
from control.waypoint.local import serving
from control.waypoint.settings import Controllers, Settings
from meshapi import discovery
from tests.control.agent import WAIT_S, Discovery
from tests.control.model.builders import Config
from tests.control.world import TD, World, running, until

GATEWAY = """
    kind: Gateway
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {name: gate, namespace: shop}
    spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""
SECRETS = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(World(tmp_path, Config(GATEWAY).mesh)) as made:
        yield made


async def settings_of(world: World, path: Path, *hosts: str) -> Settings:
    """Of a process that can join."""
    (path / "waypoint").mkdir(mode=0o700, exist_ok=True)
    return Settings(
        namespace="shop",
        gateway="gate",
        controllers=Controllers(hosts or ("localhost",), world.ports.token, world.ports.agent),
        roots_pem=(await world.admin("GET", "/root"))["pem"].encode(),
        state_dir=path / "waypoint",
        run_dir=path / "waypoint",
        envoy=Path("/none"),
        token=(await world.admin("POST", "/tokens", json={"gateway": "shop/gate"}))["token"],
    )


@asynccontextmanager
async def kept(settings: Settings) -> AsyncIterator[Identity]:
    identity = Identity(settings)
    task = asyncio.ensure_future(identity.run())
    try:
        async with asyncio.timeout(WAIT_S):
            await identity.ready.wait()
        yield identity
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_joins_at_whichever_controller_answers_and_starts_again_without_a_token(world: World, tmp_path: Path) -> None:
    settings = await settings_of(world, tmp_path, "[::1]", "localhost")
    async with kept(settings) as identity:
        first = identity.svid
    async with kept(replace(settings, token=None)) as identity:
        assert identity.svid == first, "what was kept is still good"


async def test_without_a_proof_there_is_no_way(world: World, tmp_path: Path) -> None:
    settings = replace(await settings_of(world, tmp_path), token=None)
    with pytest.raises(ExceptionGroup) as failed:
        await Identity(settings).run()
    assert failed.group_contains(NoProofError)


async def test_new_roots_come_at_once_and_the_certificate_is_renewed_below_them(world: World, tmp_path: Path) -> None:
    async with kept(await settings_of(world, tmp_path)) as identity:
        first = identity.svid
        second = Authority(tmp_path / "second", trust_domain=TD, own=True, clock=world.controller._clock)
        with (world.state / "ca" / "root-cert.pem").open("ab") as file:
            file.write(second.issuer.roots_pem)
        await until(lambda: identity.roots_pem.count(b"BEGIN") == 2)
        await until(lambda: identity.svid != first)


async def test_envoy_is_given_its_secrets_again_when_they_change(world: World, tmp_path: Path) -> None:
    settings = await settings_of(world, tmp_path)
    async with (
        kept(settings) as identity,
        serving(identity, settings.socket),
        aio.insecure_channel(f"unix:{settings.socket}") as channel,
    ):
        assert stat.S_IMODE(settings.socket.stat().st_mode) == 0o600
        stream = channel.stream_stream(SECRETS)()
        asked = new("envoy.service.discovery.v3.DiscoveryRequest", resource_names=["default"])
        await stream.write(asked.SerializeToString())
        kind, response = message_class("envoy.extensions.transport_sockets.tls.v3.Secret"), "envoy.service.discovery.v3.DiscoveryResponse"

        async def chain() -> str:
            async with asyncio.timeout(WAIT_S):
                (found,) = message_class(response).FromString(await stream.read()).resources
            return str(kind.FromString(found.value).tls_certificate.certificate_chain.inline_string)

        assert identity.svid is not None
        first = await chain()
        assert first == identity.svid.chain_pem
        identity._renew.set()
        assert await chain() != first


@pytest.mark.parametrize("method", [SECRETS, discovery.DELTA_METHOD])
async def test_who_asks_once_for_a_whole_answer_never_has_one(world: World, tmp_path: Path, method: str) -> None:
    """As requests do that a script has Envoy send to the process beside it: there is a key in the answer."""
    settings = await settings_of(world, tmp_path)
    async with (
        kept(settings) as identity,
        serving(identity, settings.socket),
        aio.insecure_channel(f"unix:{settings.socket}") as channel,
    ):
        call = channel.stream_stream(method)()
        asked = new("envoy.service.discovery.v3.DiscoveryRequest", resource_names=["default"]).SerializeToString()
        await call.write(asked if method == SECRETS else discovery.encode_request(discovery.Request(CLUSTER)))
        async with asyncio.timeout(WAIT_S):
            await call.done_writing()
            assert isinstance(await call.read(), bytes)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await call.code()
    # It ends with the process, which does not wait for it.


async def test_envoys_configuration_is_carried_through(world: World, tmp_path: Path) -> None:
    settings = await settings_of(world, tmp_path)
    async with (
        kept(settings) as identity,
        serving(identity, settings.socket),
        aio.insecure_channel(f"unix:{settings.socket}") as channel,
    ):
        stream = Discovery(channel)
        await stream.ask(CLUSTER)
        assert "connect_originate" in {one.name for one in (await stream.read()).resources}
        (status,) = await world.admin("GET", "/proxies")
        assert status["proxy"] == "shop/gate"
        # Words that are none end at the controller, and so here.
        await stream.call.write(b"\xff\xff")
        assert (await stream.ended())[0].name == "UNAVAILABLE"
