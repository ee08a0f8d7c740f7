"""The recorder stays on the kubelet's cgroup: started again, configured otherwise, taken off."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nodeagent.bpf.kubelet import PROBES, KubeletRecorder
from nodeagent.bpf.pinned import LINK
from nodeagent.linux.cgroups import Cgroup
from nodeagent.probes import kubelet
from nodeagent.probes.kubelet import KubeletProbes
from nodeagent.probes.place import KubeletCgroup
from nodeagent.state.files import StateDirectory
from tests.nodeagent import bpffs, cgroups
from tests.nodeagent.waiting import until


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with bpffs.mounted(tmp_path) as mount_point:
        yield mount_point / "nodemesh"


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    made = StateDirectory(tmp_path / "state")
    made.prepare()
    return made


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelet, "_LOOK_S", 0.02)


@asynccontextmanager
async def running(
    root: Path, state: StateDirectory, wanted: KubeletCgroup | None, told: list[str] | None = None
) -> AsyncIterator[KubeletProbes]:
    it = KubeletProbes(wanted, KubeletRecorder(root), state, lambda: None if told is None else told.append(it.state.cgroup), why_not="off")
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(it.run())
        try:
            yield it
        finally:
            task.cancel()


def recorders(root: Path) -> set[str]:
    with suppress(FileNotFoundError):
        return {path.parent.name for path in root.glob(f"*/{LINK}")}
    return set()


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def name_of(path: Path) -> str:
    return f"record_kubelet-{path.stat().st_ino}"


async def test_a_kubelet_that_is_started_again_is_known_again(root: Path, state: StateDirectory) -> None:
    told: list[str] = []
    with cgroups.made() as path:
        async with running(root, state, KubeletCgroup(f"/{path.name}"), told) as it:
            await until(lambda: it.state.cgroup == f"/{path.name}", deadline_s=10)
            first = recorders(root)
            assert first == {name_of(path)}
            cgroups.remove(path)
            await until(lambda: not it.state.cgroup, deadline_s=10)
            assert "No such file" in it.state.problem
            path.mkdir()
            await until(lambda: bool(it.state.cgroup), deadline_s=10)
            await until(lambda: recorders(root) == {name_of(path)}, deadline_s=10)
            assert recorders(root) != first
        assert told == [f"/{path.name}", "", f"/{path.name}"]


async def test_what_a_former_agent_attached_goes_when_another_is_configured(root: Path, state: StateDirectory) -> None:
    with cgroups.made() as former, cgroups.made() as later, cgroups.made() as foreign:
        with Cgroup.open(foreign.name) as cgroup:
            KubeletRecorder(root).attach(cgroup)  # another agent's: not ours to take off
        async with running(root, state, KubeletCgroup(f"/{former.name}")) as it:
            await until(lambda: bool(it.state.cgroup), deadline_s=10)
        assert recorders(root) == {name_of(former), name_of(foreign)}, "it stays without the agent"
        async with running(root, state, KubeletCgroup(f"/{later.name}")) as it:
            await until(lambda: bool(it.state.cgroup), deadline_s=10)
            assert recorders(root) == {name_of(later), name_of(foreign)}
        async with running(root, state, None) as it:
            await until(lambda: recorders(root) == {name_of(foreign)}, deadline_s=10)
            assert it.state.problem == "off"


async def test_a_program_that_someone_took_off_is_put_back(root: Path, state: StateDirectory) -> None:
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        async with running(root, state, KubeletCgroup(f"/{path.name}")) as it:
            await until(lambda: bool(it.state.cgroup), deadline_s=10)
            KubeletRecorder(root).detach(cgroup)
            await until(lambda: bool(recorders(root)), deadline_s=10)
            (root / PROBES).unlink()
            await until(lambda: (found := KubeletRecorder(root).inspect(cgroup)) is not None and found.current, deadline_s=10)


async def test_removal_leaves_nothing(root: Path, state: StateDirectory) -> None:
    with cgroups.made() as path:
        async with running(root, state, KubeletCgroup(f"/{path.name}")) as it:
            await until(lambda: bool(it.state.cgroup), deadline_s=10)
            await it.remove()
            assert not it.state.cgroup
    assert names(root) == names(state.path) == []


async def test_everybodys_cgroup_is_not_the_kubelets(root: Path, state: StateDirectory) -> None:
    async with running(root, state, KubeletCgroup("/")) as it:
        await until(lambda: "all processes" in it.state.problem, deadline_s=10)
        assert recorders(root) == set()


async def test_a_note_that_is_damaged_is_set_aside(root: Path, state: StateDirectory) -> None:
    state.write("kubelet-cgroups", b"no json")
    with cgroups.made() as path:
        async with running(root, state, KubeletCgroup(f"/{path.name}")) as it:
            await until(lambda: bool(it.state.cgroup), deadline_s=10)
