"""Pinned programs on cgroups, with maps of their own and one that they share; `test_steering` has them on network namespaces."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import AttachType
from nodeagent.bpf.pinned import Maps, Pinned, Program, shared_map
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.objects import compiled, eventually, eventually_gone, ids

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#define MAP(name, kind, room) \\
struct { __uint(type, kind); __uint(max_entries, room); __type(key, __u32); __type(value, __u64); } name SEC(".maps")
MAP(own, BPF_MAP_TYPE_ARRAY, 1);
MAP(common, BPF_MAP_TYPE_HASH, ROOM);
EXTRA
SEC("cgroup/connect4")
int counted(struct bpf_sock_addr *ctx)
{
	__u32 key = 0, port = ctx->user_port;
	__u64 *count = bpf_map_lookup_elem(&own, &key), one = 1;

	if (count)
		*count += STEP;
	bpf_map_update_elem(&common, &port, &one, 0);
	USE
	return 1;
}
char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""
DIAL = "import socket, sys\nfor port in sys.argv[1:]: socket.socket().connect_ex(('127.0.0.1', int(port)))"


def version(directory: Path, name: str, *, step: int = 1, room: int = 1000, extra: bool = False) -> Program:
    words = {"ROOM": str(room), "STEP": str(step), "EXTRA": "MAP(later, BPF_MAP_TYPE_ARRAY, 1);" if extra else ""}
    words["USE"] = "bpf_map_update_elem(&later, &key, &one, 0);" if extra else ""
    source = SOURCE
    for word, text in words.items():
        source = source.replace(word, text)
    return Program(
        compiled(directory, name, source), "counted", AttachType.CGROUP_INET4_CONNECT, ("own", "later") if extra else ("own",), ("common",)
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return version(tmp_path_factory.mktemp("first"), "first")


@pytest.fixture
def place() -> Iterator[tuple[Path, Cgroup]]:
    with cgroups.made() as path, Cgroup.open(path.name) as opened:
        yield path, opened


def dial(path: Path, *ports: int) -> None:
    done = cgroups.run(path, "unshare", "--net", "python3", "-c", DIAL, *map(str, ports))
    assert done.returncode == 0, done.stderr


def number(maps: Maps, name: str) -> int:
    return int(struct.unpack("=Q", libbpf.read(maps[name], 0, 8) or b"")[0])


def test_it_runs_for_the_processes_of_its_cgroup_only_and_leaves_nothing(root: Path, first: Program, place: tuple[Path, Cgroup]) -> None:
    path, cgroup = place
    it = Pinned(root, first)
    with shared_map(root, first, "common") as common, cgroups.made() as other:
        it.attach(cgroup, lambda maps: libbpf.write(maps["own"], 0, struct.pack("=Q", 40)), shared={"common": common})
        dial(path, 1, 2)
        dial(other, 3)
        with it.open(cgroup, shared={"common": common}) as found:
            assert found is not None
            assert found.current
            assert number(found.maps, "own") == 42
        assert {int.from_bytes(key[:2], "big") for key, _ in libbpf.entries(common, 8)} == {1, 2}
    held = ids(root)
    assert [len(numbers) for numbers in held.values()] == [1, 2, 1]
    it.detach(cgroup)
    it.detach(cgroup)
    assert [pin.name for pin in root.iterdir()] == ["common"]
    (root / "common").unlink()
    eventually_gone(held)


def test_another_version_takes_over_with_its_maps_and_gets_those_that_are_new(
    root: Path, first: Program, place: tuple[Path, Cgroup], tmp_path: Path
) -> None:
    path, cgroup = place
    newer = version(tmp_path, "newer", step=100, extra=True)
    with shared_map(root, first, "common") as common:
        shared = {"common": common}
        Pinned(root, first).attach(cgroup, shared=shared)
        dial(path, 1)
        link = ids(root)["link_id"]
        it = Pinned(root, newer)
        with it.open(cgroup, shared=shared) as found:
            assert found is not None
            assert not found.current
        it.attach(cgroup, shared=shared)
        dial(path, 2)
        with it.open(cgroup, shared=shared) as found:
            assert found is not None
            assert found.current
            assert (number(found.maps, "own"), number(found.maps, "later")) == (101, 1)
        assert ids(root)["link_id"] == link


def test_a_shared_map_that_was_made_anew_is_taken_up(root: Path, first: Program, place: tuple[Path, Cgroup]) -> None:
    path, cgroup = place
    it = Pinned(root, first)
    with shared_map(root, first, "common") as common:
        it.attach(cgroup, shared={"common": common})
    (root / "common").unlink()
    with shared_map(root, first, "common") as anew:
        with it.open(cgroup, shared={"common": anew}) as found:
            assert found is not None
            assert not found.current
        it.attach(cgroup, shared={"common": anew})
        dial(path, 7)
        assert libbpf.read(anew, 7 << 8, 8) is not None


def test_a_shared_map_is_the_same_for_all_who_ask_at_once(root: Path, first: Program) -> None:
    found: list[int] = []

    def ask() -> None:
        with shared_map(root, first, "common") as common:
            found.append(libbpf.map_id(common))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_shared_map_of_another_layout_is_refused(root: Path, first: Program, tmp_path: Path) -> None:
    shared_map(root, first, "common").close()
    with pytest.raises(KernelError, match="another version of the agent made them"):
        shared_map(root, version(tmp_path, "wider", room=2000), "common")


def test_what_is_left_of_a_cgroup_that_is_gone_is_swept(root: Path, first: Program, place: tuple[Path, Cgroup]) -> None:
    path, cgroup = place
    it = Pinned(root, first)
    with cgroups.made() as staying, Cgroup.open(staying.name) as stays:
        it.attach(cgroup)
        it.attach(stays)
        it.sweep()
        assert len(list(root.iterdir())) == 2
        path.rmdir()
        eventually(lambda: it.sweep() is None and [pin.name for pin in root.iterdir()] == [f"counted-{stays.id}"])


def test_entries_are_listed_in_batches_and_taken_out_by_key(root: Path, first: Program) -> None:
    with shared_map(root, first, "common") as common:
        assert list(libbpf.entries(common, 8)) == []
        wanted = {struct.pack("=I", key): struct.pack("=Q", key * key) for key in range(700)}
        for key, value in wanted.items():
            libbpf.write(common, key, value)
        listed = list(libbpf.entries(common, 8))
        assert len(listed) == len(wanted)
        assert dict(listed) == wanted
        assert libbpf.delete(common, 3)
        assert not libbpf.delete(common, 3)
        assert libbpf.read(common, 3, 8) is None
        assert len(list(libbpf.entries(common, 8))) == 699
