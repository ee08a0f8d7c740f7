"""A control group for each agent, as a service or a container has one; without, where the machine has none of version 2."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nodeagent.linux.cgroups import root

_REMOVAL_S = 5.0


def make(name: str) -> Path | None:
    """Directly below the root; the one that is there already, if one is."""
    try:
        path = root() / name
        path.mkdir(exist_ok=True)
    except OSError:
        return None
    return path


def entering(cgroup: Path | None, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in a cgroup from its first instruction on."""
    return list(command) if cgroup is None else ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup), *command]


def remove(cgroup: Path) -> None:
    """Once the processes in it are gone, which were ended just now."""
    deadline_s = time.monotonic() + _REMOVAL_S
    while cgroup.is_dir():
        with suppress(OSError):
            cgroup.rmdir()
            return
        if time.monotonic() > deadline_s:
            return
        time.sleep(0.02)
