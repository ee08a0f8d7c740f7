"""The controller over real gRPC and TLS on loopback: joining, certificates, discovery, and who gets nothing."""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from control import controller as controller_module
from control.ca.authority import Authority
from control.ca.leaf import Validity, sign_identity
from control.ca.limits import Limits
from control.controller import Controller, Settings, StateInUseError
from control.rpc import aio, grpc
from meshapi import wire
from meshapi.proto.certificates_pb2 import IstioCertificateRequest
from meshapi.spiffe import WorkloadIdentity
from meshapi.trust import decode_trust
from meshapi.workload import Workload
from tests.control.agent import CREATE, WAIT_S, Agent, Discovery, bearer, create
from tests.control.fakes import FakeModel, csr_pem, new_key

TD = "cluster.local"
CART = WorkloadIdentity(TD, "shop", "cart")
ON_N2 = WorkloadIdentity(TD, "shop", "on-n2")
POD = Workload("K//Pod/shop/cart", "cart", "shop", (ip_address("10.0.0.1"),))


class World:
    """A running controller."""

    def __init__(self, path: Path) -> None:
        self.state = path / "state"
        self.socket = path / "admin.sock"
        self.model = FakeModel(running={(CART, "n1"), (ON_N2, "n2")})
        self.model.put(POD)
        self.settings = Settings(
            state_dir=self.state,
            admin_socket=self.socket,
            listen="127.0.0.1",
            token_port=0,
            agent_port=0,
            metrics_listen="127.0.0.1",
            metrics_port=0,
        )
        self.synced = asyncio.Event()
        self.ready = asyncio.Event()
        self.controller = Controller(self.settings, self.model, lambda kind, namespace, name: [kind, namespace, name])

    @property
    def ports(self) -> controller_module.Ports:
        assert self.controller.ports is not None
        return self.controller.ports

    async def admin(self, method: str, path: str, **options) -> object:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.request(method, f"http://controller{path}", **options) as response,
        ):
            assert response.status == 200, await response.text()
            return msgspec.json.decode(await response.read())

    async def agent(self, node: str = "n1") -> Agent:
        """An agent that has joined."""
        agent = await self.stranger(node)
        token = (await self.admin("POST", "/tokens", json={"node": node}))["token"]
        await agent.join(token)
        return agent

    async def stranger(self, node: str = "n1") -> Agent:
        roots = (await self.admin("GET", "/root"))["pem"].encode()
        return Agent(node, roots, self.ports.token, self.ports.agent)

    def audit(self) -> list[dict[str, str]]:
        return [msgspec.json.decode(line) for line in (self.state / "audit.log").read_bytes().splitlines()]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[World]:
    world = World(path)
    task = asyncio.ensure_future(world.controller.run(world.synced, world.ready))
    world.synced.set()
    async with asyncio.timeout(WAIT_S):
        await world.ready.wait()
    try:
        yield world
    finally:
        task.cancel()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as world:
        yield world


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 -- polls what has no event, with a deadline
            await asyncio.sleep(0.01)


async def refused(call) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    assert error.value.details() in {"not authenticated", "permission denied"}, "says which check failed"
    return error.value.code()


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
    assert world.audit()[-1]["check"] == "not-an-agent"


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


async def test_who_has_not_proved_itself_can_not_send_much(world: World) -> None:
    stranger = await world.stranger()
    async with stranger.by_token() as channel:
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(CREATE)(b"x" * (65 * 1024), timeout=WAIT_S)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(aio.AioRpcError) as error:
            await channel.unary_unary(CREATE)(b"x" * 60_000_000, timeout=WAIT_S, compression=grpc.Compression.Gzip)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


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
    async with running(tmp_path) as world:
        agent = await world.agent()
        used = (await world.admin("POST", "/tokens", json={"node": "n1"}))["token"]
        await (await world.stranger()).join(used)
        async with agent.by_certificate() as channel:
            stream = Discovery(channel)
            for type_url in (wire.ADDRESS_TYPE, wire.TRUST_TYPE):
                await stream.ask(type_url)
                await stream.read()
            held = stream.holds
    async with running(tmp_path) as world:
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
    async with running(tmp_path) as world:
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
        while granted("n1") < Limits().burst or granted("n2") < 20:
            await create(quiet, csr_pem(str(ON_N2), new_key()), impersonated=str(ON_N2))
        for _ in range(20):
            await create(quiet, csr_pem(str(ON_N2), new_key()), impersonated=str(ON_N2))
        # One more is its joining.
        assert granted("n1") <= Limits().burst + 1 + Limits().rate_per_s * (loop.time() - start_s)
        for call in flood:
            call.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_listens_for_agents_only_when_the_configuration_is_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    task = asyncio.ensure_future(world.controller.run(world.synced, world.ready))
    await until(world.socket.exists)
    assert (await world.admin("GET", "/status"))["ready"] is False
    assert world.controller.ports is None
    world.synced.set()
    async with asyncio.timeout(WAIT_S):
        await world.ready.wait()
    assert (await world.admin("GET", "/status"))["ready"] is True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not world.socket.exists()


