"""The program that records the kubelet's connections, on a cgroup of the test's own: exactly those, and as long as they last."""

import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from nodeagent.bpf import kubelet, libbpf
from nodeagent.bpf.kubelet import PROBES, KubeletRecorder, Recording, program_of
from nodeagent.bpf.steering import MAPS, Steering
from nodeagent.linux.cgroups import Cgroup
from tests.nodeagent import cgroups
from tests.nodeagent.bpf import objects
from tests.nodeagent.bpf.objects import eventually_gone, ids
from tests.nodeagent.pods import Pair

PORT = 8080
BUDGET_INSTRUCTIONS = 300
HOLD = """
import socket, sys
family, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
held = []
for _ in range(int(sys.argv[4])):
    made = socket.socket(family)
    made.connect((address, port))
    held.append(made)
    print(made.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place() -> Iterator[tuple[Path, Cgroup]]:
    with cgroups.made() as path, Cgroup.open(path.name) as opened:
        yield path, opened


@pytest.fixture
def served(network: Pair) -> Iterator[Pair]:
    """Something listens in the pod."""
    with network.pod.open_socket(socket.AF_INET6) as listening:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::", PORT))
        listening.listen(128)
        yield network


class Holder:
    """A process of a cgroup that connects, and holds what it has."""

    def __init__(self, path: Path, namespace: str, family: int, address: str, count: int = 1) -> None:
        entering = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(path), "ip", "netns", "exec", namespace]
        command = [*entering, "python3", "-c", HOLD, str(int(family)), address, str(PORT), str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ports = [int(self.process.stdout.readline()) for _ in range(count)]

    def end(self) -> None:
        self.process.communicate("", timeout=10)


def recorded(root: Path) -> set[tuple[str, int, str, int]]:
    """The table: client, its port, server, its port."""
    with kubelet.probes(root) as table:
        found = [struct.unpack("=16s16sHH", key) for key, _ in libbpf.entries(table, 16)]
    return {(str(ip_address(client)), port, str(ip_address(server)), to) for client, server, port, to in found}


@pytest.mark.parametrize(
    ("family", "dialled", "client", "server"),
    [
        (socket.AF_INET, "10.77.0.1", "::ffff:10.77.0.2", "::ffff:10.77.0.1"),
        (socket.AF_INET6, "fd77::1", "fd77::2", "fd77::1"),
        (socket.AF_INET6, "::ffff:10.77.0.1", "::ffff:10.77.0.2", "::ffff:10.77.0.1"),
    ],
)
def test_a_connection_is_recorded_as_long_as_it_lasts(
    root: Path, place: tuple[Path, Cgroup], served: Pair, family: int, dialled: str, client: str, server: str
) -> None:
    path, cgroup = place
    it = KubeletRecorder(root)
    assert it.inspect(cgroup) is None
    it.attach(cgroup)
    holder = Holder(path, served.client.name, family, dialled)
    assert recorded(root) == {(str(ip_address(client)), holder.ports[0], str(ip_address(server)), PORT)}
    with cgroups.made() as other:
        stranger = Holder(other, served.client.name, family, dialled)
        assert len(recorded(root)) == 1
        stranger.end()
    holder.end()
    objects.eventually(lambda: not recorded(root))
    found = it.inspect(cgroup)
    assert found is not None
    assert found.current
    assert found.connections == dict.fromkeys(Recording, 0) | {Recording.BEGAN: 1, Recording.ENDED: 1}


@pytest.mark.parametrize(
    "way",
    [
        "made.connect_ex(('10.77.0.1', 1))",  # refused
        "made.settimeout(0); made.connect_ex(('10.77.0.9', 8080)); made.close()",  # given up before an answer
        "made.connect(('10.77.0.1', 8080)); made.setsockopt(1, 13, b'\\1\\0\\0\\0\\0\\0\\0\\0'); made.close()",  # reset
        "made.connect(('10.77.0.1', 8080)); made.close()",  # TIME_WAIT
    ],
)
def test_however_it_ends_nothing_is_left(root: Path, place: tuple[Path, Cgroup], served: Pair, way: str) -> None:
    path, cgroup = place
    KubeletRecorder(root).attach(cgroup)
    script = f"import socket; made = socket.socket(); {way}"
    done = cgroups.run(path, "python3", "-c", script, namespace=served.client.name)
    assert done.returncode == 0, done.stderr
    found = KubeletRecorder(root).inspect(cgroup)
    assert found is not None
    assert found.connections[Recording.BEGAN] == 1
    objects.eventually(lambda: not recorded(root))


def test_a_socket_that_connects_anew_is_recorded_as_what_it_is_now(root: Path, place: tuple[Path, Cgroup], served: Pair) -> None:
    """connect(AF_UNSPEC), then to somewhere else."""
    path, cgroup = place
    KubeletRecorder(root).attach(cgroup)
    script = (
        "import ctypes, socket, sys; made = socket.socket(); made.connect(('10.77.0.1', 8080));"
        "assert ctypes.CDLL(None).connect(made.fileno(), bytes(16), 16) == 0;"
        "made.connect(('10.77.0.2', int(sys.argv[1])))"
    )
    with served.client.open_socket(socket.AF_INET) as another:
        another.bind(("10.77.0.2", 0))
        another.listen()
        done = cgroups.run(path, "python3", "-c", script, str(another.getsockname()[1]), namespace=served.client.name)
        assert done.returncode == 0, done.stderr
    found = KubeletRecorder(root).inspect(cgroup)
    assert found is not None
    assert found.connections[Recording.BEGAN] == 2
    objects.eventually(lambda: not recorded(root))


def test_a_full_table_makes_room_for_what_begins(root: Path, place: tuple[Path, Cgroup], served: Pair) -> None:
    path, cgroup = place
    KubeletRecorder(root).attach(cgroup)
    room = libbpf.shape(kubelet.OBJECT, PROBES).max_entries
    with kubelet.probes(root) as table:
        for number in range(2 * room):
            libbpf.write(table, struct.pack("=IIII16sHH", number, 1, 1, 1, b"", 1, 1), struct.pack("=QQ", 0, 0))
        assert len(list(libbpf.entries(table, 16))) <= room
    holder = Holder(path, served.client.name, socket.AF_INET, "10.77.0.1")
    assert holder.ports[0] in {port for _, port, _, _ in recorded(root)}
    holder.end()


def test_it_goes_with_the_last_that_has_the_table(root: Path, place: tuple[Path, Cgroup], network: Pair) -> None:
    _, cgroup = place
    it, steering = KubeletRecorder(root), Steering(root)
    it.attach(cgroup)
    steering.attach(network.pod.namespace, {})
    held = ids(root)
    assert [len(numbers) for numbers in held.values()] == [2, len(MAPS) + 2, 2]
    it.detach(cgroup)
    it.detach(cgroup)
    assert (root / PROBES).exists()
    (other := root / "another_program-7").mkdir()
    steering.detach(network.pod.namespace)
    assert list(root.iterdir()) == [other], "what has no use for the table does not keep it"
    other.rmdir()
    eventually_gone(held)


def test_a_table_that_was_taken_away_is_made_anew_for_all(root: Path, place: tuple[Path, Cgroup], network: Pair) -> None:
    _, cgroup = place
    it, steering = KubeletRecorder(root), Steering(root)
    for _ in range(2):
        it.attach(cgroup)
        steering.attach(network.pod.namespace, {})
        found, steered = it.inspect(cgroup), steering.inspect(network.pod.namespace)
        assert found is not None
        assert steered is not None
        assert found.current
        assert steered.current
        (root / PROBES).unlink()
        found, steered = it.inspect(cgroup), steering.inspect(network.pod.namespace)
        assert found is not None
        assert steered is not None
        assert not found.current
        assert not steered.current
        assert not (root / PROBES).exists(), "looking makes nothing"


def test_the_pins_of_a_cgroup_that_is_gone_are_swept(root: Path) -> None:
    it = KubeletRecorder(root)
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        it.attach(cgroup)
        it.sweep()
        assert len(list(root.iterdir())) == 2
    objects.eventually(lambda: it.sweep() is None and not list(root.iterdir()))


def test_the_verifier_has_little_to_do() -> None:
    program = program_of()
    with libbpf.load(program.object, program.name, ()) as loaded:
        assert 0 < libbpf.program_info(loaded.program).verified_instructions <= BUDGET_INSTRUCTIONS
