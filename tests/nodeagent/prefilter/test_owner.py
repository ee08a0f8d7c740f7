"""Policies come and go, and the kernel refuses by them: with real packets, without a connection to the proxy, within a second."""

import asyncio
import errno
import socket
import time
from contextlib import suppress
from ipaddress import ip_network

import pytest

from meshapi.authorization import Action, Match, Policy, PolicyScope, Present
from nodeagent.bpf.steering import Reason
from nodeagent.enrolment.status import EnrolmentState
from nodeagent.linux.errors import KernelError
from nodeagent.prefilter.owner import PrefilterOwner
from nodeagent.prefilter.telling import Telling
from nodeagent.snapshot.update import Update
from nodeagent.telemetry.records import DENIED_FLAG
from nodeagent.ztunnel.protocol import Via
from tests.nodeagent.prefilter.conftest import PORT, UID, Node
from tests.nodeagent.waiting import until

STRICT = Match(not_principals=(Present(),))
ACTS_S = 1.0
NOISE_S = 4.0
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def deny(*matches: Match, name: str = "closed") -> Update:
    return Update(policies=(Policy(name, "shop", PolicyScope.NAMESPACE, Action.DENY, rules=((matches,),)),))


async def becomes(node: Node, outcome: str, family: int = socket.AF_INET, port: int = PORT) -> float:
    """Seconds until calls end like this."""
    begin = time.monotonic()
    async with asyncio.timeout(10):
        while await node.call(family, port) != outcome:
            pass
    return time.monotonic() - begin


def lookups(node: Node, reason: Reason) -> int:
    found = node.steering.inspect(node.network.pod.namespace)
    assert found is not None
    return found.lookups[reason]


async def test_a_denial_refuses_at_the_first_packet_and_opens_again_when_it_goes(node: Node) -> None:
    async with node.owned() as owner:
        await until(lambda: owner.words(UID) == "no policy denies what a first packet shows")
        assert [await node.call(family) for family in FAMILIES] == ["answered", "answered"]
        node.store.apply(deny(STRICT))
        took = await becomes(node, "refused")
        assert took < ACTS_S + NOISE_S
        await until(lambda: owner.words(UID) == "refuses denied by shop/closed")
        assert owner.summary() == "1 of 1 workloads refuse at the first packet"
        inbound = lookups(node, Reason.INBOUND)
        seen, before, same = node.proxy.seen.qsize(), lookups(node, Reason.DENIED), lookups(node, Reason.DENIED_SAME)
        assert [await node.call(family) for family in FAMILIES] == ["refused", "refused"]
        assert await node.call(port=PORT + 1) == "refused"
        assert node.proxy.seen.qsize() == seen, "not one connection has reached the proxy"
        assert lookups(node, Reason.DENIED) == before + 3
        assert lookups(node, Reason.INBOUND) == inbound
        assert lookups(node, Reason.ASKED) > 0
        assert lookups(node, Reason.DENIED_SAME) > same, "the rules ask for a packet's socket more than once"
        node.store.apply(Update(removed_policies=("shop/closed",)))
        opened = await becomes(node, "answered")
        assert opened < ACTS_S + NOISE_S
        print(f"a denial acted within {took:.3f} s, its removal within {opened:.3f} s")
        assert await node.call(socket.AF_INET6) == "answered"


async def test_only_whom_and_what_the_policy_names(node: Node) -> None:
    client = node.network.client.addresses
    async with node.owned():
        node.store.apply(deny(Match(source_ips=(ip_network(f"{client[socket.AF_INET6]}/128"),), destination_ports=(PORT,))))
        await becomes(node, "refused", socket.AF_INET6)
        assert await node.call(socket.AF_INET) == "answered"
        # Another port: the stand-in for the proxy has nothing to connect to.
        assert await node.call(socket.AF_INET6, PORT + 1) != "refused"
        node.store.apply(deny(Match(source_ips=(ip_network(f"{client[socket.AF_INET]}/32"),))))
        await becomes(node, "refused", socket.AF_INET, 15008)
        await becomes(node, "answered", socket.AF_INET6)


async def test_what_was_refused_is_counted_and_logged_like_a_denial_of_the_proxy(node: Node) -> None:
    async with node.owned() as owner:
        node.store.apply(deny(STRICT))
        await becomes(node, "refused")
        await until(lambda: node.recorder.access_log.denials() != [])
        line = node.recorder.access_log.denials()[-1]
        assert abs(line.at_s - time.time()) < 60
        assert str(line.fields["src.addr"]).startswith("10.77.0.2:")
        assert {name: value for name, value in line.fields.items() if name != "src.addr"} == {
            "dst.addr": f"10.77.0.1:{PORT}",
            "dst.workload": "api",
            "dst.namespace": "shop",
            "direction": "inbound",
            "bytes_sent": 0,
            "bytes_recv": 0,
            "duration": "0ms",
            "error": "denied by shop/closed (refused at the SYN)",
            "policy": "shop/closed",
            "flag": DENIED_FLAG,
        }
        await owner.collect()
        counted = node.recorder.refused_at_syn["shop/closed"]
        assert counted == lookups(node, Reason.DENIED) == node.recorder.denied["shop/closed"]
        for _ in range(5):
            assert await node.call() == "refused"
        await owner.collect()
        assert node.recorder.refused_at_syn == {"shop/closed": counted + 5}
        [failed] = [row for row in node.recorder.flows.render().splitlines() if row.startswith("istio_tcp_connections_failed_total{")]
        assert 'response_flags="UAEX"' in failed
        assert 'destination_workload="api"' in failed
        assert failed.endswith(f" {counted + 5}")


