import socket
import subprocess
from collections.abc import Iterator

import pytest

from nodeagent.linux import netlink
from nodeagent.linux.errors import KernelError
from tests.nodeagent.pods import Side, pair

DELIVERY = netlink.LocalDelivery(mark=0x111, mask=0xFFF, table=100, priority=20000, protocol=0x6D)
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])


@pytest.fixture
def pod() -> Iterator[Side]:
    with pair() as network:
        yield network.pod


@FAMILIES
def test_rule_and_route_are_made_once_and_removed(pod: Side, family: int) -> None:
    flag = "-6" if family == socket.AF_INET6 else "-4"
    before = pod.shell("ip", flag, "rule"), pod.shell("ip", flag, "route", "show", "table", "all")
    for _ in range(2):
        pod.namespace.run(netlink.install, DELIVERY, family)
        assert pod.namespace.run(netlink.installed, DELIVERY, family)
        assert pod.shell("ip", flag, "rule").count("fwmark 0x111/0xfff lookup 100") == 1
        assert pod.shell("ip", flag, "route", "show", "table", "100").count("local default dev lo") == 1
    for _ in range(2):
        pod.namespace.run(netlink.remove, DELIVERY, family)
        assert not pod.namespace.run(netlink.installed, DELIVERY, family)
    assert (pod.shell("ip", flag, "rule"), pod.shell("ip", flag, "route", "show", "table", "all")) == before


@FAMILIES
def test_half_of_it_is_not_installed(pod: Side, family: int) -> None:
    flag = "-6" if family == socket.AF_INET6 else "-4"
    pod.namespace.run(netlink.install, DELIVERY, family)
    pod.shell("ip", flag, "rule", "del", "priority", "20000")
    assert not pod.namespace.run(netlink.installed, DELIVERY, family)


def test_a_table_in_use_is_an_error_and_not_taken_over(pod: Side) -> None:
    pod.shell("ip", "route", "add", "blackhole", "default", "table", "100")
    with pytest.raises(KernelError, match="another program uses this table"):
        pod.namespace.run(netlink.install, DELIVERY, socket.AF_INET)
    assert pod.shell("ip", "route", "show", "table", "100").split() == ["blackhole", "default"]


def test_addresses_are_those_that_others_reach(pod: Side) -> None:
    assert pod.namespace.run(netlink.addresses) == ("10.77.0.1", "fd77::1")


def test_no_process_is_forked(pod: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("forked")

    monkeypatch.setattr("os.fork", forbidden)
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    pod.namespace.run(netlink.install, DELIVERY, socket.AF_INET)


def test_of_a_point_to_point_link_our_end_counts(pod: Side) -> None:
    pod.shell("ip", "address", "add", "10.9.9.1", "peer", "10.9.9.2", "scope", "global", "dev", "lo")
    assert "10.9.9.1" in pod.namespace.run(netlink.addresses)
    assert "10.9.9.2" not in pod.namespace.run(netlink.addresses)
