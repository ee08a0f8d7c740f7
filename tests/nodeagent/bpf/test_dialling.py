"""Who opened a connection: real processes, in a cgroup and a network namespace of the test's own."""

import json
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from nodeagent.bpf import dialling, libbpf
from nodeagent.bpf.dialling import Dialled, Dialler, Dialling, key, split, unpack
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.sockets import netns_cookie
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.objects import eventually, eventually_gone, ids
from tests.nodeagent.pods import Pair

PORT = 9000
BUDGET = 500
V4, V6 = socket.AF_INET, socket.AF_INET6
DIAL = """
import json, os, socket, sys
family, address, port, name = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
if name:
    import ctypes
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
connection = socket.socket(family)
connection.connect((address, port))
print(json.dumps([os.getpid(), connection.getsockname()[1]]))
"""


@pytest.fixture
def place() -> Iterator[tuple[Path, Cgroup]]:
    with cgroups.made() as path, Cgroup.open(path.name) as opened:
        yield path, opened


@pytest.fixture
def records(root: Path, place: tuple[Path, Cgroup]) -> Iterator[Dialled]:
    it = Dialling(root)
    it.attach(place[1])
    with it.open(place[1]) as found:
        assert found is not None
        yield found


@contextmanager
def listening(network: Pair) -> Iterator[None]:
    with closing(network.client.open_socket(V6)) as server:
        server.bind(("::", PORT))
        server.listen(64)
        yield


def dial(path: Path, network: Pair, address: str, *, family: int = V4, name: str = "", program: str = sys.executable) -> tuple[int, int]:
    """The pid of the process that dialled, which is gone, and its source port."""
    done = cgroups.run(path, program, "-c", DIAL, str(int(family)), address, str(PORT), name, namespace=network.pod.name)
    assert done.returncode == 0, done.stderr
    pid, port = json.loads(done.stdout)
    return pid, port


def connection(network: Pair, family: int, source_port: int) -> bytes:
    form = "[{}]" if family == V6 else "{}"
    source, destination = (form.format(side.addresses[family]) for side in (network.pod, network.client))
    return key(network.pod.namespace.run(netns_cookie), f"{source}:{source_port}", f"{destination}:{PORT}")


def found_in(records: Dialled, connection: bytes) -> Dialler | None:
    [record] = records.find([connection])
    return None if record is None else unpack(split(record)[1])


@pytest.mark.parametrize(("family", "address"), [(V4, "10.77.0.2"), (V6, "fd77::2"), (V6, "::ffff:10.77.0.2")])
def test_the_process_is_known_though_it_is_gone(
    records: Dialled, place: tuple[Path, Cgroup], network: Pair, family: int, address: str
) -> None:
    before_ns, before_boot_ns = time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with listening(network):
        pid, port = dial(place[0], network, address, family=family)
    [record] = records.find([connection(network, V4 if "." in address else V6, port)])
    assert record is not None
    at_ns, who = split(record)
    found = unpack(who)
    assert found.pid == pid
    assert found.executable == Path(sys.executable).resolve().name
    assert found.command.startswith("python")
    assert before_ns < at_ns < time.monotonic_ns()
    assert before_boot_ns < found.started_ns < time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_a_process_that_calls_itself_another_is_known_by_its_file(records: Dialled, place: tuple[Path, Cgroup], network: Pair) -> None:
    with listening(network):
        _, port = dial(place[0], network, "10.77.0.2", name="nginx")
    found = found_in(records, connection(network, V4, port))
    assert found is not None
    assert found.command == "nginx"
    assert found.executable == Path(sys.executable).resolve().name


def test_a_name_that_is_long_or_no_text_is_cut_and_harms_nothing(
    records: Dialled, place: tuple[Path, Cgroup], network: Pair, tmp_path: Path
) -> None:
    odd = tmp_path / ("\udcff\n" + "x" * 100)
    shutil.copy(Path(sys.executable).resolve(), odd)
    with listening(network):
        _, port = dial(place[0], network, "10.77.0.2", program=str(odd))
    found = found_in(records, connection(network, V4, port))
    assert found is not None
    assert found.executable == "\ufffd\n" + "x" * 29


