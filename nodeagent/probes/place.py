"""Which cgroup is the kubelet's: the one that is configured, or that of its systemd unit."""

import errno
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.linux import cgroups
from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.errors import KernelError

UNIT: Final = "kubelet.service"
_FIRST: Final = "system.slice"
_HINT: Final = "where the kubelet is another unit, name its cgroup by --kubelet-cgroup; in a container, mount the host's /sys/fs/cgroup"


class KubeletCgroup(Struct, frozen=True):
    """`path` below the mount of cgroup v2, or None for that of the unit `kubelet.service`."""

    path: str | None = None


def find(wanted: KubeletCgroup, mount_point: Path | None = None) -> Cgroup:
    """Opens it; raises KernelError, with what to do, where there is none. Blocks.

    The name of a process is no proof, and neither is that of a cgroup deep in the tree: others may make those. A unit stands in a slice at
    the top, where the machine's own root alone makes any.
    """
    mount_point = mount_point or cgroups.root()
    found = Cgroup.open(_unit(mount_point) if wanted.path is None else wanted.path, mount_point)
    if found.is_root or found.path == "/":
        found.close()
        raise KernelError(errno.EINVAL, "the kubelet's cgroup", "name its own: / holds all processes that are seen here")
    return found


def _unit(mount_point: Path) -> str:
    found = sorted(mount_point.glob(f"*.slice/{UNIT}"), key=lambda path: (path.parent.name != _FIRST, path))
    if not found:
        raise KernelError(errno.ENOENT, f"the unit {UNIT}", _HINT)
    return f"/{found[0].relative_to(mount_point)}"
