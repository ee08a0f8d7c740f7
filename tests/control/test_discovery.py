"""Discovery of a running controller, over real gRPC and TLS on loopback: what streams carry, and when they end."""

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from control.ca.authority import Authority
from control.rpc import aio, grpc
from meshapi import wire
from meshapi.proto.certificates_pb2 import IstioCertificateRequest
from meshapi.trust import decode_trust
from meshapi.workload import Workload
from tests.control.agent import CREATE, WAIT_S, Discovery
from tests.control.world import CART, ON_N2, POD, TD, World, running, until


async def test_garbage_ends_that_call_only(world: World) -> None:
    """X2."""
    agent = await world.agent()
    async with agent.by_certificate() as channel:
        good = Discovery(channel)
        await good.ask(wire.ADDRESS_TYPE)
        assert await good.read()
        bad = Discovery(channel)
        await bad.call.write(b"\xff\xff\xff\xff")
        assert (await bad.ended())[0] == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(CREATE)(b"\xff\xff", timeout=WAIT_S)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        huge = IstioCertificateRequest(csr="x" * (17 * 1024 * 1024)).SerializeToString()
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(CREATE)(huge, timeout=WAIT_S)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        world.model.put(Workload("K//Pod/shop/new", "new", "shop"))
        assert [one.name for one in (await good.read()).resources] == ["K//Pod/shop/new"]


async def test_discovery_follows_the_model(world: World) -> None:
    agent = await world.agent()
    async with agent.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(wire.ADDRESS_TYPE, "*", un=("*",))
        assert (await stream.read()).resources == ()
        await stream.ask(wire.AUTHORIZATION_TYPE)
        assert (await stream.read()).type_url == wire.AUTHORIZATION_TYPE
        await stream.ask(wire.ADDRESS_TYPE, "/10.0.0.1", "/10.0.0.2")
        response = await stream.read()
        assert ([one.name for one in response.resources], response.removed) == ([POD.uid], ("/10.0.0.2",))
        world.model.put(Workload("K//Pod/shop/two", "two", "shop", (ip_address("10.0.0.2"),)))
        assert [one.name for one in (await stream.read()).resources] == ["K//Pod/shop/two"]
        world.model.put_policy("shop/p", b"body")
        assert (await stream.read(error="no such thing")).resources[0].body == b"body"
        world.model.remove(POD.uid)
        assert set((await stream.read()).removed) == {POD.uid, "/10.0.0.1"}
        await until(lambda: sum(one.nacks for one in world.controller._hub.status()[0].types) == 1)
        agents = await world.admin("GET", "/agents")
    nacks = {one["type_url"]: one["last_nack"] for one in agents[0]["types"]}
    assert agents[0]["node"] == "n1"
    assert nacks[wire.AUTHORIZATION_TYPE]["message"] == "no such thing"
    assert nacks[wire.ADDRESS_TYPE] is None


async def test_a_restarted_controller_sends_nothing_again_and_knows_its_nodes(tmp_path: Path) -> None:
    async with running(World(tmp_path)) as world:
        agent = await world.agent()
        used = (await world.admin("POST", "/tokens", json={"node": "n1"}))["token"]
        await (await world.stranger()).join(used)
        async with agent.by_certificate() as channel:
            stream = Discovery(channel)
            for type_url in (wire.ADDRESS_TYPE, wire.TRUST_TYPE):
                await stream.ask(type_url)
                await stream.read()
            held = stream.holds
    async with running(World(tmp_path)) as world:
        agent.token_port, agent.agent_port = world.ports.token, world.ports.agent
        async with agent.by_certificate() as channel:
            stream = Discovery(channel)
            for type_url, versions in held.items():
                assert versions
                await stream.ask(type_url, had=versions)
                response = await stream.read()
                assert (response.resources, response.removed) == ((), ())
        with pytest.raises(aio.AioRpcError):
            await (await world.stranger()).join(used)
        assert world.audit()[-1]["check"] == "token-replayed"


