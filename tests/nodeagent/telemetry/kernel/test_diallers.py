"""Which process opened a connection: known for sure, or not said. Real processes, cgroups and connections."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from nodeagent.bpf.dialling import Dialler
from nodeagent.linux.sockets import netns_cookie
from nodeagent.telemetry.kernel.diallers import Diallers, Place, path_of
from nodeagent.telemetry.kernel.sighting import Process
from nodeagent.ztunnel.protocol import ConnectionEntry, Direction, Via
from tests.nodeagent import cgroups
from tests.nodeagent.linux.test_process import running, started_ns
from tests.nodeagent.pods import Pair

PORT = 9000
BEGAN_S = time.time() - time.monotonic()
UID = "Kubernetes//Pod/default/shop"
DIAL = f"""
import json, os, socket
connection = socket.create_connection(("10.77.0.2", {PORT}))
print(json.dumps([os.getpid(), connection.getsockname()[1]]))
"""
MANY = 40
DIAL_MANY = f"""
import json, os, socket
made = [socket.create_connection(("10.77.0.2", {PORT})) for _ in range({MANY})]
print(json.dumps([os.getpid(), [one.getsockname()[1] for one in made]]))
"""
PYTHON = Path(sys.executable).resolve()


@pytest.fixture
def diallers(root: Path) -> Iterator[Diallers]:
    made = Diallers(root, linger_s=0)
    yield made
    made.leave()
    assert list(root.iterdir()) == []
    made.close()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with cgroups.made() as path:
        yield path


@pytest.fixture
def place(diallers: Diallers, cgroup: Path, network: Pair) -> Place:
    made = Place(UID, network.pod.namespace.run(netns_cookie), cgroup.name)
    diallers.set([made])
    return made


@contextmanager
def listening(network: Pair) -> Iterator[None]:
    with closing(network.client.open_socket(socket.AF_INET)) as server:
        server.bind(("10.77.0.2", PORT))
        server.listen(MANY)
        yield


def dial(cgroup: Path, network: Pair) -> tuple[int, ConnectionEntry]:
    """The pid of a process that connects and ends, and what the proxy would say of its connection."""
    with listening(network):
        done = cgroups.run(cgroup, str(PYTHON), "-c", DIAL, namespace=network.pod.name)
        assert done.returncode == 0, done.stderr
    pid, port = json.loads(done.stdout)
    return pid, opened(f"10.77.0.1:{port}", f"10.77.0.2:{PORT}")


def opened(source: str, destination: str) -> ConnectionEntry:
    return ConnectionEntry(1, UID, Direction.OUTBOUND, None, source, destination, time.time(), Via.HBONE)


def find(diallers: Diallers, entry: ConnectionEntry, began_s: float, *, ended: bool) -> Process | None:
    [found] = diallers.find([entry], began_s, ended=ended)
    return found


def test_a_connection_is_found_until_it_has_ended(diallers: Diallers, place: Place, cgroup: Path, network: Pair) -> None:
    pid, entry = dial(cgroup, network)
    for ended in (False, True):
        # The process has ended, so that its file has no path.
        assert find(diallers, entry, BEGAN_S, ended=ended) == Process(pid, PYTHON.name, PYTHON.name)
    assert find(diallers, entry, BEGAN_S, ended=False) is None
    assert find(diallers, entry, BEGAN_S, ended=True) is None


def test_the_last_connections_of_a_workload_that_is_gone_are_told_of(place: Place, cgroup: Path, network: Pair, root: Path) -> None:
    lingering = Diallers(root)
    lingering.set([place])
    pid, entry = dial(cgroup, network)
    lingering.set(())
    found = find(lingering, entry, BEGAN_S, ended=True)
    assert found is not None
    assert found.pid == pid
    lingering.set([place])
    lingering.leave()
    assert find(lingering, entry, BEGAN_S, ended=True) is None
    lingering.close()


def test_others_are_not_found(diallers: Diallers, place: Place, cgroup: Path, network: Pair) -> None:
    _, entry = dial(cgroup, network)
    assert find(diallers, replace(entry, workload="another"), BEGAN_S, ended=True) is None
    assert find(diallers, replace(entry, destination="10.77.0.2:9001"), BEGAN_S, ended=True) is None
    assert find(diallers, entry, BEGAN_S, ended=True) is not None


def test_a_record_of_a_later_connection_is_not_taken_for_this_ones_and_stays(
    diallers: Diallers, place: Place, cgroup: Path, network: Pair
) -> None:
    begin = time.time()
    _, entry = dial(cgroup, network)
    for ended in (False, True):
        assert find(diallers, replace(entry, opened_s=begin - 1), BEGAN_S, ended=ended) is None
    assert find(diallers, entry, BEGAN_S, ended=True) is not None


def test_a_record_of_long_ago_is_not_taken_for_this_ones(diallers: Diallers, place: Place, cgroup: Path, network: Pair) -> None:
    _, entry = dial(cgroup, network)
    assert find(diallers, replace(entry, opened_s=time.time() + 120), BEGAN_S, ended=False) is not None
    assert find(diallers, replace(entry, opened_s=time.time() + 140), BEGAN_S, ended=True) is None
    assert find(diallers, entry, BEGAN_S, ended=True) is None, "nobody will ask for it any more"


def test_a_unit_that_restarts_gets_another_cgroup_of_the_same_name(
    diallers: Diallers, place: Place, cgroup: Path, network: Pair, root: Path
) -> None:
    first = cgroup.stat().st_ino
    cgroups.remove(cgroup)
    diallers.set([place])
    cgroup.mkdir()
    assert cgroup.stat().st_ino != first
    diallers.set([place])
    pid, entry = dial(cgroup, network)
    found = find(diallers, entry, BEGAN_S, ended=True)
    assert found is not None
    assert found.pid == pid


def test_workloads_may_share_a_cgroup(diallers: Diallers, place: Place, cgroup: Path, network: Pair, root: Path) -> None:
    other = Place("other", network.client.namespace.run(netns_cookie), place.cgroup)
    diallers.set([place, other])
    diallers.set([place])
    _, entry = dial(cgroup, network)
    assert find(diallers, entry, BEGAN_S, ended=True) is not None
    assert len(list(root.iterdir())) == 1


@contextmanager
def logged(caplog: pytest.LogCaptureFixture, count: int) -> Iterator[None]:
    caplog.clear()
    yield
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == count


def test_what_can_not_be_is_said_once_and_tried_again(
    diallers: Diallers, network: Pair, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cookie = network.pod.namespace.run(netns_cookie)
    with cgroups.made() as path:
        late = Place(UID, cookie, f"{path.name}/late")
        with logged(caplog, 2):
            diallers.set([late, Place("whole machine", cookie, "/")])
            diallers.set([late, Place("whole machine", cookie, "/")])
        assert not root.exists() or not list(root.iterdir())
        (path / "late").mkdir()
        diallers.set([late])
        assert len(list(root.iterdir())) == 1
        diallers.set(())
        (path / "late").rmdir()


def test_a_reused_pid_names_no_path() -> None:
    with running(PYTHON, "-c", "input()") as process:
        began = started_ns(process.pid)
        assert path_of(Dialler(process.pid, began, "python", PYTHON.name)) == str(PYTHON)
        assert path_of(Dialler(process.pid, began - 50_000_000, "python", PYTHON.name)) == PYTHON.name


def test_a_process_that_became_another_program_is_named_by_what_it_was() -> None:
    with running("sleep", "60") as process:
        assert path_of(Dialler(process.pid, started_ns(process.pid), "sh", "curl")) == "curl"


@pytest.mark.parametrize("ended", [False, True])
def test_of_many_at_once_each_is_found_and_what_is_none_of_ours_harms_nothing(
    diallers: Diallers, cgroup: Path, network: Pair, place: Place, *, ended: bool
) -> None:
    with listening(network):
        done = cgroups.run(cgroup, str(PYTHON), "-c", DIAL_MANY, namespace=network.pod.name)
    assert done.returncode == 0, done.stderr
    pid, ports = json.loads(done.stdout)
    entries = [opened(f"10.77.0.1:{port}", f"10.77.0.2:{PORT}") for port in ports]
    others = [
        replace(entries[0], workload="another"),
        replace(entries[0], direction=Direction.INBOUND),
        replace(entries[0], source="no address"),
        replace(entries[0], destination="10.77.0.2:9001"),
        replace(entries[1], opened_s=time.time() - 3600),
    ]
    expected = [*[None] * len(others), *[Process(pid, PYTHON.name, PYTHON.name)] * len(entries)]
    assert diallers.find([*others, *entries], BEGAN_S, ended=ended) == expected
    assert diallers.find(entries, BEGAN_S, ended=False) == ([None] * len(entries) if ended else expected[len(others) :])
