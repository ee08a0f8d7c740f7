"""Which cgroup is taken for the kubelet's: its unit's at the top of the tree, or the one that is named; never everybody's."""

from pathlib import Path

import pytest

from nodeagent.linux.errors import KernelError
from nodeagent.probes.place import KubeletCgroup, find
from tests.nodeagent import cgroups


def tree(directory: Path, *paths: str) -> Path:
    """Directories that stand for cgroups."""
    for path in paths:
        (directory / path).mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["system.slice/kubelet.service", "runtime.slice/kubelet.service"], "/system.slice/kubelet.service"),
        (["kubelet.slice/kubelet.service", "system.slice/containerd.service"], "/kubelet.slice/kubelet.service"),
    ],
)
def test_the_unit_is_found_in_a_slice_at_the_top(tmp_path: Path, paths: list[str], found: str) -> None:
    with find(KubeletCgroup(), tree(tmp_path, *paths)) as cgroup:
        assert cgroup.path == found


@pytest.mark.parametrize(
    "path",
    ["kubelet.service", "user.slice/user-1000.slice/kubelet.service", "kubepods.slice/kubepods-pod1.slice/kubelet.service", "a.slice"],
)
def test_a_name_that_others_can_take_is_no_proof(tmp_path: Path, path: str) -> None:
    with pytest.raises(KernelError, match="--kubelet-cgroup"):
        find(KubeletCgroup(), tree(tmp_path, path))


def test_a_path_is_taken_as_it_is_named() -> None:
    with cgroups.made() as path, find(KubeletCgroup(f"/{path.name}")) as cgroup:
        assert cgroup.path == f"/{path.name}"
        assert cgroup.id == path.stat().st_ino


@pytest.mark.parametrize(
    ("path", "words"), [("/", "all processes"), ("//", "all processes"), ("/nm-none", "No such file"), ("/../x", "outside")]
)
def test_paths_that_name_no_single_place_are_refused(path: str, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        find(KubeletCgroup(path))
