"""control/waypoint/workload_names.py: whose name is taken, what is asked for, and how much of it there can be."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.waypoint.workload_names import NOBODY, PATIENCE_S, WorkloadNames
from meshapi import discovery
from meshapi.decoding import ModelError
from meshapi.wire import WORKLOAD_TYPE
from meshapi.workload import Workload, WorkloadUID, encode_alone

PAGE = "spiffe://cluster.local/ns/team/sa/page"


def workload(uid: str, *addresses: str, account: str = "page") -> Workload:
    return Workload(WorkloadUID(uid), uid, "team", tuple(ip_address(one) for one in addresses), service_account=account)


def told(*workloads: Workload, removed: tuple[str, ...] = ()) -> discovery.Response:
    return discovery.Response(WORKLOAD_TYPE, "1", tuple(discovery.Resource(one.uid, "1", encode_alone(one)) for one in workloads), removed)


def asked(*addresses: str) -> WorkloadNames:
    names = WorkloadNames()
    for address in addresses:
        assert names.find(address, PAGE, 0) is None
    return names


def test_a_name_is_taken_only_of_who_the_certificate_says() -> None:
    names = asked("10.0.0.1")
    names.take(told(workload("a", "10.0.0.1")))
    assert names.find("10.0.0.1", PAGE, 1) == "a;team;;;Kubernetes"
    assert names.find("::ffff:10.0.0.1", PAGE, 1) == "a;team;;;Kubernetes"
    assert names.find("10.0.0.1", PAGE + "s", 1) == NOBODY
    assert names.find("10.0.0.1", "", 1) == NOBODY


def test_what_is_no_address_is_nobodys_and_is_not_asked_for() -> None:
    names = WorkloadNames()
    assert [names.find(one, PAGE, 0) for one in ("", "*", "somewhere", "10.0.0.1:80")] == [NOBODY] * 4
    assert names.next_request() is None


def test_an_answer_is_waited_for_a_moment() -> None:
    names = asked("10.0.0.1")
    assert names.find("10.0.0.1", PAGE, PATIENCE_S - 0.1) is None
    assert names.find("10.0.0.1", PAGE, PATIENCE_S) == NOBODY
    names.take(told(workload("a", "10.0.0.1")))
    assert names.find("10.0.0.1", PAGE, 100) != NOBODY


def test_an_address_changes_hands() -> None:
    names = asked("10.0.0.1", "fd00::1")
    names.take(told(workload("a", "10.0.0.1", "fd00::1")))
    names.take(told(workload("b", "10.0.0.1")))
    assert [names.find(one, PAGE, 1) for one in ("10.0.0.1", "fd00::1")] == ["b;team;;;Kubernetes", "a;team;;;Kubernetes"]
    names.take(told(removed=("a",)))
    assert [names.find(one, PAGE, 1) for one in ("10.0.0.1", "fd00::1")] == ["b;team;;;Kubernetes", NOBODY]
    names.take(told(workload("b", "10.0.0.2")))
    assert names.find("10.0.0.1", PAGE, 1) == NOBODY
    names.take(told(removed=("/10.0.0.1",)))
    assert names.find("10.0.0.1", PAGE, 1) == NOBODY


def test_nobody_at_an_address_is_an_answer() -> None:
    names = asked("10.0.0.1")
    names.take(told(removed=("/10.0.0.1",)))
    assert names.find("10.0.0.1", PAGE, 0) == NOBODY


def test_what_is_no_workload() -> None:
    with pytest.raises(ModelError):
        asked("10.0.0.1").take(discovery.Response(WORKLOAD_TYPE, "1", (discovery.Resource("a", "1", b"\xff"),)))


def test_a_new_stream_asks_for_all_that_is_of_interest_and_for_nothing_else() -> None:
    names = asked("10.0.0.1", "10.0.0.2")
    assert names.first_request() == (("*", "/10.0.0.1", "/10.0.0.2"), ("*",))
    assert names.next_request() is None
    names.find("10.0.0.3", PAGE, 0)
    assert names.next_request() == (("/10.0.0.3",), ())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("aptr"), st.integers(1, 6), st.integers(1, 4)), max_size=60))
def test_addresses_are_bounded_and_the_controller_knows_which(steps: list[tuple[str, int, int]]) -> None:
    """The keys subscribed to, as the controller adds them up, are those that are kept."""
    names = WorkloadNames(max_addresses=3)
    subscribed: set[str] = set()
    for step, address, uid in steps:
        match step:
            case "a":
                names.find(f"10.0.0.{address}", PAGE, 0)
            case "p":
                names.take(told(workload(f"w{uid}", f"10.0.0.{address}", f"10.0.0.{address + 1}")))
            case "r":
                names.take(told(removed=(f"w{uid}", f"/10.0.0.{address}")))
            case "t" if (found := names.next_request()) is not None:
                subscribed = (subscribed | set(found[0])) - set(found[1])
    last = names.next_request() or ((), ())
    subscribed = (subscribed | set(last[0])) - set(last[1])
    assert len(subscribed) <= 3
    (everything, *kept), _ = names.first_request()
    assert (everything, set(kept)) == ("*", subscribed)
