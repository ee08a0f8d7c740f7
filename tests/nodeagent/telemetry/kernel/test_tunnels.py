"""What came to the counts of the kernel since the last look, over restarts of the agent."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.bpf.mesh_sockets import Flow, Role
from nodeagent.linux.cgroups import root as cgroup_root
from nodeagent.linux.errors import KernelError
from nodeagent.linux.sockets import netns_cookie
from nodeagent.telemetry.kernel import tunnels
from nodeagent.telemetry.kernel.tcp_metrics import plus
from nodeagent.telemetry.kernel.tunnels import Tunnels
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.connections import BYTES, carry, connection, cookie
from tests.nodeagent.bpf.objects import eventually
from tests.nodeagent.pods import Pair

PORT = 9000
V4 = socket.AF_INET


@pytest.fixture(autouse=True)
def _own_cgroup() -> Iterator[None]:
    with cgroups.made() as path, cgroups.inside(path):
        yield


def opened(root: Path, network: Pair) -> Tunnels:
    made = Tunnels(root)
    made.open()
    made.count_for([network.pod.namespace.run(netns_cookie)])
    return made


def until_sent(looking: Tunnels, size_bytes: int) -> Flow:
    """What came of the one flow, look by look, until that much was sent."""
    whole = [Flow()]

    def enough() -> bool:
        for key, grown in looking.grown():
            assert (str(key.remote), key.role) == ("10.77.0.2", Role.SOURCE)
            whole[0] = plus(whole[0], grown)
        return whole[0].sent_bytes >= size_bytes

    eventually(enough)
    return whole[0]


def test_each_byte_comes_once(root: Path, network: Pair) -> None:
    looking = opened(root, network)
    assert list(looking.grown()) == []
    with connection(network.pod, network.client, V4, PORT) as (here, there):
        for _ in range(3):
            carry(here, there)
            assert until_sent(looking, BYTES).sent_bytes == BYTES
        assert next(looking.grown())[1].sent_bytes == 0, "only another sample of its round trip time"
        figures = looking.figures(cookie(here))
        assert figures is not None
        assert figures.rtt_s
    looking.detach()
    looking.close()
    assert list(root.iterdir()) == []


def test_an_agent_that_comes_after_another_counts_from_there_on(root: Path, network: Pair) -> None:
    first = opened(root, network)
    with connection(network.pod, network.client, V4, PORT) as (here, there):
        carry(here, there)
        until_sent(first, BYTES)
        first.close()
        assert list(first.grown()) == []
        assert first.figures(cookie(here)) is None
        second = opened(root, network)
        carry(here, there)
        assert until_sent(second, BYTES).sent_bytes == BYTES, "what the first one told of is not told again"
        assert second.figures(cookie(here)) is not None
    second.detach()
    second.close()


def test_a_flow_that_rests_is_given_back_and_counted_on_when_it_goes_on(root: Path, network: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "IDLE_LOOKS", 1)
    looking = opened(root, network)
    with connection(network.pod, network.client, V4, PORT) as (here, there):
        carry(here, there)
        until_sent(looking, BYTES)
    until_sent(looking, 0)
    eventually(lambda: not list(looking.grown()) and len(looking._last) == 1)
    assert list(looking.grown()) == [], "the place of those without room is never given back, and comes once only"
    with connection(network.pod, network.client, V4, PORT) as (here, there):
        carry(here, there)
        assert until_sent(looking, BYTES).sent_bytes == BYTES
    looking.detach()
    looking.close()


def test_the_root_of_all_cgroups_is_not_taken(root: Path) -> None:
    with cgroups.inside(cgroup_root()), pytest.raises(KernelError, match="in a cgroup of its own"):
        Tunnels(root).open()
    assert not root.exists()


def test_a_container_knows_its_own_cgroup_though_it_is_told_of_none_above_it(root: Path) -> None:
    """With a namespace of cgroups and the host's mount of them, as in a pod."""
    look = "from nodeagent.telemetry.kernel import tunnels; print(tunnels._own().id)"
    with cgroups.made() as path:
        (path / "pod").mkdir()
        done = cgroups.run(path / "pod", "unshare", "--cgroup", sys.executable, "-c", look)
        assert done.stdout.strip() == str((path / "pod").stat().st_ino), done.stderr
        (path / "pod").rmdir()


def test_detaching_what_was_never_attached(root: Path) -> None:
    Tunnels(root).detach()