async def test_metrics_and_readiness(world: World) -> None:
    agent = await world.agent()
    await refused(agent.certificate(str(ON_N2)))
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{world.ports.metrics}/ready") as response:
            assert response.status == 200
        async with session.get(f"http://127.0.0.1:{world.ports.metrics}/metrics") as response:
            text = await response.text()
        async with session.get(f"http://127.0.0.1:{world.ports.metrics}/tokens") as response:
            assert response.status == 404
    assert 'nodemesh_certificates_granted_total{kind="agent"} 1.0' in text
    assert 'nodemesh_certificates_refused_total{check="placement"} 1.0' in text


async def test_the_doors_are_private(world: World) -> None:
    assert stat.S_IMODE(world.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in world.state.rglob("*") if file.is_file()} == {0o600}


async def test_the_servers_certificate(world: World) -> None:
    """Its names, TLS 1.2 at least, and no URI that could pass for a workload."""
    roots = (await world.agent()).roots_pem.decode()
    context = ssl.create_default_context(cadata=roots)
    for name in ("localhost", "istiod.istio-system.svc", "nodemesh-controller", "127.0.0.1"):
        _, writer = await asyncio.open_connection("127.0.0.1", world.ports.token, ssl=context, server_hostname=name)
        names = dict.fromkeys(kind for kind, _ in writer.get_extra_info("peercert")["subjectAltName"])
        assert set(names) == {"DNS", "IP Address"}
        writer.close()
        await writer.wait_closed()
    old = ssl.create_default_context(cadata=roots)
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", world.ports.token, ssl=context, server_hostname="other.example")


async def test_the_admin_socket_of_a_running_controller_is_not_taken(world: World, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "other", admin_socket=world.socket)
    second = Controller(settings, FakeModel(), lambda *_: None)
    with pytest.raises(FileExistsError, match="another controller answers"):
        await second.run(asyncio.Event(), asyncio.Event())
    assert (await world.admin("GET", "/status"))["ready"] is True


async def test_a_port_that_is_taken_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    admin_socket = tmp_path / "second.sock"
    settings = Settings(
        state_dir=tmp_path / "other", admin_socket=admin_socket, metrics_listen="127.0.0.1", metrics_port=world.ports.metrics
    )
    with pytest.raises(OSError, match="address already in use"):
        await Controller(settings, FakeModel(), lambda *_: None).run(asyncio.Event(), asyncio.Event())
    assert not admin_socket.exists()
    again = Controller(settings, FakeModel(), lambda *_: None)
    again._release()


def test_two_controllers_in_one_state_directory(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", admin_socket=tmp_path / "a.sock")
    first = Controller(settings, FakeModel(), lambda *_: None)
    with pytest.raises(StateInUseError):
        Controller(settings, FakeModel(), lambda *_: None)
    first._release()


async def test_no_key_or_token_is_in_what_the_controller_shows(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """I7, with canaries: the authority's keys and a token's secret, after all that can be asked and refused."""
    token = (await world.admin("POST", "/tokens", json={"node": "n1"}))["token"]
    agent = await world.stranger()
    await agent.join(token)
    with pytest.raises(aio.AioRpcError):
        await agent.join(token)
    seen = caplog.text + (world.state / "audit.log").read_text() + repr(vars(world.controller))
    for path in ("/status", "/agents", "/root", "/tokens", "/revocations", "/objects"):
        seen += msgspec.json.encode(await world.admin("GET", path)).decode()
    canaries = [token.rpartition(".")[2]]
    for name in ("ca-key.pem", "root-key.pem"):
        canaries += (world.state / "ca" / name).read_text().splitlines()[1:-1]
    assert len(canaries) >= 7
    assert not [canary for canary in canaries if canary in seen]


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