async def test_who_gives_up_waiting_for_the_counts_loses_none(node: Node) -> None:
    async with node.owned() as owner:
        node.store.apply(deny(STRICT))
        await becomes(node, "refused")
        await until(lambda: owner.words(UID).startswith("refuses"))
        for rounds in range(10):
            assert await node.call() == "refused"
            with suppress(TimeoutError):
                async with asyncio.timeout(0.0005 * (rounds % 4)):
                    await owner.collect()
        await owner.collect()
        assert node.recorder.refused_at_syn["shop/closed"] == lookups(node, Reason.DENIED)
    await owner.collect()  # of one that has ended


async def test_what_the_kernel_will_not_do_is_said_and_tried_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KernelError(errno.ENOSPC, "eBPF map")

    async with node.owned() as owner:
        await until(lambda: owner.words(UID).startswith("no policy"))
        with monkeypatch.context() as patched:
            patched.setattr(node.steering, "refuse", refuse)
            node.store.apply(deny(STRICT))
            await until(lambda: "No space left" in owner.words(UID))
            assert await node.call() == "answered", "what is not refused here the proxy judges"
            assert "1 left to the proxy" in owner.summary()
        owner.touch()
        await becomes(node, "refused")


async def test_tables_stay_without_the_agent_and_are_taken_up_by_the_next(node: Node) -> None:
    async with node.owned():
        node.store.apply(deny(STRICT))
        await becomes(node, "refused")
    assert await node.call() == "refused"
    lines = len(node.recorder.access_log.denials())
    async with node.owned() as owner:
        await until(lambda: len(node.recorder.access_log.denials()) > lines)
        assert await node.call() == "refused"
        assert owner.refusal(UID, *addresses(node), PORT, Via.PLAINTEXT) is not None
    async with node.owned(enabled=False) as owner:
        await becomes(node, "answered")
        assert "switched off" in owner.words(UID)
        assert "switched off" in owner.summary()


def addresses(node: Node) -> tuple[object, object]:
    return tuple(ip_network(f"{side.addresses[socket.AF_INET]}/32")[0] for side in (node.network.client, node.network.pod))  # type: ignore[return-value]


async def test_a_table_that_was_lost_is_put_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.prefilter.owner.CHECK_S", 0.3)
    pod = node.network.pod.namespace
    async with node.owned() as owner:
        node.store.apply(deny(STRICT))
        await becomes(node, "refused")
        node.steering.refuse(pod, None)
        await becomes(node, "refused")
        assert owner.words(UID).startswith("refuses")


async def test_what_is_captured_no_more_is_let_go(node: Node) -> None:
    pod = node.network.pod.namespace
    async with node.owned() as owner:
        node.store.apply(deny(STRICT))
        await becomes(node, "refused")
        [there] = node.status
        node.status.clear()
        owner.touch()
        await until(lambda: "nothing yet" in owner.words(UID))
        assert owner.refusal(UID, *addresses(node), PORT, Via.PLAINTEXT) is None
        node.steering.detach(pod)
        node.status.append(there)
        owner.touch()
        await until(lambda: "not captured" in owner.words(UID))
        assert there.state is EnrolmentState.CAPTURED


async def test_what_can_not_be_compiled_is_said(node: Node) -> None:
    async with node.owned() as owner:
        node.store.apply(deny(STRICT))
        await becomes(node, "refused")
        node.store.apply(Update(rejected_policies=(("shop/odd", "unknown action"),)))
        await becomes(node, "answered")  # the stand-in for the proxy judges nothing
        await until(lambda: owner.words(UID) == "all is left to the proxy: policy shop/odd could not be understood and may hold here")
        assert owner.summary() == "0 of 1 workloads refuse at the first packet, 1 left to the proxy (`nodeagent capture` says why)"


@pytest.mark.timeout(30)
async def test_without_programs_in_the_kernel_it_rests(node: Node) -> None:
    """Told again and again, it lets all else run: an agent that captures without eBPF never came to serve."""
    owner = PrefilterOwner(node.store, None, lambda: node.status, Telling(node.store, node.recorder))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(owner.run())
        for _ in range(3):
            owner.touch()
            await asyncio.sleep(0)
        assert "not in this capture" in owner.words(UID)
        running.cancel()
