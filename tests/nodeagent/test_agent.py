"""The whole agent in this process, without a controller: what it serves from what was kept, and what it says of itself."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import msgspec
import pytest
from click.testing import CliRunner

from meshapi.authorization import Action, Policy, PolicyScope, encode_policy
from meshapi.discovery import Resource
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE
from meshapi.workload import TunnelProtocol, Workload, WorkloadUID, encode_workload
from nodeagent import process
from nodeagent.admin.reports import StatusReport
from nodeagent.agent import Agent
from nodeagent.cli.main import main as command_line
from nodeagent.config import Config, ControllerAddress, StaticList
from nodeagent.state.files import StateDirectory
from nodeagent.state.kept import FILE, Kept, encode_kept, load_kept
from nodeagent.ztunnel.protocol import AnswerRoute, AnswerVerdict, AskRoute, AskVerdict, Forward, Hello, Pass, Refuse, SetTrust, Synced, Via
from tests.nodeagent.identity.pki import authority
from tests.nodeagent.waiting import until
from tests.nodeagent.ztunnel.peer import Peer

WEB, API = (
    Workload(uid=WorkloadUID(name), name=name, namespace="shop", addresses=(ip_address(ip),), tunnel_protocol=TunnelProtocol.HBONE)
    for name, ip in (("web", "10.0.0.1"), ("api", "10.0.0.9"))
)
DENY = Policy("deny", "shop", PolicyScope.NAMESPACE, Action.DENY, rules=((),))
KEPT = Kept(
    resources={
        ADDRESS_TYPE: tuple(Resource(workload.uid, "1", encode_workload(workload)) for workload in (WEB, API)),
        AUTHORIZATION_TYPE: (Resource("shop/deny", "1", encode_policy(DENY)),),
    },
    wanted=("/10.0.0.9", "/192.0.2.1", "api", "web"),
    absent=("/192.0.2.1",),
    policies_arrived=True,
)


class Node:
    """Directories and settings of an agent whose controller does not answer and whose proxy is the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        proxy = directory / "proxy"
        proxy.write_text("#!/bin/sh\nexec sleep 600\n")
        proxy.chmod(0o700)
        (directory / "root.pem").write_bytes(authority("root", time.time()).pem)
        (directory / "workloads.yaml").write_text("[]\n")
        self.config = Config(
            node="n1",
            controller=ControllerAddress("127.0.0.1", _closed_port(), _closed_port()),
            root_ca=directory / "root.pem",
            runtime=StaticList(directory / "workloads.yaml"),
            join_token=directory / "token",
            run_dir=directory / "run",
            state_dir=directory / "state",
            metrics_listen=("127.0.0.1", 0),
            ready_listen=("127.0.0.1", 0),
            tcp_telemetry=False,  # this process is in a cgroup with others
            proxy_binary=proxy,
            access_log=directory / "access.log",
        )

    def keep(self, kept: Kept) -> None:
        state = StateDirectory(self.config.state_dir)
        state.prepare()
        state.write(FILE, encode_kept(kept))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        agent = Agent(self.config)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(agent.run())
                await until(
                    lambda: agent.telemetry is not None and bool(agent.telemetry.addresses) and agent.supervisor.state.pid is not None
                )
                await until((self.config.run_dir / "admin.sock").exists)
                yield agent
                agent.end()
        finally:
            with suppress(ProcessLookupError, TypeError):
                os.kill(agent.supervisor.state.pid, signal.SIGKILL)  # type: ignore[arg-type]

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[Peer]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.config.run_dir / "decisions.sock"))
            sock.setblocking(False)  # noqa: FBT003 - the socket's own method
            peer = Peer(sock)
            await peer.send(Hello(1, "build", os.getpid(), "i", 0.0))
            trust: list[SetTrust] = []
            while not isinstance(message := await peer.receive(), Synced):
                trust += [message] if isinstance(message, SetTrust) else []
            assert "BEGIN CERTIFICATE" in trust[0].roots["cluster.local"]
            yield peer


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def status(agent: Agent) -> StatusReport:
    """As the admin socket serves it."""
    path = str(agent.config.run_dir / "admin.sock")
    async with aiohttp.ClientSession("http://agent", connector=aiohttp.UnixConnector(path)) as client, client.get("/status") as response:
        return msgspec.json.decode(await response.read(), type=StatusReport)


