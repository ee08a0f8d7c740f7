"""What is counted of the proxy's connections: real ones, between two network namespaces, of a process in a cgroup of the test's own."""

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from meshapi.wire import HBONE_PORT, OUTBOUND_PORT, PROXY_MARK
from nodeagent.bpf import libbpf, mesh_sockets
from nodeagent.bpf.mesh_sockets import FIRST_BOUND_US, PROGRAM, Flow, Histogram, MeshSockets, Role, attached, flow, flow_key
from nodeagent.bpf.pinned import Program
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.sockets import netns_cookie
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.connections import BYTES, carry, connection, cookie
from tests.nodeagent.bpf.objects import eventually, eventually_gone, ids, variant
from tests.nodeagent.pods import Pair, Side

SERVER_PORT = 9000
BUDGETS = {"mesh_sockets": 2500, "sample_sockets": 1500}
V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with cgroups.made() as path, Cgroup.open(path.name) as opened, cgroups.inside(path):
        yield opened


@pytest.fixture
def counting(root: Path, cgroup: Cgroup, network: Pair) -> Iterator[MeshSockets]:
    with attached(root, cgroup) as made:
        made.set_workloads([cookie_of(network.pod)])
        yield made


def cookie_of(side: Side) -> int:
    return side.namespace.run(netns_cookie)


def flows(counting: MeshSockets) -> dict[tuple[str, Role], Flow]:
    """Those that something was counted of, by the address at the other end and the role."""
    found = {flow_key(key): flow(value) for key, value in counting.flows()}
    return {(str(key.remote), key.role): value for key, value in found.items() if value != Flow()}


def only(histogram: Histogram) -> int:
    """The bucket of the one value that was observed."""
    [bucket] = [index for index, count in enumerate(histogram.counts) if count]
    assert histogram.counts[bucket] == 1
    return bucket


@pytest.mark.parametrize("family", [V4, V6])
def test_a_connection_of_the_proxy_is_counted_when_it_ends(counting: MeshSockets, network: Pair, family: int) -> None:
    with connection(network.pod, network.client, family, SERVER_PORT) as (here, there):
        carry(here, there)
        carry(there, here, 3000)
        number = cookie(here)
        while_open = flows(counting)
    peer = (network.client.addresses[family], Role.SOURCE)
    assert set(while_open) == {peer}, "the other end is in no namespace of ours"
    assert while_open[peer].sent_bytes == 0
    eventually(lambda: flows(counting)[peer].sent_bytes > 0)
    counted = flows(counting)[peer]
    # To TCP the end of a direction is one more.
    assert counted.received_bytes in {3000, 3001}
    assert counted.sent_bytes in {BYTES, BYTES + 1}
    assert 0 < counted.rtt.sum_us < 5_000_000
    connect_us = counted.connect.sum_us
    bucket = only(counted.connect)
    assert connect_us <= FIRST_BOUND_US << bucket
    assert bucket == 0 or connect_us > FIRST_BOUND_US << (bucket - 1)
    found = counting.figures(number)
    assert found is not None
    assert found.connect_s == pytest.approx(connect_us / 1e6)
    assert found.rtt_s is not None
    assert found.rtt_s < 5


@pytest.mark.parametrize("family", [V4, V6])
def test_a_tunnel_that_is_accepted_is_counted_for_the_destination(counting: MeshSockets, network: Pair, family: int) -> None:
    with connection(network.client, network.pod, family, HBONE_PORT) as (dialling, accepted):
        carry(dialling, accepted)
        number = cookie(accepted)
    peer = (network.client.addresses[family], Role.DESTINATION)
    eventually(lambda: flows(counting).get(peer, Flow()).received_bytes >= BYTES)
    assert set(flows(counting)) == {peer}
    assert flows(counting)[peer].connect == Histogram(), "it did not connect"
    found = counting.figures(number)
    assert found is not None
    assert found.connect_s is None


