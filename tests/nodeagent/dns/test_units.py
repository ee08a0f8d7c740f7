"""Questions of process groups that share a network: each is answered as itself, and all others of the host as if we were not there."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from nodeagent.bpf.outbound import Outbound
from nodeagent.capture import presence
from nodeagent.capture.base import CaptureState
from nodeagent.capture.listeners import open_listeners
from nodeagent.capture.unit_questions import resolves_at_loopback
from nodeagent.capture.units import UnitCapture, dns_port
from nodeagent.dns.owner import DNSOwner
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.units import Unit
from nodeagent.runtime.base import LocalWorkload
from tests.nodeagent import bpffs, cgroups
from tests.nodeagent.dns.conftest import TERMS, Scene, joined
from tests.nodeagent.dns.resolver import Resolver, addresses, ask, ask_by_tcp, resolver
from tests.nodeagent.pods import Pair, Side
from tests.nodeagent.standin import Proxy
from tests.nodeagent.waiting import until

WEB, FULL = "web", "web.shop.svc.cluster.local"
"""A name of the namespace shop, as it is called there and elsewhere."""


@dataclass(frozen=True)
class Group:
    """`name` is that of its namespace, too."""

    name: str
    unit: Unit
    path: Path
    capture: UnitCapture

    async def ask(self, server: str, name: str) -> dns.message.Message:
        """As a process of the group does, of a group below it even."""
        with cgroups.inside(self.path / "inner"):
            return await asyncio.to_thread(ask, self.unit, server, name)


def workload(group: Group, host: Side) -> LocalWorkload:
    """As on a host whose network is the test's."""

    class OfHost(LocalWorkload, frozen=True):
        def open(self) -> Namespace:
            return Unit.open(self.netns, host.namespace.path)

    return OfHost(
        f"c//Unit/{group.name}/app", "app", group.name, "default", str(group.path), network=group.unit.key, terms=TERMS, process_group=True
    )


@pytest.fixture(scope="module")
def network() -> Iterator[Pair]:
    with joined() as made:
        yield made


@pytest.fixture(scope="module", params=["10.77.0.2", "127.0.0.53"], ids=["elsewhere", "stub"])
def resolvers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's resolv.conf."""
    made: Path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    made.write_text(f"# of the host\nsearch example\nnameserver {request.param}\n")
    return made


@pytest.fixture(scope="module")
def groups(network: Pair, resolvers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Group, Group]]:
    host = network.pod
    with ExitStack() as stack:
        pins = stack.enter_context(bpffs.mounted(tmp_path_factory.mktemp("bpffs"))) / "nodemesh"
        capture = UnitCapture(pins, Outbound(pins), resolvers)
        made = []
        for name in ("shop", "bank"):
            path = stack.enter_context(cgroups.made())
            (path / "inner").mkdir()
            stack.callback(cgroups.remove, path / "inner")
            unit = stack.enter_context(Unit.open(str(path), host.namespace.path))
            listeners = open_listeners(unit)
            stack.enter_context(Proxy(host, listeners, shares_network=True))
            capture.apply(unit, listeners, TERMS)
            stack.callback(capture.remove, unit)
            found = capture.inspect(unit, TERMS)
            assert (found.state, "resolvers" in found.remark) == (CaptureState.CAPTURED, False)
            made.append(Group(name, unit, path, capture))
        yield made[0], made[1]


@pytest.fixture
def scene(network: Pair, groups: tuple[Group, Group]) -> Scene:
    made = Scene(network)
    made.statuses[:] = [WorkloadStatus(workload(one, network.pod), EnrolmentState.CAPTURED, "cgroup") for one in groups]
    return made


@asynccontextmanager
async def serving(owner: DNSOwner) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(owner.run())
        await until(lambda: len(owner._served) == 2, deadline_s=15.0)
        try:
            yield
        finally:
            task.cancel()


async def test_each_is_answered_as_itself(scene: Scene, groups: tuple[Group, Group], server: str, upstream: Resolver) -> None:
    shop, bank = groups
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    async with serving(scene.owner):
        for name in (WEB, FULL):
            assert addresses(await shop.ask(server, name)) == ["10.96.0.1"]
        assert addresses(await bank.ask(server, FULL)) == ["10.96.0.1"]
        assert (await bank.ask(server, WEB)).rcode() == dns.rcode.NXDOMAIN
        assert upstream.asked() == ["web."]
        assert addresses(await bank.ask(server, "www.example")) == ["192.0.2.1"]
        counts = {namespace: counts for (_, namespace), counts in scene.owner.counts.items()}
        assert (counts["shop"].upstream, counts["bank"].upstream) == (0, 2)


