"""The DNS of one workload on real sockets: a pod that asks, a resolver that answers, fails or lies."""

import asyncio
import errno
import secrets
import socket
import threading
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import pytest

from meshapi.names import Host, Names
from meshapi.workload import Service, ServiceKey, Workload, WorkloadUID
from nodeagent.dns import endpoints
from nodeagent.dns import server as serving
from nodeagent.dns import sockets as asking_sockets
from nodeagent.dns import upstream as asking
from nodeagent.dns.cache import MAX_ENTRIES
from nodeagent.dns.forwarding import MAX_SERVERS
from nodeagent.dns.metrics import DNSMetrics
from nodeagent.linux.errors import KernelError
from nodeagent.snapshot.update import Update
from tests.nodeagent.dns.conftest import Scene
from tests.nodeagent.dns.resolver import Resolver, addresses, ask, ask_by_tcp
from tests.nodeagent.waiting import until

WEB = "web.shop.svc.cluster.local"
ALIASES = Names("shop", "cluster.local", (Host("away.shop.svc.cluster.local", alias="www.example.org"),))
DB = ServiceKey("shop/db.shop.svc.cluster.local")


async def asked(scene: Scene, server: str, name: str, kind: str = "A", **options: object) -> dns.message.Message:
    return await asyncio.to_thread(ask, scene.pod.namespace, server, name, kind, **options)


async def test_names_of_the_mesh_need_no_resolver(scene: Scene, server: str) -> None:
    async with scene.serving():
        for kind, address in (("A", "10.96.0.1"), ("AAAA", "fd00::1")):
            response = await asked(scene, server, WEB, kind)
            assert addresses(response) == [address]
            assert response.flags & dns.flags.AA
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, WEB)
        assert addresses(by_tcp) == ["10.96.0.1"]


async def test_other_names_go_to_the_resolver_that_was_asked_and_are_kept(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1", "192.0.2.2")
    async with scene.serving():
        for name in ("www.example", "WWW.example"):
            assert addresses(await asked(scene, server, name)) == ["192.0.2.1", "192.0.2.2"]
        assert upstream.asked() == ["www.example."]
        for _ in range(2):
            missing = await asked(scene, server, "no.example")
            assert missing.rcode() == dns.rcode.NXDOMAIN
        assert upstream.asked() == ["no.example."]
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, "www.example")
        assert addresses(by_tcp) == ["192.0.2.1", "192.0.2.2"]


async def test_equal_questions_at_once_are_one(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    upstream.before = lambda *_: _delay()
    async with scene.serving():
        found = await asyncio.gather(*(asked(scene, server, "www.example") for _ in range(10)))
        assert all(addresses(one) == ["192.0.2.1"] for one in found)
        assert upstream.asked() == ["www.example."]


def _delay() -> None:
    """Long enough for all to have asked."""
    threading.Event().wait(0.5)


async def test_an_alias_is_followed_by_the_resolver_that_was_asked(scene: Scene, server: str, upstream: Resolver) -> None:
    scene.directory.put(ALIASES)
    upstream.answers["www.example.org.", "A"] = ("192.0.2.1",)
    upstream.answers["www.example.org.", "AAAA"] = ("2001:db8::1",)
    upstream.ttl_s = 7
    async with scene.serving():
        for kind, address in (("A", "192.0.2.1"), ("AAAA", "2001:db8::1")):
            found = await asked(scene, server, "away", kind)
            assert [(rrset.name.to_text(), rrset.ttl) for rrset in found.answer] == [("away.", 7), ("www.example.org.", 7)]
            assert addresses(found) == [address]
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, "away.shop")
        assert addresses(by_tcp) == ["192.0.2.1"]
        upstream.asked()
        assert addresses(await asked(scene, server, "away")) == ["192.0.2.1"]
        assert upstream.asked() == []
        # Who knows only the alias is told of it, whatever it asks for; that is no question for the resolver.
        assert (await asked(scene, server, "away", "TXT")).answer[0].to_text().endswith("CNAME www.example.org.")
        assert upstream.asked() == []


