"""The controller as a process: what it listens on and when, what it holds alone, and what it shows."""

import asyncio
import ssl
import stat
from pathlib import Path

import aiohttp
import msgspec
import pytest

from control.controller import Controller, Settings, StateInUseError
from control.rpc import aio
from tests.control.agent import WAIT_S
from tests.control.fakes import FakeModel
from tests.control.world import ON_N2, World, refused, until


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
    seen = caplog.text + "".join(file.read_text() for file in world.state.glob("audit*.log")) + repr(vars(world.controller))
    for path in ("/status", "/agents", "/root", "/tokens", "/revocations", "/objects"):
        seen += msgspec.json.encode(await world.admin("GET", path)).decode()
    canaries = [token.rpartition(".")[2]]
    for name in ("ca-key.pem", "root-key.pem"):
        canaries += (world.state / "ca" / name).read_text().splitlines()[1:-1]
    assert len(canaries) >= 7
    assert not [canary for canary in canaries if canary in seen]
