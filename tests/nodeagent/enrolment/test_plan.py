"""The plan as a table, and as a property: applied again and again it reaches what is desired, and never by a forbidden way."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.enrolment.plan import Adjust, Announce, Change, Enforce, Enrolled, Open, PassBy, Plan, Release, plan, uid_of
from nodeagent.linux.namespaces import NamespaceKey
from nodeagent.runtime.base import LocalWorkload

NODE = NamespaceKey(4, 1)
ONE, TWO = NamespaceKey(4, 11), NamespaceKey(4, 12)


def workload(uid: str = "a", network: NamespaceKey | None = ONE, account: str = "default") -> LocalWorkload:
    return LocalWorkload(uid, uid, "shop", account, f"/run/netns/{uid}", network)


def held(one: LocalWorkload, **changes: bool) -> Enrolled:
    base = Enrolled(one, captured=True, announced=True, announceable=True, overdue=False)
    return replace(base, **changes)


def other_terms(one: LocalWorkload) -> LocalWorkload:
    return msgspec.structs.replace(one, terms=Terms(fail_open=True))


FRESH = {"captured": False, "announced": False, "announceable": False}


OPENED = {"captured": False, "opened": True, "announced": False}


@pytest.mark.parametrize(
    ("desired", "enrolled", "text"),
    [
        ([], [], ""),
        ([workload()], [], "open listeners of a in /run/netns/a"),
        ([workload()], [held(workload(), **FRESH)], ""),
        ([workload()], [held(workload(), captured=False, announced=False)], "announce a to the proxy\ncapture a"),
        ([workload()], [held(workload(), **{**FRESH, "overdue": True})], "capture a"),
        ([workload()], [held(workload(), captured=False)], "capture a"),
        ([workload()], [held(workload())], ""),
        ([workload()], [held(workload(), announced=False)], "announce a to the proxy"),
        ([other_terms(workload())], [held(workload())], "capture a on other terms"),
        ([other_terms(workload(account="b"))], [held(workload())], "change a to service account b"),
        ([workload()], [held(workload(), announced=False, announceable=False, to_open=True)], "let connections of a past the absent proxy"),
        ([workload()], [held(workload(), **OPENED, announceable=False, to_open=True)], ""),
        ([workload()], [held(workload(), **OPENED, announceable=False, overdue=True)], ""),
        ([workload()], [held(workload(), **OPENED)], "announce a to the proxy\ncapture a"),
        ([workload()], [held(workload(), **FRESH, to_open=True)], ""),
        ([], [held(workload())], "release a: no longer listed"),
        (
            [workload(network=TWO)],
            [held(workload())],
            "release a: its network namespace was replaced\nopen listeners of a in /run/netns/a",
        ),
        (
            [workload(network=None)],
            [held(workload())],
            "release a: its network namespace is gone\nrefuse a: its network namespace /run/netns/a does not exist yet",
        ),
        ([workload("b")], [held(workload("a"))], "release a: no longer listed\nopen listeners of b in /run/netns/b"),
        (
            [workload("a"), workload("b")],
            [held(workload("b"))],
            (
                "release b: its network namespace belongs to another\n"
                "open listeners of a in /run/netns/a\n"
                "refuse b: its network namespace belongs to a already"
            ),
        ),
        ([workload(network=NODE)], [], "refuse a: /run/netns/a is the node's own network, which is never captured"),
        ([workload(account="web")], [held(workload())], "change a to service account web"),
    ],
)
def test_what_is_done_next(desired: list[LocalWorkload], enrolled: list[Enrolled], text: str) -> None:
    made = plan({one.uid: one for one in desired}, {one.workload.uid: one for one in enrolled}, node=NODE)
    assert str(made) == text


networks = st.sampled_from([None, NODE, ONE, TWO, NamespaceKey(4, 13)])
accounts = st.sampled_from(["default", "web"])
terms = st.sampled_from([TOTAL, Terms(fail_open=True)])
workloads = st.builds(
    lambda uid, network, account, terms: msgspec.structs.replace(workload(uid, network, account), terms=terms),
    st.sampled_from("abcd"),
    networks,
    accounts,
    terms,
)
desired_sets = st.lists(workloads, max_size=4, unique_by=lambda one: one.uid).map(lambda found: {one.uid: one for one in found})


def applied(made: Plan, enrolled: dict[str, Enrolled]) -> dict[str, Enrolled]:
    after = dict(enrolled)
    for step in made.steps:
        match step:
            case Release(uid):
                del after[uid]
            case Open(one):
                assert one.network is not None
                assert one.network not in {other.workload.network for other in after.values()}
                assert one.network != NODE
                assert one.uid not in after
                after[one.uid] = held(one, captured=False, announced=False)
            case Change(one):
                assert after[one.uid].workload.network == one.network
                after[one.uid] = replace(after[one.uid], workload=one, announced=False)
            case Adjust(one):
                assert one.is_same(after[one.uid].workload)
                after[one.uid] = replace(after[one.uid], workload=one, captured=False)
            case Announce(uid):
                after[uid] = replace(after[uid], announced=True)
            case PassBy(uid):
                raise AssertionError("nobody is away")
            case Enforce(uid):
                assert after[uid].announced or after[uid].overdue
                after[uid] = replace(after[uid], captured=True)
        assert uid_of(step)
    return after


@given(st.lists(desired_sets, min_size=1, max_size=4), st.booleans())
def test_it_reaches_what_is_desired_and_then_rests(history: list[dict[str, LocalWorkload]], patient: bool) -> None:
    enrolled: dict[str, Enrolled] = {}
    for desired in history:
        for _ in range(2 if patient else 6):
            enrolled = applied(plan(desired, enrolled, node=NODE), enrolled)
    for _ in range(4):
        enrolled = applied(plan(history[-1], enrolled, node=NODE), enrolled)
    final = plan(history[-1], enrolled, node=NODE)
    assert not final.steps
    assert {one.workload for one in enrolled.values()} == {one for uid, one in history[-1].items() if uid not in final.refused}
    assert all(one.captured and one.announced for one in enrolled.values())


def group(uid: str, path: str, inode: int) -> LocalWorkload:
    return LocalWorkload(uid, uid, "shop", uid, f"/sys/fs/cgroup/{path}", NamespaceKey(29, inode), process_group=True)


def test_process_groups_share_the_nodes_network_but_no_process() -> None:
    desired = {
        one.uid: one for one in (group("a", "shop/a", 5), group("b", "shop/b", 6), group("c", "shop/a/inner", 7), group("d", "shop", 8))
    }
    desired["e"] = group("e", "system/nodemesh", 9)
    desired["f"] = msgspec.structs.replace(group("f", "gone", 1), network=None)
    made = plan(desired, {}, node=NODE, agent="/sys/fs/cgroup/system/nodemesh/agent")
    assert [uid_of(step) for step in made.steps] == ["a", "b"]
    assert made.refused == {
        "c": "its cgroup and that of a are within each other",
        "d": "its cgroup and that of a are within each other",
        "e": "the agent itself runs in /sys/fs/cgroup/system/nodemesh",
        "f": "its cgroup /sys/fs/cgroup/gone does not exist yet",
    }


def test_a_cgroup_that_was_made_anew_is_another_unit() -> None:
    before, after = group("a", "shop/a", 5), group("a", "shop/a", 6)
    made = plan({"a": after}, {"a": held(before)}, node=NODE)
    assert made.steps == (Release("a", gone=True, reason="its cgroup was replaced"), Open(after))


def test_a_cgroup_of_a_pod_is_no_process_group_beside_it() -> None:
    pod = msgspec.structs.replace(workload("z"), terms=Terms(cgroup="/shop/a"))
    unit = msgspec.structs.replace(group("a", "shop/a", 5), terms=Terms(cgroup="shop/a"))
    made = plan({"a": unit, "z": pod}, {}, node=NODE)
    assert [uid_of(step) for step in made.steps] == ["z"]
    assert made.refused == {"a": "its cgroup is that of z"}


def test_the_nodes_own_network_is_captured_for_the_one_that_says_it_is_the_host() -> None:
    pod = msgspec.structs.replace(workload("a"), network=NODE)
    host = msgspec.structs.replace(pod, uid="b", terms=Terms(whole_host=True))
    made = plan({"a": pod, "b": host}, {}, node=NODE)
    assert [uid_of(step) for step in made.steps] == ["b"]
    assert "never captured" in made.refused["a"]
    second = msgspec.structs.replace(host, uid="c")
    assert "belongs to b already" in plan({"b": host, "c": second}, {}, node=NODE).refused["c"]
    elsewhere = msgspec.structs.replace(workload("d"), terms=Terms(whole_host=True))
    assert "not the node's own network" in plan({"d": elsewhere}, {}, node=NODE).refused["d"]
