"""Enrolment with real namespaces, a real capture and a real session; the proxy's end is this test's."""

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from nodeagent.capture.base import CaptureState
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.terms import Terms
from nodeagent.enrolment.entry import Description
from nodeagent.enrolment.owner import Enrolment
from nodeagent.enrolment.records import load
from nodeagent.enrolment.status import EnrolmentState
from nodeagent.enrolment.tally import Tallied
from nodeagent.enrolment.timing import Timing
from nodeagent.linux.namespaces import Namespace, key_at
from nodeagent.runtime.base import LocalWorkload
from nodeagent.state.files import StateDirectory
from nodeagent.ztunnel import protocol
from nodeagent.ztunnel.protocol import Held, HeldWorkload, ListenerKind, RemoveWorkload, SetWorkload, ToProxy
from nodeagent.ztunnel.transport import Session, SessionClosed
from tests.nodeagent.pods import Pair, Side, pair
from tests.nodeagent.standin import Application
from tests.nodeagent.waiting import until

capture = NftablesCapture()
QUICK = Timing(drain_s=0.3, identity_deadline_s=30.0, resync_s=0.2)
KINDS = {ListenerKind.OUTBOUND: 2, ListenerKind.INBOUND: 2, ListenerKind.PROBE: 2, ListenerKind.HBONE: 1}


class Listed:
    """A runtime that says what the test tells it to."""

    problem = ""

    def __init__(self, *workloads: LocalWorkload) -> None:
        self._sets: asyncio.Queue[tuple[LocalWorkload, ...]] = asyncio.Queue()
        if workloads:
            self.say(*workloads)

    def say(self, *workloads: LocalWorkload) -> None:
        self._sets.put_nowait(workloads)

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        while True:
            yield await self._sets.get()


class Peer:
    """The proxy's end of a session: keeps what it was sent; `sockets` are those of each workload."""

    def __init__(self) -> None:
        ours, self._end = socket.socketpair()
        self.session = Session(ours)
        self.messages: list[ToProxy] = []
        self.fds: dict[str, list[int]] = {}
        self._end.setblocking(False)  # noqa: FBT003 - the socket's own method
        self._buffer = b""
        self._pending: list[int] = []

    def read(self) -> list[ToProxy]:
        with contextlib.suppress(BlockingIOError):
            while True:
                # one frame at a time, so that its descriptors are known to be its own
                while len(self._buffer) < 4 or len(self._buffer) < 4 + struct.unpack_from("!I", self._buffer)[0]:
                    wanted = (
                        4 - len(self._buffer)
                        if len(self._buffer) < 4
                        else 4 + struct.unpack_from("!I", self._buffer)[0] - len(self._buffer)
                    )
                    data, fds, _, _ = socket.recv_fds(self._end, wanted, 16)
                    if not data:
                        return self.messages
                    self._buffer += data
                    self._pending += fds
                message = protocol.decode_to_proxy(self._buffer[4:])
                self._buffer = b""
                self.messages.append(message)
                if isinstance(message, SetWorkload) and self._pending:
                    self.fds[message.uid] = self._pending
                    self._pending = []
                assert not self._pending
        return self.messages

    def served(self, uid: str) -> SetWorkload | None:
        found = [one for one in self.read() if isinstance(one, SetWorkload) and one.uid == uid]
        return found[-1] if found else None

    def held(self, uid: str) -> tuple[Held, tuple[int, ...]]:
        message = self.served(uid)
        assert message
        return Held(uid=uid, generation=message.generation, listeners=message.listeners), tuple(self.fds[uid])

    def close(self) -> None:
        self.session.close()
        self._end.close()
        for fds in self.fds.values():
            for fd in fds:
                os.close(fd)


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    made.close()


def workload(side: Side, uid: str = "web", account: str = "default") -> LocalWorkload:
    return LocalWorkload(uid, uid, "shop", account, side.namespace.path, key_at(side.namespace.path))