def test_one_thread_of_many_stands_for_its_process(records: Dialled, place: tuple[Path, Cgroup], network: Pair) -> None:
    with listening(network):
        threaded = f"import threading; run = threading.Thread(target=exec, args=({DIAL!r}, dict())); run.start(); run.join()"
        done = cgroups.run(
            place[0], sys.executable, "-c", threaded, str(int(V4)), "10.77.0.2", str(PORT), "another", namespace=network.pod.name
        )
        assert done.returncode == 0, done.stderr
        pid, port = json.loads(done.stdout)
    found = found_in(records, connection(network, V4, port))
    assert found is not None
    assert (found.pid, found.command) == (pid, Path(sys.executable).name[:15])


def test_only_the_processes_of_the_cgroup_are_recorded(records: Dialled, place: tuple[Path, Cgroup], network: Pair) -> None:
    with listening(network), cgroups.made() as other:
        _, port = dial(other, network, "10.77.0.2")
        assert records.find([connection(network, V4, port)]) == [None]
        _, port = dial(place[0], network, "10.77.0.2")
        one = connection(network, V4, port)
        [record] = records.find([one])
        assert record is not None
        # One by one, and all together.
        absent = [bytes(len(one))] * 20
        assert records.find([*absent, one, *absent]) == [*[None] * 20, record, *[None] * 20]
        records.forget([*absent, one, *absent])
        assert records.find([one]) == [None]
        records.forget([one])


def test_many_connections_make_room_for_each_other(records: Dialled, place: tuple[Path, Cgroup], network: Pair) -> None:
    many = (
        "import json, socket\n"
        "def one():\n"
        "    with socket.socket() as s:\n"
        "        s.connect_ex(('10.77.0.2', 1)); return s.getsockname()[1]\n"
        "for _ in range(2000): one()\n"
        f"s = socket.socket(); s.connect(('10.77.0.2', {PORT})); print(json.dumps(s.getsockname()[1]))"
    )
    with listening(network):
        done = cgroups.run(place[0], sys.executable, "-c", many, namespace=network.pod.name)
    assert done.returncode == 0, done.stderr
    assert records.find([connection(network, V4, json.loads(done.stdout))]) != [None]


def test_nothing_is_left_behind(root: Path, place: tuple[Path, Cgroup]) -> None:
    it = Dialling(root)
    it.attach(place[1])
    held = ids(root)
    it.detach(place[1])
    it.detach(place[1])
    with it.open(place[1]) as found:
        assert found is None
    assert list(root.iterdir()) == []
    eventually_gone(held)


def test_pins_of_a_cgroup_that_is_gone_are_swept(root: Path) -> None:
    it = Dialling(root)
    with cgroups.made() as path, Cgroup.open(path.name) as opened:
        it.attach(opened)
        it.sweep()
        assert list(root.iterdir())

    def swept() -> bool:
        # The kernel lets go of a cgroup a moment after it was removed.
        it.sweep()
        return not list(root.iterdir())

    eventually(swept)


def test_the_program_stays_small() -> None:
    with libbpf.load(dialling.OBJECT, dialling.PROGRAM.name, ()) as loaded:
        assert libbpf.program_info(loaded.program).verified_instructions <= BUDGET


def test_what_is_packed_is_what_the_header_says(tmp_path: Path) -> None:
    header = dialling.OBJECT.parents[1] / "src/dialling.h"
    source = tmp_path / "sizes.c"
    members = ["at_ns", "process_started_ns", "process", "command", "executable"]
    lines = "".join(f'printf("%zu ", __builtin_offsetof(struct dialler, {member}));' for member in members)
    source.write_text(f'#include <stdio.h>\n#include "{header}"\nint main(void) {{ {lines} return 0; }}\n')
    subprocess.run(["cc", "-o", str(tmp_path / "sizes"), str(source)], check=True, timeout=60)
    said = subprocess.run([str(tmp_path / "sizes")], check=True, capture_output=True, text=True, timeout=10).stdout
    assert [int(offset) for offset in said.split()] == [0, 8, 16, 24, 40]
    record = struct.pack("=QQII16s32s", 1, 2, 3, 0, b"sh", b"dash")
    assert split(record)[0] == 1
    assert unpack(split(record)[1]) == Dialler(pid=3, started_ns=2, command="sh", executable="dash")
    shape = libbpf.shape(dialling.OBJECT, dialling.DIALLED)
    assert (shape.key_size, shape.value_size) == (dialling.KEY.size, dialling.RECORD_BYTES)


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:x", "10.0.0.1:65536", "10.0.0.1:-1", "host:1"])
def test_what_is_no_endpoint_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        key(1, text, "10.0.0.2:1")
    with pytest.raises(ValueError, match=r".*"):
        key(1, "10.0.0.2:1", text)
