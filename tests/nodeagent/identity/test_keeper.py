"""The keeper against an authority in memory: what is asked, handed out, kept, refused and renewed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from meshapi.spiffe import WorkloadIdentity
from meshapi.trust import Revocation, TrustBundle
from nodeagent.identity.keeper import CONCURRENCY, IdentityKeeper
from nodeagent.identity.schedule import State
from nodeagent.identity.store import StoredIdentity
from nodeagent.identity.trust import Trust
from tests.nodeagent.identity.fakes import Answer, FakeAuthority, FakeStore, Time
from tests.nodeagent.identity.pki import DAY_S, authority
from tests.nodeagent.waiting import until

WEB = WorkloadIdentity("cluster.local", "shop", "web")
DB = WorkloadIdentity("cluster.local", "shop", "db")


class Node:
    """A keeper with everything around it."""

    def __init__(self, store: FakeStore | None = None, time: Time | None = None, ca: FakeAuthority | None = None) -> None:
        self.time = time or Time()
        self.ca = ca or FakeAuthority(self.time)
        self.store = store or FakeStore()
        self.trust = Trust("cluster.local", [self.ca.root.certificate])
        self.handed: list[str] = []
        self.forgotten: list[str] = []
        self.keeper = IdentityKeeper(
            self.ca,
            self.store,
            self.trust,
            on_certificate=self._take,
            on_forgotten=self.forgotten.append,
            clock=self.time.clock(),
            chance=lambda: 0.0,
        )

    def _take(self, identity: str, chain_pem: str, key_pem: str) -> None:
        assert chain_pem.startswith("-----BEGIN CERTIFICATE-----")
        assert key_pem.startswith("-----BEGIN PRIVATE KEY-----")
        self.handed.append(identity)

    def state(self, identity: WorkloadIdentity = WEB) -> State:
        return {entry.identity: entry.state for entry in self.keeper.states()}[str(identity)]

    def error(self) -> str:
        return self.keeper.states()[0].error or ""


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(node.keeper.run())
        try:
            yield node
        finally:
            task.cancel()


async def test_a_wanted_identity_is_asked_for_handed_out_and_kept() -> None:
    async with running(Node()) as node:
        node.keeper.want([WEB])
        await until(lambda: node.store.records)
        assert node.handed == node.ca.asked == [str(WEB)]
        issued = node.keeper.issued(WEB)
        assert issued is not None
        assert node.store.records == {str(WEB): StoredIdentity(str(WEB), issued.chain_pem, issued.key_pem)}


async def test_after_a_restart_what_was_kept_serves_at_once_without_the_controller() -> None:
    async with running(Node()) as before:
        before.keeper.want([WEB])
        await until(lambda: before.store.records)
    before.ca.error = "UNAVAILABLE"
    node = Node(before.store, before.time, before.ca)
    await node.keeper.load()
    node.keeper.want([WEB])
    assert node.handed == [str(WEB)]
    assert node.state() is State.VALID


async def test_what_was_kept_and_has_expired_or_lost_its_root_is_not_used() -> None:
    async with running(Node()) as before:
        before.keeper.want([WEB, DB])
        await until(lambda: len(before.store.records) == 2)
    for later_s, trusts in ((2 * DAY_S, True), (0, False)):
        node = Node(before.store, Time(before.time.wall_s + later_s), before.ca)
        if not trusts:
            node.trust.apply(TrustBundle("cluster.local", ()))
        await node.keeper.load()
        node.keeper.want([WEB])
        assert node.handed == []
        assert node.state() is State.WAITING


async def test_what_was_kept_is_used_when_a_clock_that_was_wrong_at_boot_is_set_right() -> None:
    async with running(Node()) as before:
        before.keeper.want([WEB])
        await until(lambda: before.store.records)
    before.ca.error = "UNAVAILABLE"
    async with running(Node(before.store, Time(0.0), before.ca)) as node:
        await node.keeper.load()
        node.keeper.want([WEB])
        await until(node.error)
        assert node.handed == []
        node.time.wall_s = before.time.wall_s
        node.keeper.retry_now()
        await until(lambda: node.handed)
        assert node.state() is State.VALID


async def test_what_leaves_the_node_is_forgotten_on_disk_too() -> None:
    async with running(Node()) as node:
        node.keeper.want([WEB, DB])
        await until(lambda: len(node.store.records) == 2)
        node.keeper.want([DB])
        await until(lambda: node.store.records.keys() == {str(DB)})
        assert node.forgotten == [str(WEB)]


async def test_what_was_kept_of_workloads_that_went_meanwhile_is_dropped_when_all_are_known() -> None:
    agent = "spiffe://cluster.local/nodemesh/node/n1"
    store = FakeStore({identity: StoredIdentity(identity, "", "") for identity in (str(DB), agent)})
    async with running(Node(store)) as node:
        await node.keeper.load()
        node.keeper.want([])
        node.keeper.drop_unwanted()
        await until(lambda: str(DB) not in store.records)
        assert store.records.keys() == {agent}


async def test_an_answer_for_a_workload_that_went_is_thrown_away() -> None:
    node = Node()
    node.ca.gate = asyncio.Event()
    async with running(node):
        node.keeper.want([WEB])
        await until(lambda: node.ca.busy)
        node.keeper.want([])
        node.ca.gate.set()
        await until(lambda: not node.ca.busy)
        node.keeper.want([DB])
        await until(lambda: node.handed)
        assert node.handed == [str(DB)]


async def test_few_are_asked_for_at_a_time() -> None:
    async with running(Node()) as node:
        node.keeper.want(WorkloadIdentity("cluster.local", "shop", f"sa-{number}") for number in range(40))
        await until(lambda: len(node.handed) == 40)
        assert node.ca.most_busy == CONCURRENCY


async def test_a_refusal_is_shown_and_the_valid_certificate_stays() -> None:
    async with running(Node()) as node:
        node.keeper.want([WEB])
        await until(lambda: node.handed)
        node.ca.error = "PERMISSION_DENIED: denied"
        node.time.pass_s(DAY_S * 0.6)
        node.keeper.retry_now()
        await until(node.error)
        assert node.error() == "PERMISSION_DENIED: denied"
        assert node.state() is State.VALID
        node.ca.error = None
        node.time.pass_s(1)
        node.keeper.retry_now()
        await until(lambda: len(node.handed) == 2)


@pytest.mark.parametrize("wrong", ["identity", "root", "key", "nothing"])
async def test_a_wrong_answer_is_never_handed_out(wrong: str) -> None:
    node = Node()
    foreign = FakeAuthority(node.time, authority("foreign", node.time.wall_s))
    answers: dict[str, Answer] = {
        "identity": lambda _, key: (node.ca.leaf(str(DB), key),),
        "root": lambda identity, key: (foreign.leaf(identity, key),),
        "key": lambda identity, _: (node.ca.leaf(identity, node.ca.root.key.public_key()),),
        "nothing": lambda *_: (),
    }
    node.ca.answer = answers[wrong]
    async with running(node):
        node.keeper.want([WEB])
        await until(node.error)
        assert node.handed == []
        assert node.store.records == {}


async def test_a_revoked_or_untrusted_certificate_is_asked_for_anew_at_once() -> None:
    async with running(Node()) as node:
        node.keeper.want([WEB, DB])
        await until(lambda: len(node.handed) == 2)
        node.ca.gate = asyncio.Event()
        node.time.pass_s(120)
        node.trust.apply(TrustBundle("cluster.local", (node.ca.root.der,), (Revocation(str(WEB), int(node.time.wall_s) - 61),)))
        assert (node.state(WEB), node.state(DB)) == (State.REFUSED, State.VALID)
        node.ca.gate.set()
        await until(lambda: node.handed[2:] == [str(WEB)])
        assert node.state(WEB) is State.VALID

        node.ca.root = authority("next root", node.time.wall_s)
        node.trust.apply(TrustBundle("cluster.local", (node.ca.root.der,)))
        await until(lambda: sorted(node.handed[3:]) == [str(DB), str(WEB)])


async def test_a_certificate_that_is_revoked_when_it_comes_is_not_used() -> None:
    node = Node()
    node.trust.apply(TrustBundle("cluster.local", (node.ca.root.der,), (Revocation(str(WEB), int(node.time.wall_s)),)))
    async with running(node):
        node.keeper.want([WEB])
        await until(node.error)
        assert "revoked already" in node.error()
        assert node.handed == []


async def test_a_full_disk_costs_only_the_copy(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(FakeStore(error=OSError(28, "No space left on device")))
    async with running(node):
        node.keeper.want([WEB])
        await until(lambda: "could not be kept" in caplog.text)
        assert node.handed == [str(WEB)]


async def test_no_key_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with running(Node()) as node:
        node.keeper.want([WEB])
        await until(lambda: node.store.records)
        canary = node.store.records[str(WEB)].key_pem.splitlines()[1]
        assert canary not in caplog.text
        assert canary not in repr(node.keeper.issued(WEB)) + repr(node.keeper.states()) + repr(node.store.records)