async def test_an_agent_that_restarts_without_its_controller_serves_what_was_known(node: Node) -> None:
    node.keep(KEPT)
    begin = time.monotonic()
    async with node.running() as agent, node.proxy() as peer:
        await peer.send(AskRoute(1, "web", "10.0.0.9:80"))
        route = await peer.receive()
        assert isinstance(route, AnswerRoute)
        assert isinstance(route.route, Forward)
        await peer.send(AskRoute(2, "web", "192.0.2.1:443"))
        passed = await peer.receive()
        assert isinstance(passed, AnswerRoute)
        assert isinstance(passed.route, Pass)
        await peer.send(AskVerdict(3, "api", "10.0.0.9:80", Via.HBONE, "10.0.0.1", "spiffe://cluster.local/ns/shop/sa/default"))
        verdict = await peer.receive()
        assert isinstance(verdict, AnswerVerdict)
        assert (verdict.allow, verdict.policy) == (False, "shop/deny")
        assert time.monotonic() - begin < 2
        await until(lambda: agent.reports.not_ready() is None)
        report = await status(agent)
        assert report.ready
        assert not report.controller.connected
        assert not report.configuration.current
        assert any("no connection to the controller" in problem.what for problem in report.problems)


async def test_what_was_never_known_stays_closed_until_it_is(node: Node) -> None:
    async with node.running() as agent, node.proxy() as peer:
        assert agent.reports.not_ready() == "the mesh's configuration has not arrived"
        await peer.send(AskRoute(1, "web", "10.0.0.9:80"))
        await peer.send(AskVerdict(2, "api", "10.0.0.9:80", Via.PLAINTEXT, "10.0.0.1"))
        answers = [await peer.receive(), await peer.receive()]
        routes = [answer.route for answer in answers if isinstance(answer, AnswerRoute)]
        verdicts = [answer for answer in answers if isinstance(answer, AnswerVerdict)]
        assert isinstance(routes[0], Refuse)
        assert not verdicts[0].allow
        assert not (await status(agent)).ready


async def test_readiness_and_metrics_are_served(node: Node) -> None:
    node.keep(KEPT)
    async with node.running() as agent, aiohttp.ClientSession() as client:
        assert agent.telemetry is not None
        ready = "http://{}:{}/healthz/ready".format(*agent.telemetry.addresses["readiness"])
        async with client.get(ready) as response:
            assert (response.status, await response.text()) == (503, "the proxy is not connected\n")
        async with node.proxy():
            await until(lambda: agent.sessions.state is not None)
            async with client.get(ready) as response:
                assert response.status == 200
        metrics = "http://{}:{}/metrics".format(*agent.telemetry.addresses["metrics"])
        async with client.get(metrics) as response:
            assert "nodemesh_controller_connected 0.0" in await response.text()


async def test_the_command_line_speaks_with_the_agent(node: Node) -> None:
    node.keep(KEPT)

    def command(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(command_line, ["--run-dir", str(node.config.run_dir), *arguments])
        return result.exit_code, result.stdout

    async with node.running() as agent, node.proxy():
        await until(lambda: agent.reports.not_ready() is None)
        code, text = await asyncio.to_thread(command, "status")
        assert code == 1, "a problem is shown: the controller does not answer"
        assert "node n1: ready" in text
        assert "NOT CONNECTED" in text
        assert await asyncio.to_thread(command, "workloads") == (0, "no workloads run on this node\n")
        code, text = await asyncio.to_thread(command, "workloads", "--all")
        assert "shop/api" in text
        code, text = await asyncio.to_thread(command, "policies")
        assert "shop/deny" in text
        assert (await asyncio.to_thread(command, "certs"))[0] == 0
        assert await asyncio.to_thread(command, "logs") == (0, "")
        code, text = await asyncio.to_thread(command, "explain", "10.0.0.1", "10.0.0.9:80")
        assert (code, "denied by shop/deny" in text) == (1, True)


async def test_what_is_kept_survives_an_agent_that_hears_nothing_new(node: Node) -> None:
    node.keep(KEPT)
    for _ in range(2):
        async with node.running():
            pass
    kept = load_kept(StateDirectory(node.config.state_dir))
    assert kept == KEPT


async def test_what_another_version_kept_is_left_alone(node: Node) -> None:
    node.keep(msgspec.structs.replace(KEPT, resources={**KEPT.resources, "type.example/Later": (Resource("x", "1", b"?"),)}))
    async with node.running() as agent:
        assert agent.store.current.workload(API.uid) == API


async def test_down_ends_proxy_and_agent(node: Node) -> None:
    node.keep(KEPT)
    async with node.running() as agent:
        pid = agent.supervisor.state.pid
        assert pid is not None
        arguments = ["--run-dir", str(node.config.run_dir), "down", "--drain", "0"]
        result = await asyncio.to_thread(CliRunner().invoke, command_line, arguments)
        assert (result.exit_code, result.stdout) == (0, "the proxy and the agent have ended\n")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_an_agent_that_cannot_run_says_why(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    missing = msgspec.structs.replace(node.config, root_ca=node.directory / "missing.pem")
    assert process.main(missing) == 1
    assert "missing.pem" in caplog.text
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        assert process.main(msgspec.structs.replace(node.config, metrics_listen=("127.0.0.1", port))) == 1
    assert "address already in use" in caplog.text
