"""Callers of a controller over real gRPC and TLS on loopback: who joins, who gets which certificate, and who gets nothing."""

import asyncio
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control.ca.authority import Authority
from control.ca.leaf import Validity, sign_identity
from control.ca.limits import Limits
from control.rpc import aio, grpc
from tests.control.agent import CREATE, WAIT_S, Discovery, bearer, create
from tests.control.fakes import csr_pem, new_key
from tests.control.world import CART, ON_N2, TD, World, refused


async def test_a_node_joins_and_gets_what_runs_there(world: World) -> None:
    agent = await world.agent()
    chain = await agent.certificate(str(CART))
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [x509.UniformResourceIdentifier(str(CART))]
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == 3660
    assert chain[-1].encode() == agent.roots_pem
    assert [(line["outcome"], line["identity"]) for line in world.audit()] == [("granted", agent.identity), ("granted", str(CART))]


async def test_an_agent_gets_nothing_of_another_node(world: World) -> None:
    """I1 and I2, over the wire."""
    agent = await world.agent()
    assert await refused(agent.certificate(str(ON_N2))) == grpc.StatusCode.PERMISSION_DENIED
    assert world.audit()[-1]["check"] == "placement"
    assert await agent.certificate(str(CART))
    world.model.running.clear()
    assert await refused(agent.certificate(str(CART))) == grpc.StatusCode.PERMISSION_DENIED


async def test_a_token_works_once_even_at_once(world: World) -> None:
    """I6."""
    token = (await world.admin("POST", "/tokens", json={"node": "n1"}))["token"]
    agents = [await world.stranger() for _ in range(6)]
    results = await asyncio.gather(*(agent.join(token) for agent in agents), return_exceptions=True)
    assert sorted(str(getattr(result, "code", lambda: "joined")()) for result in results) == ["StatusCode.UNAUTHENTICATED"] * 5 + ["joined"]
    assert {line["check"] for line in world.audit() if line["outcome"] == "refused"} == {"token-replayed"}


async def test_without_credentials_there_is_a_handshake_and_nothing_else(world: World) -> None:
    """X1, on both ports."""
    stranger = await world.stranger()
    csr = csr_pem(stranger.identity, new_key())
    async with stranger.by_token() as channel:
        assert await refused(create(channel, csr)) == grpc.StatusCode.UNAUTHENTICATED
        assert await refused(create(channel, csr, bearer("nmj1.00.guess"))) == grpc.StatusCode.UNAUTHENTICATED
        stream = Discovery(channel)
        assert await stream.ended() == (grpc.StatusCode.UNAUTHENTICATED, "not authenticated")
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(b"", timeout=WAIT_S)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    async with aio.secure_channel(f"localhost:{world.ports.agent}", grpc.ssl_channel_credentials(stranger.roots_pem)) as channel:
        with pytest.raises(aio.AioRpcError) as error:
            await create(channel, csr)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_plaintext_gets_nothing(world: World) -> None:
    for port in (world.ports.token, world.ports.agent):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read()
        # A TLS alert (15 03 xx) at most.
        assert answer == b"" or answer[:2] == b"\x15\x03"
        writer.close()


async def test_a_join_token_opens_no_discovery(world: World) -> None:
    stranger = await world.stranger()
    token = (await world.admin("POST", "/tokens", json={"node": "n1"}))["token"]
    async with stranger.by_token() as channel:
        assert await Discovery(channel, bearer(token)).ended() == (grpc.StatusCode.PERMISSION_DENIED, "permission denied")
    await stranger.join(token)


async def test_a_workloads_certificate_is_not_an_agents(world: World) -> None:
    agent = await world.agent()
    key = new_key()
    async with agent.by_certificate() as channel:
        chain = await create(channel, csr_pem(str(CART), key), impersonated=str(CART))
    agent.key, agent.chain_pem = key, "".join(chain[:-1]).encode()
    assert await refused(agent.certificate(str(CART))) == grpc.StatusCode.UNAUTHENTICATED
    assert world.audit()[-1]["check"] == "gateway-unknown"


async def test_a_certificate_of_another_authority_fails_in_the_handshake(world: World, tmp_path: Path) -> None:
    agent = await world.agent()
    other = Authority(tmp_path / "other", trust_domain=TD, own=True, clock=world.controller._clock)
    now = int(world.controller._clock())
    leaf = sign_identity(other.issuer, agent.key.public_key(), agent.identity, Validity(now - 60, now + 600))
    agent.chain_pem = leaf.public_bytes(Encoding.PEM) + b"".join(other.issuer.intermediates_pem)
    with pytest.raises(aio.AioRpcError) as error:
        await agent.certificate(str(CART))
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(world.audit()) == 1


async def test_who_has_not_proved_itself_can_not_send_much(world: World) -> None:
    stranger = await world.stranger()
    async with stranger.by_token() as channel:
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(CREATE)(b"x" * (65 * 1024), timeout=WAIT_S)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(CREATE)(b"x" * 60_000_000, timeout=WAIT_S, compression=grpc.Compression.Gzip)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_an_agent_that_floods_gets_its_share_and_no_more(world: World) -> None:
    """I6: a thousand requests at once on two connections, and another node's requests all the while."""
    flooding, calm = await world.agent(), await world.agent("n2")
    loop = asyncio.get_running_loop()

    def granted(node: str) -> int:
        return sum(line["outcome"] == "granted" and line.get("node") == node for line in world.audit())

    async with flooding.by_certificate() as one, flooding.by_certificate() as two, calm.by_certificate() as quiet:
        csr = csr_pem(str(CART), new_key())
        start_s = loop.time()
        flood = [asyncio.ensure_future(create(channel, csr, impersonated=str(CART))) for _ in range(500) for channel in (one, two)]
        # Fewer than its own share: on a slow machine, asking until the other has used up its own would be a flood, too.
        for _ in range(20):
            await create(quiet, csr_pem(str(ON_N2), new_key()), impersonated=str(ON_N2))
        async with asyncio.timeout(60):
            while granted("n1") < Limits().burst:  # noqa: ASYNC110 -- polls what has no event, with a deadline
                await asyncio.sleep(0.05)
        for _ in range(20):
            await create(quiet, csr_pem(str(ON_N2), new_key()), impersonated=str(ON_N2))
        # One more is its joining.
        assert granted("n1") <= Limits().burst + 1 + Limits().rate_per_s * (loop.time() - start_s)
        for call in flood:
            call.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