async def test_an_alias_of_what_is_not_there_and_of_too_much(scene: Scene, server: str, upstream: Resolver) -> None:
    scene.directory.put(ALIASES)
    async with scene.serving():
        missing = await asked(scene, server, "away")
        assert (missing.rcode(), addresses(missing)) == (dns.rcode.NXDOMAIN, [])
        upstream.answers["www.example.org.", "AAAA"] = tuple(f"2001:db8::{number:x}" for number in range(1, 201))
        assert (await asked(scene, server, "away", "AAAA")).flags & dns.flags.TC
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, "away", kind="AAAA")
        assert len(addresses(by_tcp)) == 200


async def test_while_a_resolver_says_nothing_others_do_not_wait(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    upstream.silent = True
    async with scene.serving():
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(asked(scene, server, f"{number}.example")) for number in range(5)]
            await until(lambda: upstream.seen.qsize() >= 5, deadline_s=10.0)
            assert addresses(await asked(scene, server, WEB)) == ["10.96.0.1"]
            assert not any(one.done() for one in waiting)
        assert {one.result().rcode() for one in waiting} == {dns.rcode.SERVFAIL}
        # In doubt: who asks is told soon, and turns to another resolver.
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert (await asked(scene, server, "another.example")).rcode() == dns.rcode.SERVFAIL
        assert loop.time() - began_s < 1.5
        upstream.silent = False
        async with asyncio.timeout(20):
            while (await asked(scene, server, "www.example")).rcode() != dns.rcode.NOERROR:  # noqa: ASYNC110 - the resolver's turn
                await asyncio.sleep(0.2)


async def test_a_resolver_that_is_not_there_is_told_at_once(scene: Scene, server: str) -> None:
    async with scene.serving():
        assert (await asked(scene, server, "www.example", timeout_s=3.0)).rcode() == dns.rcode.SERVFAIL