async def test_by_tcp_too(scene: Scene, groups: tuple[Group, Group], server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    async with serving(scene.owner):
        with cgroups.inside(groups[0].path):
            found = await asyncio.to_thread(ask_by_tcp, groups[0].unit, server, WEB, "www.example")
        assert [addresses(one) for one in found] == [["10.96.0.1"], ["192.0.2.1"]]


async def test_others_of_the_host_ask_their_resolver(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers[f"{FULL}.", "A"] = ("192.0.2.9",)
    async with serving(scene.owner):
        assert addresses(await asyncio.to_thread(ask, scene.pod.namespace, server, FULL)) == ["192.0.2.9"]
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, FULL)
        assert addresses(by_tcp) == ["192.0.2.9"]


async def test_nobody_else_comes_to_the_agents_port(scene: Scene, groups: tuple[Group, Group], server: str) -> None:
    loopback, family = ("::1", socket.AF_INET6) if ":" in server else ("127.0.0.1", socket.AF_INET)
    place = loopback, dns_port(groups[0].unit)
    async with serving(scene.owner):
        with scene.pod.open_socket(family, socket.SOCK_DGRAM) as client, scene.pod.open_socket(family) as by_tcp:
            client.sendto(dns.message.make_query(FULL, "A").to_wire(), place)
            by_tcp.settimeout(0)
            by_tcp.connect_ex(place)
            assert addresses(await groups[0].ask(server, FULL)) == ["10.96.0.1"]
            client.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)
    counters = groups[0].capture.inspect(groups[0].unit, TERMS).counters
    assert counters["stranger-dns6" if ":" in server else "stranger-dns"].packets >= 2


async def test_without_the_agent_the_resolver_answers(scene: Scene, groups: tuple[Group, Group], server: str, upstream: Resolver) -> None:
    """One that ends says so; after one that was killed a question is lost."""
    shop, _ = groups
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    async with serving(scene.owner):
        assert addresses(await shop.ask(server, WEB)) == ["10.96.0.1"]
    assert addresses(await shop.ask(server, "www.example")) == ["192.0.2.1"]
    presence.say_here(shop.unit)
    with cgroups.inside(shop.path), scene.pod.open_socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as lost:
        lost.sendto(dns.message.make_query("www.example", "A").to_wire(), (server, 53))
    assert addresses(await shop.ask(server, "www.example")) == ["192.0.2.1"]
    assert upstream.asked() == ["www.example."] * 2


@pytest.mark.parametrize("stub", ["127.0.0.53", "127.0.0.1", "::1"])
async def test_a_stub_of_the_host_is_asked_for_what_the_mesh_does_not_know(
    scene: Scene, groups: tuple[Group, Group], resolvers: Path, stub: str
) -> None:
    """Without a resolver on a loopback address, what is sent to one is left alone."""
    there = resolves_at_loopback(resolvers)
    with resolver(scene.pod.namespace, stub) as own:
        own.answers["www.example.", "A"] = ("192.0.2.1",)
        async with serving(scene.owner):
            assert addresses(await groups[0].ask(stub, WEB)) == (["10.96.0.1"] if there else [])
            assert addresses(await groups[0].ask(stub, "www.example")) == ["192.0.2.1"]
            with cgroups.inside(groups[0].path):
                [by_tcp] = await asyncio.to_thread(ask_by_tcp, groups[0].unit, stub, WEB)
            assert addresses(by_tcp) == (["10.96.0.1"] if there else [])
            assert addresses(await asyncio.to_thread(ask, scene.pod.namespace, stub, WEB)) == [], "the host's own question"
        assert addresses(await groups[0].ask(stub, "www.example")) == ["192.0.2.1"]
        presence.say_here(groups[0].unit)
        if there:  # the first after an agent that was killed
            with pytest.raises(ConnectionRefusedError):
                await groups[0].ask(stub, "www.example")
        assert addresses(await groups[0].ask(stub, "www.example")) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 127.0.0.53\n", True),
        ("search a\n nameserver\t::1", True),
        ("nameserver 10.0.0.1\nnameserver 127.0.0.1", True),
        ("nameserver 10.0.0.1\n#nameserver 127.0.0.1\noptions ndots:5\nnameserver", False),
        ("", False),
    ],
)
def test_where_a_host_asks(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    assert resolves_at_loopback(file) is expected
    assert not resolves_at_loopback(tmp_path / "none")


def test_a_cgroup_that_can_not_be_named_is_captured_and_asks_its_own(network: Pair, tmp_path: Path) -> None:
    """As where cgroups are mounted elsewhere."""
    with bpffs.mounted(tmp_path) as mounted, cgroups.made(f"nm {secrets.token_hex(4)}") as path:
        capture = UnitCapture(mounted / "nodemesh", Outbound(mounted / "nodemesh"))
        with Unit.open(str(path), network.pod.namespace.path) as unit:
            listeners = open_listeners(unit)
            with Proxy(network.pod, listeners, shares_network=True):
                capture.apply(unit, listeners, TERMS)
                try:
                    found = capture.inspect(unit, TERMS)
                    assert (found.state, found.problem) == (CaptureState.CAPTURED, "")
                    assert "it asks its own resolvers: nftables can't name its cgroup" in found.remark
                finally:
                    capture.remove(unit)
