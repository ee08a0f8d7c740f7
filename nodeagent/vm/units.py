"""Where the cgroups of systemd's units are: they come with the unit and go with it."""

import os
from pathlib import Path
from typing import Final

_SLICES: Final = (".slice",)
_MAX_DEPTH: Final = 6


def find(unit: str, mount_point: Path, known: str = "") -> str:
    """The path below the mount of version 2 of a unit's cgroup, or empty where there is none now.

    `unit` is a name like `web.service`, found in whatever slice it is, or such a path itself. `known`: where it was found last.
    """
    if "/" in unit:
        return unit if (mount_point / unit).is_dir() else ""
    for place in (known, f"system.slice/{unit}"):
        if place and (mount_point / place).is_dir():
            return place
    return _in_slices(unit, mount_point)


def _in_slices(unit: str, mount_point: Path) -> str:
    """Units are in slices only: a service that makes cgroups of its own below its own makes none that is taken for another unit."""
    for directory, names, _ in os.walk(mount_point):
        path = Path(directory)
        if unit in names:
            return str((path / unit).relative_to(mount_point))
        deep = len(path.relative_to(mount_point).parts) >= _MAX_DEPTH
        names[:] = [] if deep else sorted(name for name in names if name.endswith(_SLICES))
    return ""