def describe(one: LocalWorkload, addresses: tuple[str, ...], *, ready: bool = True) -> Description:
    return Description(f"spiffe://td/ns/shop/sa/{one.service_account}", addresses, {}, {}, identity_ready=ready)


@contextlib.asynccontextmanager
async def enrolling(
    runtime: Listed,
    store: StateDirectory,
    described: Callable[[LocalWorkload, tuple[str, ...]], Description | None] = describe,
    timing: Timing = QUICK,
) -> AsyncIterator[Enrolment]:
    made = Enrolment(runtime, capture, described, store, timing)
    task = asyncio.ensure_future(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


def state(enrolment: Enrolment, uid: str = "web") -> EnrolmentState | None:
    return next((one.state for one in enrolment.status() if one.workload.uid == uid), None)


def captured(side: Side) -> bool:
    return capture.inspect(side.namespace).state == CaptureState.CAPTURED


async def test_a_workload_is_announced_with_its_sockets_then_captured(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as enrolment:
        await until(lambda: state(enrolment) == EnrolmentState.LISTENING)
        assert enrolment.status()[0].problem == "no proxy is connected"
        assert not captured(network.pod)
        await enrolment.begin_session(peer.session, (), ())
        sent = peer.served("web")
        assert sent
        assert sent.identity == "spiffe://td/ns/shop/sa/default"
        assert sent.addresses == ("10.77.0.1", "fd77::1")
        assert {kind: sent.listeners.count(kind) for kind in KINDS} == KINDS
        network_fd, *listeners = peer.fds["web"]
        assert os.fstat(network_fd).st_ino == network.pod.namespace.key.inode
        assert len(listeners) == len(sent.listeners)
        assert state(enrolment) == EnrolmentState.CAPTURED
        assert enrolment.status()[0].captured_since_s
        assert captured(network.pod)
    assert captured(network.pod), "capture outlives the agent"


async def test_without_an_identity_it_is_closed_after_the_deadline_and_served_when_it_comes(
    network: Pair, store: StateDirectory, peer: Peer
) -> None:
    identities: list[bool] = []
    timing = timed(identity_deadline_s=0.3)
    async with enrolling(
        Listed(workload(network.pod)), store, lambda one, at: describe(one, at, ready=bool(identities)), timing
    ) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        await until(lambda: state(enrolment) == EnrolmentState.LISTENING)
        assert not captured(network.pod)
        await until(lambda: state(enrolment) == EnrolmentState.CLOSED)
        assert captured(network.pod)
        assert peer.served("web") is None
        assert enrolment.status()[0].problem == "waiting for its identity"
        identities.append(True)
        enrolment.touch()
        await until(lambda: peer.served("web") is not None)
        assert state(enrolment) == EnrolmentState.CAPTURED


def timed(**changes: float) -> Timing:
    return Timing(**{"drain_s": 0.3, "identity_deadline_s": 30.0, "resync_s": 0.2, **changes})


async def test_release_drains_and_leaves_the_namespace_as_it_was(network: Pair, store: StateDirectory, peer: Peer) -> None:
    before = network.pod.shell("nft", "list", "ruleset"), network.pod.shell("ip", "rule")
    runtime = Listed(workload(network.pod))
    async with enrolling(runtime, store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        await until(lambda: state(enrolment) == EnrolmentState.CAPTURED)
        runtime.say()
        await until(lambda: state(enrolment) == EnrolmentState.LEAVING)
        assert capture.inspect(network.pod.namespace).state == CaptureState.DRAINING
        assert peer.read()[-1] == RemoveWorkload(uid="web", drain_s=0.3)
        await until(lambda: not enrolment.status())
        assert capture.inspect(network.pod.namespace).state == CaptureState.ABSENT
    assert (network.pod.shell("nft", "list", "ruleset"), network.pod.shell("ip", "rule")) == before


async def test_a_pod_that_ended_is_not_drained(store: StateDirectory, peer: Peer) -> None:
    """Its entry goes when its namespace has gone already: nothing of it may stay until its address is another's."""
    with pair() as network:
        runtime = Listed(workload(network.pod))
        async with enrolling(runtime, store, timing=Timing(drain_s=60.0, resync_s=0.2)) as enrolment:
            await enrolment.begin_session(peer.session, (), ())
            await until(lambda: state(enrolment) == EnrolmentState.CAPTURED)
            remove_name(network.pod)
            runtime.say()
            await until(lambda: not enrolment.status())
            assert peer.read()[-1] == RemoveWorkload(uid="web", drain_s=0.0)


async def test_a_pod_that_ends_while_it_is_drained_is_let_go(store: StateDirectory, peer: Peer) -> None:
    """By agent and proxy, and at once: not when the kernel is next asked about captures."""
    with pair() as network:
        runtime = Listed(workload(network.pod))
        async with enrolling(runtime, store, timing=Timing(drain_s=60.0, resync_s=60.0)) as enrolment:
            await enrolment.begin_session(peer.session, (), ())
            await until(lambda: state(enrolment) == EnrolmentState.CAPTURED)
            runtime.say()
            await until(lambda: state(enrolment) == EnrolmentState.LEAVING)
            assert peer.read()[-1] == RemoveWorkload(uid="web", drain_s=60.0)
            remove_name(network.pod)
            await until(lambda: not enrolment.status())
            assert peer.read()[-1] == RemoveWorkload(uid="web", drain_s=0.0)


def remove_name(side: Side) -> None:
    subprocess.run(["ip", "netns", "delete", side.name], check=True, timeout=10)


async def test_enrolled_again_while_leaving_it_stays_captured(network: Pair, store: StateDirectory, peer: Peer) -> None:
    runtime = Listed(workload(network.pod))
    async with enrolling(runtime, store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        await until(lambda: state(enrolment) == EnrolmentState.CAPTURED)
        first = peer.served("web")
        for fd in peer.fds.pop("web"):
            os.close(fd)
        runtime.say()
        await until(lambda: state(enrolment) == EnrolmentState.LEAVING)
        runtime.say(workload(network.pod))
        await until(lambda: state(enrolment) == EnrolmentState.CAPTURED)
        second = peer.served("web")
        assert first
        assert second
        assert second.generation > first.generation
        assert [one.state for one in enrolment.status()] == [EnrolmentState.CAPTURED], "nothing is left that would clear it later"
        assert captured(network.pod)


async def test_a_restarted_agent_adopts_what_the_proxy_holds(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as first:
        await first.begin_session(peer.session, (), ())
        before = peer.served("web")
        assert before
    peer.session.close()
    again = Peer()
    # the list can't be read now: what the former agent enrolled stays in force
    async with enrolling(Listed(), store) as second:
        hello = (HeldWorkload("web", before.generation),)
        await second.begin_session(again.session, hello, (peer.held("web"),))
        after = again.served("web")
        assert after
        assert after.generation == before.generation
        assert not again.fds, "the proxy has the sockets"
        assert state(second) == EnrolmentState.CAPTURED
        second.end_session(again.session)
        fresh = Peer()  # a new proxy gets the adopted sockets
        await second.begin_session(fresh.session, (), ())
        assert fresh.served("web")
        assert len(fresh.fds["web"]) == 8
        fresh.close()
    again.close()


async def test_what_the_proxy_holds_for_another_identity_is_another_pod(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as first:
        await first.begin_session(peer.session, (), ())
        before = peer.served("web")
        assert before
    peer.session.close()
    again = Peer()
    async with enrolling(Listed(workload(network.pod, account="other")), store) as second:
        await second.begin_session(again.session, (HeldWorkload("web", before.generation),), (peer.held("web"),))
        after = again.served("web")
        assert after
        assert after.identity.endswith("/other")
        # With the same generation, the proxy would keep the connections that it carries under the former identity.
        assert after.generation > before.generation
        assert len(again.fds["web"]) == 8
        assert state(second) == EnrolmentState.CAPTURED
    again.close()


async def test_listeners_in_use_are_tried_again_until_they_are_free(network: Pair, store: StateDirectory, peer: Peer) -> None:
    blocker = network.pod.open_socket(socket.AF_INET6)
    blocker.bind(("::", 15008))
    blocker.listen()
    async with enrolling(Listed(workload(network.pod)), store) as enrolment:
        await until(lambda: "port 15008" in enrolment.status()[0].problem if enrolment.status() else False)
        assert state(enrolment) == EnrolmentState.WAITING
        blocker.close()
        await until(lambda: state(enrolment) == EnrolmentState.LISTENING)
        assert "15008" not in enrolment.status()[0].problem


async def test_what_a_former_agent_left_is_removed_once_the_list_says_so(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as first:
        await first.begin_session(peer.session, (), ())
    assert captured(network.pod)
    runtime = Listed()
    async with enrolling(runtime, store) as second:
        await until(lambda: state(second) is not None)
        assert captured(network.pod), "as long as nobody says otherwise"
        assert peer.served("web")
        for fd in peer.fds.pop("web"):  # the proxy is gone, too
            os.close(fd)
        runtime.say()
        await until(lambda: not second.status(), deadline_s=8)
    assert capture.inspect(network.pod.namespace).state == CaptureState.ABSENT


async def test_an_agent_that_died_while_a_workload_left_finishes_it(network: Pair, store: StateDirectory, peer: Peer) -> None:
    runtime = Listed(workload(network.pod))
    async with enrolling(runtime, store, timing=timed(drain_s=60.0)) as first:
        await first.begin_session(peer.session, (), ())
        runtime.say()
        await until(lambda: [record.leaving for record in load(store)] == [True])
    assert capture.inspect(network.pod.namespace).state == CaptureState.DRAINING
    async with enrolling(Listed(), store):
        await until(lambda: capture.inspect(network.pod.namespace).state == CaptureState.ABSENT)


async def test_tampering_is_put_right(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        network.pod.shell("nft", "delete", "table", "inet", "nodemesh")
        assert not captured(network.pod)
        await until(lambda: captured(network.pod) and state(enrolment) == EnrolmentState.CAPTURED)


async def test_status_has_the_counters_of_the_moment_it_looked(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store, timing=timed(resync_s=60.0)) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        waiting = await asyncio.to_thread(network.client.dial, network.pod.addresses[socket.AF_INET], 8080)  # for a proxy to accept it
        waiting.close()
        assert enrolment.status()[0].counters["inbound"].packets == 0
        await enrolment.look()
        assert enrolment.status()[0].counters["inbound"].packets > 0


async def test_another_account_is_another_generation_and_capture_stays(network: Pair, store: StateDirectory, peer: Peer) -> None:
    runtime = Listed(workload(network.pod))
    async with enrolling(runtime, store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        before = peer.served("web")
        runtime.say(workload(network.pod, account="other"))
        await until(lambda: (sent := peer.served("web")) is not None and sent.identity.endswith("/other"))
        after = peer.served("web")
        assert before
        assert after
        assert after.generation > before.generation
        kinds = [type(one) for one in peer.messages]
        assert kinds == [SetWorkload, RemoveWorkload, SetWorkload]
        assert captured(network.pod)


async def test_a_namespace_is_never_captured_for_two_nor_the_nodes_own(network: Pair, store: StateDirectory, peer: Peer) -> None:
    own = LocalWorkload("host", "host", "shop", "default", "/proc/self/ns/net", key_at("/proc/self/ns/net"))
    async with enrolling(Listed(workload(network.pod, "a"), workload(network.pod, "b"), own), store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        await until(lambda: state(enrolment, "a") == EnrolmentState.CAPTURED)
        problems = {one.workload.uid: one.problem for one in enrolment.status()}
        assert problems["b"] == "its network namespace belongs to a already"
        assert "never captured" in problems["host"]
    with Namespace.own() as node:
        assert capture.inspect(node).state == CaptureState.ABSENT


async def test_going_down_removes_everything(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        async with asyncio.timeout(3):
            await enrolment.down(0.1)
        assert capture.inspect(network.pod.namespace).state == CaptureState.ABSENT
        assert not enrolment.status()


async def test_a_session_that_breaks_is_told_and_the_next_one_gets_everything(network: Pair, store: StateDirectory, peer: Peer) -> None:
    async with enrolling(Listed(workload(network.pod)), store) as enrolment:
        await until(lambda: state(enrolment) == EnrolmentState.LISTENING)
        broken = Peer()
        broken.close()
        with pytest.raises(SessionClosed):
            await enrolment.begin_session(broken.session, (), ())
        await enrolment.begin_session(peer.session, (), ())
        assert peer.served("web")


def test_the_plan_can_be_printed(store: StateDirectory) -> None:
    async def empty() -> str:
        return str(Enrolment(Listed(), capture, describe, store).plan())

    assert asyncio.run(empty()) == ""


def on_terms(side: Side, terms: Terms) -> LocalWorkload:
    return replace(workload(side), terms=terms)


async def test_other_terms_are_applied_to_a_live_pod_and_make_no_other_of_it(network: Pair, store: StateDirectory, peer: Peer) -> None:
    some = Terms(exclude_outbound_ports=(3306,))
    runtime = Listed(workload(network.pod))
    async with enrolling(runtime, store) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        before = peer.served("web")
        runtime.say(on_terms(network.pod, some))
        await until(lambda: capture.inspect(network.pod.namespace, some).state is CaptureState.CAPTURED)
        await until(lambda: state(enrolment) == EnrolmentState.CAPTURED)
        assert before is not None
        assert [one for one in peer.read() if one != before] == []
        assert load(store)[0].workload.terms == some, "an agent that starts anew knows what to look for"


async def test_it_fails_open_where_it_may_and_closes_when_a_proxy_serves_it(network: Pair, store: StateDirectory, peer: Peer) -> None:
    pod, client = network.pod, network.client
    runtime = Listed(on_terms(pod, Terms(fail_open=True)))
    async with enrolling(runtime, store, timing=timed(open_after_s=0.2)) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        assert state(enrolment) == EnrolmentState.CAPTURED
        enrolment.end_session(peer.session)
        await until(lambda: state(enrolment) == EnrolmentState.OPEN)
        with Application(pod, 8080), Application(client, 8080):
            for side, other in ((client, pod), (pod, client)):
                with await asyncio.to_thread(side.dial, other.addresses[socket.AF_INET], 8080) as made:
                    await asyncio.to_thread(made.sendall, b"x")
                    assert await asyncio.to_thread(made.recv, 100)
        await enrolment.look()
        [status] = enrolment.status()
        assert status.tally[Tallied.OPENLY] == 2
        assert "no proxy is connected; passed by the mesh while its proxy was away: 2" in status.problem
        fresh = Peer()
        await enrolment.begin_session(fresh.session, (), ())
        assert state(enrolment) == EnrolmentState.CAPTURED
        assert enrolment.status()[0].tally[Tallied.OPENLY] == 2
        enrolment.end_session(fresh.session)
        await until(lambda: state(enrolment) == EnrolmentState.OPEN)
        runtime.say(workload(pod))
        await until(lambda: captured(pod) and state(enrolment) == EnrolmentState.CLOSED)
        fresh.close()


async def test_without_leave_it_stays_closed_however_long_the_proxy_is_away(network: Pair, store: StateDirectory, peer: Peer) -> None:
    other = on_terms(network.client, Terms(fail_open=True))
    both = Listed(workload(network.pod), replace(other, uid="b", name="b"))
    async with enrolling(both, store, timing=timed(open_after_s=0.1)) as enrolment:
        await enrolment.begin_session(peer.session, (), ())
        enrolment.end_session(peer.session)
        await until(lambda: state(enrolment, "b") == EnrolmentState.OPEN)
        assert state(enrolment) == EnrolmentState.CLOSED
        assert captured(network.pod)