def test_what_is_no_connection_of_the_proxy_between_workloads_is_left_alone(counting: MeshSockets, network: Pair) -> None:
    for mark in (0, 0x111):
        with connection(network.pod, network.client, V4, SERVER_PORT, mark) as (here, there):
            carry(here, there)
        with connection(network.client, network.pod, V4, HBONE_PORT, mark) as (here, there):
            carry(here, there)
    # What the applications dial is accepted by the proxy under its mark, too.
    with connection(network.client, network.pod, V4, OUTBOUND_PORT) as (here, there):
        carry(here, there)
    counting.sample()
    assert flows(counting) == {}
    # Workloads come and go: those that are named count from then on.
    counting.set_workloads([cookie_of(network.client)])
    with connection(network.client, network.pod, V4, SERVER_PORT), connection(network.pod, network.client, V4, SERVER_PORT + 1):
        pass
    eventually(lambda: set(flows(counting)) == {(network.pod.addresses[V4], Role.SOURCE)})


def test_processes_of_other_cgroups_are_left_alone(root: Path, network: Pair) -> None:
    with cgroups.made() as path, Cgroup.open(path.name) as other, attached(root, other) as counting:
        counting.set_workloads([cookie_of(network.pod)])
        with connection(network.pod, network.client, V4, SERVER_PORT) as (here, there):
            carry(here, there)
        assert flows(counting) == {}


def test_an_open_connection_is_counted_whenever_it_is_sampled_and_nothing_twice(counting: MeshSockets, network: Pair) -> None:
    peer = (network.client.addresses[V4], Role.SOURCE)
    with connection(network.pod, network.client, V4, SERVER_PORT) as (here, there):
        for number in range(1, 4):
            carry(here, there)

            def sampled(least: int = number * BYTES) -> bool:
                counting.sample()
                return flows(counting)[peer].sent_bytes == least

            eventually(sampled)
            assert flows(counting)[peer].rtt.counts != (0,) * len(flows(counting)[peer].rtt.counts)
        for _ in range(5):
            counting.sample()
        assert flows(counting)[peer].sent_bytes == 3 * BYTES
        found = counting.figures(cookie(here))
        assert found is not None
        assert found.rtt_s
        observed = sum(flows(counting)[peer].rtt.counts)
    eventually(lambda: sum(flows(counting)[peer].rtt.counts) == observed + 1)
    assert flows(counting)[peer].sent_bytes in {3 * BYTES, 3 * BYTES + 1}
    assert sum(flows(counting)[peer].connect.counts) == 1


def test_what_is_lost_on_the_way_is_counted(counting: MeshSockets, network: Pair) -> None:
    with connection(network.pod, network.client, V4, SERVER_PORT) as (here, there):
        network.client.shell("nft", "-f", "-", stdin="table inet lossy { chain c { type filter hook input priority 0; }; }")
        network.client.shell("nft", "add", "rule", "inet", "lossy", "c", "tcp", "dport", str(SERVER_PORT), "drop")
        here.sendall(b"lost, and said again")
        eventually(lambda: bool(network.pod.shell("ss", "-tniH", "state", "established").count("retrans:")))
        network.client.shell("nft", "delete", "table", "inet", "lossy")
        assert there.recv(100)
        number = cookie(here)
    peer = (network.client.addresses[V4], Role.SOURCE)
    eventually(lambda: flows(counting)[peer].retransmits > 0)
    found = counting.figures(number)
    assert found is not None
    assert found.retransmits == flows(counting)[peer].retransmits


def test_a_connection_that_never_comes_about_counts_its_attempts_only(counting: MeshSockets, network: Pair) -> None:
    refused = network.pod.open_socket(V4)
    refused.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_MARK)
    with closing(refused), pytest.raises(ConnectionRefusedError):
        refused.connect((network.client.addresses[V4], 1))
    assert all(value.connect == Histogram() for value in flows(counting).values())


def test_flows_that_find_no_room_are_counted_together(root: Path, cgroup: Cgroup, network: Pair, tmp_path: Path) -> None:
    small = variant(tmp_path, "small", "mesh_sockets.bpf.o", ("#define MAX_FLOWS 8192", "#define MAX_FLOWS 2"))
    program = Program(small, PROGRAM.name, PROGRAM.attach_type, PROGRAM.maps)
    sampler = variant(tmp_path, "sampler", "sample_sockets.bpf.o", ("#define MAX_FLOWS 8192", "#define MAX_FLOWS 2"))
    with attached(root, cgroup, program, sampler) as counting:
        counting.set_workloads([cookie_of(network.pod)])
        for family in (V4, V6):
            with connection(network.pod, network.client, family, SERVER_PORT) as (here, there):
                carry(here, there)
        eventually(lambda: sum(value.sent_bytes >= BYTES for value in flows(counting).values()) == 2)
        assert {str(flow_key(key).remote) for key, _ in counting.flows()} == {"::", network.client.addresses[V4]}
        for key, _ in list(counting.flows()):
            counting.forget(key)
        assert [flow_key(key).namespace for key, _ in counting.flows()] == [0], "the place of those without room stays"


