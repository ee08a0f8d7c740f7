"""What of the held answers is in the kernel's tables: opened late, made anew, emptied at the end, and never more than was answered."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from meshapi.workload import WorkloadUID
from nodeagent.bpf import libbpf
from nodeagent.bpf.outbound import OUTSIDE, Judgements, Marks, Outbound, Site, outside
from nodeagent.capture.outside import OutsideDestinations
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError
from nodeagent.resolve.resolve import RouteQuestion
from tests.nodeagent import cgroups

PLACE = 4026531999
SITE, MARKS = Site(cookie=7, place=PLACE), Marks(captured=1, past=2)
WEB = WorkloadUID("web")


def question(address: str, port: int = 443, workload: WorkloadUID = WEB) -> RouteQuestion:
    return RouteQuestion(workload, ip_address(address), port)


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with cgroups.made() as path, Cgroup.open(path.name) as opened:
        yield opened


@pytest.fixture
def outbound(pins: Path) -> Outbound:
    return Outbound(pins)


def table(outbound: Outbound) -> set[str]:
    opened = outbound.outside_of(PLACE)
    assert opened is not None
    with opened:
        return {f"{address} {port}" for address, port in outside(opened)}


def test_it_follows_the_answers(outbound: Outbound, cgroup: Cgroup) -> None:
    outbound.attach(cgroup, SITE, MARKS, Judgements())
    it = OutsideDestinations(outbound, {"web": PLACE}.get)
    assert it.reaches("web")
    assert not it.reaches("other")
    for one in (
        question("192.0.2.1"),
        question("2001:db8::1", 80),
        question("::ffff:192.0.2.2"),
        question("192.0.2.3", workload=WorkloadUID("x")),
    ):
        it.add(one)
    assert table(outbound) == {"192.0.2.1 443", "2001:db8::1 80", "192.0.2.2 443"}
    it.remove(question("192.0.2.2"))
    it.remove(question("192.0.2.9"))
    it.remove(question("2001:db8::1", 80))
    assert table(outbound) == {"192.0.2.1 443"}


def test_a_table_that_comes_later_is_given_what_is_held(outbound: Outbound, cgroup: Cgroup) -> None:
    it = OutsideDestinations(outbound, {"web": PLACE}.get)
    for last in range(1, 4):
        it.add(question(f"192.0.2.{last}"))
    it.remove(question("192.0.2.2"))
    for _ in range(2):
        outbound.attach(cgroup, SITE, MARKS, Judgements())
        assert it.reaches("web")
        assert table(outbound) == {"192.0.2.1 443", "192.0.2.3 443"}
        outbound.detach(PLACE)
        assert not it.reaches("web")


def test_what_one_that_was_killed_has_left_is_forgotten_by_the_next(outbound: Outbound, cgroup: Cgroup) -> None:
    outbound.attach(cgroup, SITE, MARKS, Judgements())
    OutsideDestinations(outbound, {"web": PLACE}.get).add(question("192.0.2.1"))
    outbound.forget_outside()
    assert table(outbound) == set()


def test_what_can_not_be_taken_out_ends_the_way_past_the_proxy(
    outbound: Outbound, cgroup: Cgroup, monkeypatch: pytest.MonkeyPatch, pins: Path
) -> None:
    outbound.attach(cgroup, SITE, MARKS, Judgements())
    it = OutsideDestinations(outbound, {"web": PLACE}.get)
    it.add(question("192.0.2.1"))

    def fail(*_: object) -> bool:
        raise KernelError(12, "eBPF map")

    monkeypatch.setattr(libbpf, "delete", fail)
    it.remove(question("192.0.2.1"))
    assert list(pins.glob(f"*/{OUTSIDE}")) == []
