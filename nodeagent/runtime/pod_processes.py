"""Which processes are of which pod: the kubelet gives each pod a cgroup with the pod's uid in its name."""

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.process import started_ticks

_POD: Final = re.compile(
    r"(?:/|-)pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})(?:\.slice)?(?:/|$)", re.ASCII | re.IGNORECASE
)
"""`…/pod<uid>/…`, or `…-pod<uid with _>.slice/…` where systemd makes the cgroups."""
_SLICES: Final = (
    ("kubepods-burstable.slice/", "-burstable"),
    ("kubepods-besteffort.slice/", "-besteffort"),
    ("", ""),
)
_MAX_FILE_BYTES: Final = 1 << 16


class PodProcess(NamedTuple):
    """Sorted by age: the oldest of a pod is the one that holds its network namespace, whatever its containers do later."""

    started_ticks: int
    pid: int


def pod_uid(cgroups: str) -> str | None:
    """The pod's uid in the text of /proc/PID/cgroup.

    Of several in one path the outermost: what is below a pod's cgroup may be of that pod's making.
    """
    found = (_POD.search(line.split(":", 2)[-1]) for line in cgroups.splitlines())
    return next((match.group(1).lower().replace("_", "-") for match in found if match), None)


def pod_cgroup(cgroups: str) -> str:
    """The path of the pod's cgroup below the mount of version 2, in the text of /proc/PID/cgroup; empty if it is none there."""
    path = next((line.removeprefix("0::") for line in cgroups.splitlines() if line.startswith("0::")), "")
    match = _POD.search(path)
    return path[: match.end()].strip("/") if match and ".." not in path.split("/") else ""


def usual_cgroups(uid: str) -> tuple[str, ...]:
    """Where a kubelet makes the cgroup of a pod, as its configuration and the pod's class of service may be."""
    slices = tuple(f"kubepods.slice/{c}kubepods{q}-pod{uid.replace('-', '_')}.slice" for c, q in _SLICES)
    return (*slices, *(f"kubepods/{q}pod{uid}" for q in ("burstable/", "besteffort/", "")))


def by_pod(wanted: Collection[str]) -> dict[str, list[PodProcess]]:
    """The processes of each of the wanted pods (uids), oldest first. Blocks: reads all of /proc."""
    found: dict[str, list[PodProcess]] = {}
    for pid in _pids():
        uid = pod_uid(_read(f"/proc/{pid}/cgroup"))
        if uid is not None and uid in wanted and (started := started_ticks(pid)) is not None:
            found.setdefault(uid, []).append(PodProcess(started, pid))
    return {uid: sorted(processes) for uid, processes in found.items()}


def cgroup_of(process: PodProcess) -> str:
    """Of its pod; see `pod_cgroup`. Blocks."""
    return pod_cgroup(_read(f"/proc/{process.pid}/cgroup"))


def open_namespace(process: PodProcess, uid: str) -> Namespace | None:
    """The network namespace of a pod's process; None if it is gone, or its pid is another's by now. Raises KernelError. Blocks."""
    namespace = Namespace.open(f"/proc/{process.pid}/ns/net")
    # Only now: whoever has the pid at this moment had it when the namespace was opened, if it began at the same time.
    if started_ticks(process.pid) == process.started_ticks and pod_uid(_read(f"/proc/{process.pid}/cgroup")) == uid:
        return namespace
    namespace.close()
    return None


def _pids() -> Iterator[int]:
    with os.scandir("/proc") as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdigit())


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
