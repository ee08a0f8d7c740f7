"""How probes are known, in words: the best way there is, why not a better one, and whether that is a problem."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from nodeagent.bpf.kubelet import KubeletRecorder
from nodeagent.config import Config, ControllerAddress, KubernetesPods, RuntimeChoice, StaticList
from nodeagent.probes.known import Probes, Way
from nodeagent.probes.place import KubeletCgroup
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.state.files import StateDirectory
from tests.nodeagent import bpffs, cgroups
from tests.nodeagent.waiting import until

LIST = StaticList(Path("list.yaml"))
MISSING = KubeletCgroup("/nm-missing")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with bpffs.mounted(tmp_path) as mount_point:
        yield mount_point / "nodemesh"


@asynccontextmanager
async def running(
    root: Path, kubelet: KubeletCgroup | None, *, runtime: RuntimeChoice = LIST, from_node: bool = False, by_kernel: bool = True
) -> AsyncIterator[tuple[Probes, SnapshotStore]]:
    config = Config(
        node="n1",
        controller=ControllerAddress("controller"),
        root_ca=Path("root.pem"),
        runtime=runtime,
        token=Path("token"),
        kubelet=kubelet,
        probes_from_node=from_node,
        node_addresses=(ip_address("192.0.2.1"),),
    )
    state = StateDirectory(root.parent.parent / "state")
    state.prepare()
    store = SnapshotStore(Snapshot())
    it = Probes(config, KubeletRecorder(root), state, store, capture="nftables", knows_connections=by_kernel)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one, name=name) for name, one in it.tasks().items()]
        try:
            yield it, store
        finally:
            for task in tasks:
                task.cancel()


async def test_the_kubelets_own_connections_are_the_best_way(root: Path) -> None:
    with cgroups.made() as path:
        async with running(root, KubeletCgroup(f"/{path.name}"), from_node=True) as (it, store):
            await until(lambda: it.known().way is Way.KUBELET, deadline_s=10)
            assert path.name in it.known().words
            assert not store.current.probe_sources
            await it.remove()
            assert it.known().way is Way.NODE


@pytest.mark.parametrize(
    ("kubelet", "runtime", "by_kernel", "words", "is_problem"),
    [
        (None, LIST, True, "--kubelet-cgroup none", False),
        (None, KubernetesPods(), True, "--kubelet-cgroup none", False),
        (MISSING, LIST, True, "nm-missing", True),
        (MISSING, KubernetesPods(), False, "capture by nftables can't tell", True),
        (KubeletCgroup(), LIST, False, "capture by nftables can't tell", False),
    ],
)
async def test_without_a_better_way_it_is_said_why(
    root: Path, kubelet: KubeletCgroup | None, runtime: RuntimeChoice, *, by_kernel: bool, words: str, is_problem: bool
) -> None:
    async with running(root, kubelet, runtime=runtime, by_kernel=by_kernel) as (it, store):
        await until(lambda: words in it.known().words, deadline_s=10)
        assert it.known().way is Way.NONE
        assert bool(it.known().problem) is is_problem
        assert not store.current.probe_sources
    async with running(root, kubelet, runtime=runtime, by_kernel=by_kernel, from_node=True) as (it, store):
        await until(lambda: "from 1 addresses" in it.known().words and words in it.known().words, deadline_s=10)
        assert it.known().way is Way.NODE
        assert not it.known().problem