def test_a_newer_version_takes_over_what_was_counted_and_open(root: Path, cgroup: Cgroup, network: Pair, tmp_path: Path) -> None:
    newer = Program(
        variant(tmp_path, "newer", "mesh_sockets.bpf.o", ("#define MARK_BITS 0xfff", "#define MARK_BITS 0x7ff")),
        PROGRAM.name, PROGRAM.attach_type, PROGRAM.maps,
    )  # fmt: skip
    peer = (network.client.addresses[V4], Role.SOURCE)
    with ExitStack() as opened:
        with attached(root, cgroup) as counting:
            counting.set_workloads([cookie_of(network.pod)])
            here, there = opened.enter_context(connection(network.pod, network.client, V4, SERVER_PORT))
            carry(here, there)
            counting.sample()
            before = flows(counting)[peer]
        carry(here, there)
        with attached(root, cgroup, newer) as counting:
            assert flows(counting)[peer] == before
            opened.close()
            eventually(lambda: flows(counting)[peer].sent_bytes >= 2 * BYTES)
            assert sum(flows(counting)[peer].connect.counts) == 1


def test_nothing_is_left_behind(root: Path, cgroup: Cgroup, network: Pair) -> None:
    with attached(root, cgroup) as counting:
        counting.set_workloads([cookie_of(network.pod)])
        with connection(network.pod, network.client, V4, SERVER_PORT) as (here, there):
            carry(here, there)
    held = ids(root)
    assert all(held.values())
    mesh_sockets.detach(root, cgroup)
    assert list(root.iterdir()) == []
    eventually_gone(held)


def test_pins_of_a_cgroup_that_is_gone_are_swept(root: Path) -> None:
    with cgroups.made() as path, Cgroup.open(path.name) as opened, attached(root, opened):
        held = ids(root)
        mesh_sockets.sweep(root)
        assert ids(root) == held

    def swept() -> bool:
        # The kernel lets go of a cgroup a moment after it was removed.
        mesh_sockets.sweep(root)
        return not list(root.iterdir())

    eventually(swept)
    eventually_gone(held)


def test_the_programs_stay_small(root: Path, cgroup: Cgroup) -> None:
    with libbpf.load(PROGRAM.object, PROGRAM.name, PROGRAM.maps) as loaded:
        assert libbpf.program_info(loaded.program).verified_instructions <= BUDGETS["mesh_sockets"]
    with libbpf.load(mesh_sockets.SAMPLER, "sample_sockets", ()) as loaded:
        assert libbpf.program_info(loaded.program).verified_instructions <= BUDGETS["sample_sockets"]


def test_the_header_says_what_is_read_here() -> None:
    header = (mesh_sockets.OBJECTS.parent / "src/mesh_sockets.h").read_text()
    said = dict(re.findall(r"^#define (\w+) (\d+)$", header, re.MULTILINE))
    assert (int(said["BUCKETS"]), int(said["FIRST_BOUND_US"])) == (mesh_sockets.BUCKETS, FIRST_BOUND_US)
    [roles] = re.findall(r"enum role {(.*?)}", header, re.DOTALL)
    assert [name.removeprefix("ROLE_") for name in re.findall(r"\w+", roles)[:-1]] == [role.name for role in Role]
    members = ["connect", "connect_us", "rtt", "rtt_us", "retransmits", "sent_bytes", "received_bytes"]
    [body] = re.findall(r"struct flow {(.*?)}", header, re.DOTALL)
    assert re.findall(r"__u64 (\w+)", body) == members
    for name, key_bytes, value_bytes in (
        ("flows", mesh_sockets.KEY, mesh_sockets.FLOW),
        ("figures", struct.Struct("=Q"), mesh_sockets.FIGURES),
    ):
        shape = libbpf.shape(PROGRAM.object, name)
        assert (shape.key_size, shape.value_size) == (key_bytes.size, value_bytes.size)