async def test_the_controller_stopping_closes_streams_cleanly(tmp_path: Path) -> None:
    async with running(World(tmp_path)) as world:
        agent = await world.agent()
        channel_context = agent.by_certificate()
        channel = await channel_context.__aenter__()
        stream = Discovery(channel)
        await stream.ask(wire.ADDRESS_TYPE)
        await stream.read()
        ended = asyncio.ensure_future(stream.ended())
    assert (await ended)[0] == grpc.StatusCode.OK
    await channel_context.__aexit__(None, None, None)


async def test_revocations_and_roots_reach_agents_at_once(world: World) -> None:
    """T2, the controller's part."""
    agent = await world.agent()
    async with agent.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(wire.TRUST_TYPE)
        await stream.read()
        before = decode_trust(stream.bodies[TD])
        assert (len(before.roots), before.revocations) == (1, ())
        async with asyncio.timeout(WAIT_S):
            await world.admin("POST", "/revocations", json={"identity": str(CART)})
            await stream.read()
        assert [one.identity for one in decode_trust(stream.bodies[TD]).revocations] == [str(CART)]
        second = Authority(world.state.parent / "second", trust_domain=TD, own=True, clock=world.controller._clock)
        with (world.state / "ca" / "root-cert.pem").open("ab") as file:
            file.write(second.issuer.roots_pem)
        await stream.read()
        assert len(decode_trust(stream.bodies[TD]).roots) == 2


async def end_of(stream: Discovery, act: Callable[[], object]) -> grpc.StatusCode:
    await stream.ask(wire.ADDRESS_TYPE)
    await stream.read()
    result = act()
    if asyncio.iscoroutine(result):
        await result
    code, details = await stream.ended()
    assert details == "not authenticated"
    return code


async def test_a_revoked_agent_loses_its_stream(world: World) -> None:
    agent = await world.agent()
    async with agent.by_certificate() as channel:
        revoke = world.admin("POST", "/revocations", json={"identity": agent.identity})
        assert await end_of(Discovery(channel), lambda: revoke) == grpc.StatusCode.UNAUTHENTICATED
        assert await Discovery(channel).ended() == (grpc.StatusCode.UNAUTHENTICATED, "not authenticated")
    again = await world.agent()
    assert await again.certificate(str(CART))


async def test_a_node_that_goes_loses_its_stream(world: World) -> None:
    agent = await world.agent()
    async with agent.by_certificate() as channel:
        assert await end_of(Discovery(channel), lambda: world.model.nodes.discard("n1")) == grpc.StatusCode.UNAUTHENTICATED
    assert await (await world.agent("n2")).certificate(str(ON_N2))


async def test_a_removed_root_ends_the_streams_that_stand_on_it(world: World) -> None:
    agent = await world.agent()
    second = Authority(world.state.parent / "second", trust_domain=TD, own=True, clock=world.controller._clock)

    def replace_authority() -> None:
        for file in second._directory.iterdir():
            file.replace(world.state / "ca" / file.name)

    async with agent.by_certificate() as channel:
        assert await end_of(Discovery(channel), replace_authority) == grpc.StatusCode.UNAUTHENTICATED
    joined = await world.agent()
    assert joined.roots_pem == second.issuer.roots_pem
    assert await joined.certificate(str(CART))


async def test_too_many_streams_of_one_node(world: World) -> None:
    agent, other = await world.agent(), await world.agent("n2")
    async with agent.by_certificate() as channel, other.by_certificate() as calm:
        streams = [Discovery(channel) for _ in range(9)]
        results = await asyncio.gather(*(answered(stream) for stream in streams))
        assert sorted(results) == [False] + [True] * 8
        assert await answered(Discovery(calm))


async def answered(stream: Discovery) -> bool:
    try:
        await stream.ask(wire.ADDRESS_TYPE)
        return bool(await stream.read())
    except (aio.AioRpcError, EOFError, asyncio.InvalidStateError):
        return False


async def test_a_client_that_vanishes_leaves_nothing(world: World) -> None:
    agent = await world.agent()
    async with agent.by_certificate() as channel:
        stream = Discovery(channel)
        await stream.ask(wire.ADDRESS_TYPE)
        await stream.read()
        assert world.controller._hub.connected == 1
        stream.call.cancel()
        await until(lambda: world.controller._hub.connected == 0)
    world.model.put(Workload("K//Pod/shop/new", "new", "shop"))
