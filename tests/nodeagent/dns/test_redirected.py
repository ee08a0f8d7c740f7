"""Questions that come by redirection: which resolver each was for is known exactly, and its answer comes from there."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dns.message
import pytest

from meshapi.wire import DNS_PORT, OUTBOUND_PORT, PROXY_MARK
from nodeagent.capture import presence
from nodeagent.capture.base import CaptureState
from nodeagent.linux.sockets import listener
from tests.nodeagent.capture.ways import made as made_capture
from tests.nodeagent.dns.conftest import TERMS, Scene, joined
from tests.nodeagent.dns.resolver import Resolver, addresses, ask, ask_by_tcp, resolver
from tests.nodeagent.pods import Pair

WEB = "web.shop.svc.cluster.local"
OTHERS = {4: "10.77.0.3", 6: "fd77::3"}
"""A second resolver for each family."""


@pytest.fixture(scope="module", params=["redirect", "iptables-nft", "iptables-legacy"])
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    unused: Path = tmp_path_factory.mktemp("pins")
    with joined() as made, made_capture(request.param, unused) as capture:
        for version, address in OTHERS.items():
            prefix = f"{address}/64" if version == 6 else f"{address}/24"
            made.client.shell("ip", "address", "add", prefix, "dev", "eth0", *(("nodad",) if version == 6 else ()))
        capture.apply(made.pod.namespace, terms=TERMS)
        assert capture.inspect(made.pod.namespace, TERMS).state is CaptureState.CAPTURED
        yield made


@pytest.fixture
def scene(network: Pair) -> Scene:
    return Scene(network, redirected=True)


async def asked(scene: Scene, server: str, name: str, kind: str = "A") -> dns.message.Message:
    return await asyncio.to_thread(ask, scene.pod.namespace, server, name, kind)


async def test_the_mesh_answers_and_the_resolver_that_was_asked(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    async with scene.serving():
        assert addresses(await asked(scene, server, WEB)) == ["10.96.0.1"]
        assert addresses(await asked(scene, server, "www.example")) == ["192.0.2.1"]
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, WEB)
        assert addresses(by_tcp) == ["10.96.0.1"]
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, "www.example")
        assert addresses(by_tcp) == ["192.0.2.1"]


async def test_one_socket_that_asks_two_resolvers_at_once(scene: Scene, server: str, upstream: Resolver) -> None:
    """As musl's does: the kernel then gives one of the two another port, which is taken back on the way."""
    version = 6 if ":" in server else 4
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    question = dns.message.make_query("www.example", "A").to_wire()
    with resolver(scene.client.namespace, OTHERS[version]) as other:
        other.answers["www.example.", "A"] = ("192.0.2.2",)
        async with scene.serving():
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            with closing(scene.pod.open_socket(family, socket.SOCK_DGRAM)) as client:
                client.settimeout(10)
                for one in (server, OTHERS[version]):
                    client.sendto(question, (one, 53))
                heard = [await asyncio.to_thread(client.recvfrom, 4096) for _ in range(2)]
    found = {sender[0]: addresses(dns.message.from_wire(packet)) for packet, sender in heard}
    assert found == {server: ["192.0.2.1"], OTHERS[version]: ["192.0.2.2"]}


async def test_who_asks_the_agent_by_its_own_port_is_not_answered(scene: Scene, server: str) -> None:
    loopback = "::1" if ":" in server else "127.0.0.1"
    question = dns.message.make_query(WEB, "A").to_wire()
    async with scene.serving():
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with scene.pod.open_socket(family, socket.SOCK_DGRAM) as client, scene.pod.open_socket(family) as by_tcp:
            client.sendto(question, (loopback, DNS_PORT))
            by_tcp.settimeout(10)
            await asyncio.to_thread(by_tcp.connect, (loopback, DNS_PORT))
            assert await asyncio.to_thread(by_tcp.recv, 1) == b""
            # It was read before this one, and nothing came of it.
            assert addresses(await asked(scene, server, WEB)) == ["10.96.0.1"]
            client.settimeout(0)
            with pytest.raises(BlockingIOError):
                client.recv(1)


async def test_an_agent_that_ends_says_so_and_no_question_is_lost(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    async with scene.serving():
        assert addresses(await asked(scene, server, WEB)) == ["10.96.0.1"]
    assert addresses(await asked(scene, server, "www.example")) == ["192.0.2.1"]


def test_after_one_that_was_killed_the_first_question_is_refused_and_no_other(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    presence.say_here(scene.pod.namespace)
    with scene.pod.open_socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((server, 53))
        client.send(dns.message.make_query("www.example", "A").to_wire())
        with pytest.raises(ConnectionRefusedError):
            client.recv(4096)
    assert addresses(ask(scene.pod.namespace, server, "www.example", "A")) == ["192.0.2.1"]


def test_so_it_is_with_connections(scene: Scene, server: str) -> None:
    """What follows the first goes to the proxy, which is not there either."""
    presence.say_here(scene.pod.namespace)
    with pytest.raises(ConnectionRefusedError):
        scene.pod.dial(server, 53)
    with scene.pod.namespace.run(listener, "::1" if ":" in server else "127.0.0.1", OUTBOUND_PORT, mark=PROXY_MARK) as proxy:
        proxy.settimeout(10)
        with scene.pod.dial(server, 53):
            proxy.accept()[0].close()