async def test_a_resolver_that_answers_in_letters_of_its_own(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.folds_case = True
    upstream.answers["www.example-of-many-letters.", "A"] = ("192.0.2.1",)
    async with scene.serving():
        assert addresses(await asked(scene, server, "www.example-of-many-letters")) == ["192.0.2.1"]


async def test_answers_that_nobody_asked_for_are_not_believed(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["a-name-with-many-letters.example.", "A"] = ("192.0.2.1",)

    def lie(own: socket.socket, response: dns.message.Message, client: tuple[str, int]) -> None:
        good = response.to_wire()
        forged = good.replace(b"\xc0\x00\x02\x01", b"\xc6\x33\x64\x66")
        assert forged != good
        with scene.client.namespace.run(socket.socket, own.family, socket.SOCK_DGRAM) as stranger:
            stranger.bind((server, 0))
            stranger.sendto(forged, client)  # from another port
        own.sendto(bytes((forged[0] ^ 1,)) + forged[1:], client)  # another number
        own.sendto(forged[:14] + b"x" + forged[15:], client)  # another question
        own.sendto(forged.swapcase().replace(forged.swapcase()[:12], forged[:12]), client)  # other letters
        own.sendto(forged[:20], client)
        own.sendto(secrets.token_bytes(60), client)

    upstream.before = lie
    async with scene.serving():
        for _ in range(2):
            assert addresses(await asked(scene, server, "a-name-with-many-letters.example")) == ["192.0.2.1"]


async def test_what_is_too_long_for_udp_comes_by_tcp(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["big.example.", "A"] = tuple(f"192.0.2.{number}" for number in range(1, 101))
    async with scene.serving():
        response = await asked(scene, server, "big.example")
        assert response.flags & dns.flags.TC
        [by_tcp] = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, "big.example")
        assert len(addresses(by_tcp)) == 100
        assert len(addresses(await asked(scene, server, "big.example", use_edns=0, payload=4096))) in {0, 100}


async def test_questions_in_one_stream_do_not_wait_for_each_other(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers |= {(f"{number}.example.", "A"): (f"192.0.2.{number}",) for number in range(1, 20)}
    names = [f"{number}.example" for number in range(1, 20)] + [WEB]
    async with scene.serving():
        found = await asyncio.to_thread(ask_by_tcp, scene.pod.namespace, server, *names)
        assert [addresses(one) for one in found] == [[f"192.0.2.{number}"] for number in range(1, 20)] + [["10.96.0.1"]]


async def test_a_stream_that_says_nothing_is_ended(scene: Scene, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "IDLE_S", 0.2)

    def idle() -> bytes:
        with scene.pod.dial(server, 53) as made:
            made.settimeout(10)
            made.sendall(b"\x00")
            return made.recv(10)

    async with scene.serving():
        assert await asyncio.to_thread(idle) == b""


async def test_endpoints_are_asked_of_the_controller_when_somebody_asks_for_them(scene: Scene, server: str) -> None:
    async with scene.serving(), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(asked(scene, server, "db"))
        await until(lambda: scene.subscriptions.needed == [DB], deadline_s=10.0)
        pod = Workload(WorkloadUID("db-0"), "db-0", "shop", (ip_address("10.0.0.7"),), services={DB: ()})
        scene.store.apply(Update(services=(Service("db", "shop", "db.shop.svc.cluster.local"),), workloads=(pod,)))
        assert addresses(await waiting) == ["10.0.0.7"]
        assert scene.subscriptions.dropped == [DB]
        assert addresses(await asked(scene, server, "db-0.db")) == ["10.0.0.7"]
        assert scene.subscriptions.needed == [DB]


async def test_a_service_that_the_controller_does_not_have_after_all_is_not_waited_for(
    scene: Scene, server: str, upstream: Resolver
) -> None:
    scene.store.apply(Update(absent=(DB,)))
    loop = asyncio.get_running_loop()
    async with scene.serving():
        began_s = loop.time()
        assert (await asked(scene, server, "db.shop.svc.cluster.local")).rcode() == dns.rcode.NXDOMAIN
        assert loop.time() - began_s < endpoints.WAIT_S


async def test_without_the_controller_endpoints_that_are_not_known_are_the_resolvers(scene: Scene, server: str, upstream: Resolver) -> None:
    scene.subscriptions.connected = False
    upstream.answers["db.shop.svc.cluster.local.", "A"] = ("192.0.2.9",)
    async with scene.serving():
        assert addresses(await asked(scene, server, "db.shop.svc.cluster.local")) == ["192.0.2.9"]


async def test_a_flood_grows_nothing_and_others_are_answered(scene: Scene, server: str, upstream: Resolver) -> None:
    """Names that nobody has, garbage, and answers that nobody asked for."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET

    def flood() -> None:
        with scene.pod.open_socket(family, socket.SOCK_DGRAM) as made:
            made.settimeout(0)
            made.connect((server, 53))
            for number in range(3000):
                packet = (
                    secrets.token_bytes(number % 90)
                    if number % 3
                    else dns.message.make_query(f"{secrets.token_hex(6)}.example", "A").to_wire()
                )
                try:
                    made.send(packet)
                except OSError:
                    continue

    async with scene.serving():
        flooding = asyncio.get_running_loop().run_in_executor(None, flood)
        async with asyncio.timeout(30):
            while True:
                try:
                    found = await asked(scene, server, WEB, timeout_s=2.0)
                except TimeoutError:
                    continue
                assert addresses(found) == ["10.96.0.1"]
                if flooding.done():
                    break
        await flooding
        [served] = scene.owner._served.values()
        assert not served.task.done()
        assert len(upstream.seen.queue) <= 1000
    assert MAX_ENTRIES <= 1000


async def test_a_workload_that_leaves_asks_its_own_resolvers_and_is_served_when_it_comes_back(
    scene: Scene, server: str, upstream: Resolver
) -> None:
    upstream.answers["web.shop.svc.cluster.local.", "A"] = ("192.0.2.9",)
    async with scene.serving():
        assert addresses(await asked(scene, server, WEB)) == ["10.96.0.1"]
        statuses, scene.statuses = scene.statuses, []
        scene.owner.touch()
        await until(lambda: not scene.owner._served, deadline_s=10.0)
        assert addresses(await asked(scene, server, WEB)) == ["192.0.2.9"]
        scene.statuses = statuses
        scene.owner.touch()
        await until(lambda: bool(scene.owner._served), deadline_s=10.0)
        assert addresses(await asked(scene, server, WEB)) == ["10.96.0.1"]
    assert addresses(await asked(scene, server, WEB)) == ["192.0.2.9"], "an agent that ends leaves it to them"


async def test_what_is_told_of_it(scene: Scene, server: str, upstream: Resolver) -> None:
    upstream.answers["www.example.", "A"] = ("192.0.2.1",)
    async with scene.serving():
        for name in (WEB, "www.example", "www.example"):
            await asked(scene, server, name)
        samples = {
            (one.name, *sorted(one.labels.items())): one.value
            for family in DNSMetrics(scene.owner.counts).collect()
            for one in family.samples
        }
        source = (("source_workload", "web"), ("source_workload_namespace", "shop"))
        for by in ("mesh", "resolver", "cache"):
            assert samples["istio_dns_requests_total", ("answered_by", by), ("request_protocol", "udp"), *source] == 1
        assert samples["istio_dns_upstream_requests_total", *source] == 1
        assert samples["istio_dns_upstream_failures_total", *source] == 0
        assert samples["istio_dns_upstream_request_duration_seconds_count", *source] == 1
        assert scene.owner.summary() == "1 workloads served, 2 names of the mesh"


async def test_ports_that_questions_come_from_change_and_no_answer_is_lost(
    scene: Scene, server: str, upstream: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "POOL_USES", 4)
    monkeypatch.setattr(asking, "POOL_AGE_S", 0.0)
    ports: set[int] = set()
    upstream.before = lambda _own, _response, client: ports.add(client[1])
    upstream.answers |= {(f"{number}.example.", "A"): ("192.0.2.1",) for number in range(24)}
    async with scene.serving():
        for number in range(24):
            assert addresses(await asked(scene, server, f"{number}.example")) == ["192.0.2.1"]
        [served] = scene.owner._served.values()
        assert not served.task.done()
    assert len(ports) > asking_sockets.POOL


async def test_who_guesses_answers_makes_the_ports_change(
    scene: Scene, server: str, upstream: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "POOL_AGE_S", 0.0)
    ports: list[int] = []

    def guess(own: socket.socket, response: dns.message.Message, client: tuple[str, int]) -> None:
        ports.append(client[1])
        for number in range(1, 12):
            own.sendto(((response.id + number) % 65536).to_bytes(2, "big") + response.to_wire()[2:], client)

    upstream.before = guess
    upstream.answers |= {(f"{number}.example.", "A"): ("192.0.2.1",) for number in range(asking_sockets.POOL + 1)}
    async with scene.serving():
        for number in range(asking_sockets.POOL + 1):
            assert addresses(await asked(scene, server, f"{number}.example")) == ["192.0.2.1"]
    assert len(set(ports)) == len(ports)


async def test_who_asks_resolvers_without_end_holds_only_a_few(scene: Scene) -> None:
    async with scene.serving():
        for number in range(200, 210):
            assert addresses(await asked(scene, f"10.77.0.{number}", WEB)) == ["10.96.0.1"]

        def spray() -> None:
            for number in range(3, 199):
                with scene.pod.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
                    made.connect((f"10.77.0.{number}", 53))
                    made.send(dns.message.make_query(WEB, "A").to_wire())

        await asyncio.to_thread(spray)
        [served] = scene.owner._served.values()
        assert addresses(await asked(scene, "10.77.0.209", WEB)) == ["10.96.0.1"]
        assert not served.task.done()
        ours = await asyncio.to_thread(scene.pod.shell, "ss", "-Hlun", "sport", "=", ":53")
        assert 0 < len(ours.splitlines()) <= MAX_SERVERS + 1


async def test_that_no_answer_can_leave_is_told_once(
    scene: Scene, server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of an agent that may not have a port that low."""

    def refuse(address: str) -> socket.socket:
        raise KernelError(errno.EACCES, f"answers from {address} port 53")

    monkeypatch.setattr(asking_sockets, "open_answering", refuse)
    async with scene.serving():
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asked(scene, server, WEB, timeout_s=0.5)
        assert "questions are not answered: answers from" in scene.owner.summary()
    assert len([one for one in caplog.records if "is not answered" in one.message]) == 1
