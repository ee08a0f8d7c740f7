"""Cgroups of version 2: found, opened by path, and those of processes."""

import errno
import os
from pathlib import Path

import pytest

from nodeagent.linux.cgroups import Cgroup, holding, id_at, mounts, of_process, root
from nodeagent.linux.errors import KernelError
from tests.nodeagent import cgroups

MIXED = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
42 31 0:38 /a /mnt/with\\040space rw,relatime - cgroup2 cgroup2 rw
"""


def test_mounts_of_version_2_only() -> None:
    assert mounts(MIXED) == [Path("/sys/fs/cgroup/unified"), Path("/mnt/with space")]
    assert mounts("") == []


def test_the_root_is_that_of_the_machine() -> None:
    with Cgroup.open("/") as opened:
        assert opened.is_root
        assert opened.id == id_at(root())
        assert opened.path == "/"


def test_one_is_opened_by_its_path_and_known_by_its_id() -> None:
    with cgroups.made() as path:
        with Cgroup.open(f"/{path.name}") as opened, Cgroup.open(path.name) as again:
            assert opened.id == again.id == id_at(path)
            assert opened.path == again.path == f"/{path.name}"
            assert not opened.is_root
            before = opened.id
        path.rmdir()
        path.mkdir()
        assert id_at(path) != before, "one that is made again under the same name is another"
    assert id_at(path) is None


@pytest.mark.parametrize("path", ["../..", "/a/../../b", "a\0b"])
def test_a_path_that_leads_out_is_refused(path: str) -> None:
    with pytest.raises(KernelError, match="outside"):
        Cgroup.open(path)


def test_one_that_is_not_there_is_named() -> None:
    with pytest.raises(KernelError, match="cgroup /nm-absent") as raised:
        Cgroup.open("/nm-absent")
    assert raised.value.errno == errno.ENOENT


def test_the_cgroup_of_a_process() -> None:
    with cgroups.made() as path:
        said = cgroups.run(path, "cat", "/proc/self/cgroup").stdout
        assert f"0::/{path.name}" in said.splitlines()
    assert of_process(os.getpid()) == of_process(os.getppid())
    with pytest.raises(KernelError) as raised:
        of_process(2**22 + 1)
    assert raised.value.errno == errno.ESRCH


def test_the_cgroup_that_holds_a_process_is_found_by_looking() -> None:
    assert holding(1, root()) == of_process(1)
    with cgroups.made() as path, cgroups.inside(path):
        assert holding(os.getpid(), root()) == of_process(os.getpid()) == f"/{path.name}"
        with pytest.raises(KernelError, match="cgroup of process 4194999"):
            holding(4194999, path)
