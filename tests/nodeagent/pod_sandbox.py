"""Pods as a container runtime leaves them: a network namespace of their own, and processes in a cgroup that the kubelet named."""

import os
import secrets
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.linux.namespaces import NamespaceKey, key_at


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted."""
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return next(Path(fields[4]) for fields in mounts if "cgroup2" in fields[fields.index("-") + 1 :][:1])


@dataclass
class Sandbox:
    """`netns` is where the runtime bound it; `pid` is of the process that holds it, in the pod's cgroup."""

    uid: str
    name: str
    cgroup: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def netns(self) -> str:
        return f"/run/netns/{self.name}"

    @property
    def key(self) -> NamespaceKey:
        key = key_at(self.netns)
        assert key is not None
        return key

    @property
    def pid(self) -> int:
        return self.processes[0].pid

    def ip(self, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self.name, *arguments], check=True, capture_output=True, timeout=10)

    def start(self, *command: str, becomes: str = "") -> subprocess.Popen[bytes]:
        """Runs something in the pod: in its namespace and its cgroup from its first instruction on."""
        line = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.cgroup), "nsenter", f"--net={self.netns}", "--", *command]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.processes.append(process)
        deadline = time.monotonic() + 10
        # The shell and nsenter replace themselves; what they become is in the pod from its first instruction on.
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != (becomes or Path(command[0]).name)[:15]:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return process

    def kill(self) -> None:
        """Its processes end."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def end(self) -> None:
        """As a runtime ends a pod: processes, namespace."""
        self.kill()
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True, timeout=10)


class Sandboxes:
    """Makes them, below one cgroup that is the test's own."""

    def __init__(self, *, systemd: bool) -> None:
        self._systemd = systemd
        self._tag = secrets.token_hex(4)
        self.top = cgroup_root() / f"nodemesh-test-{self._tag}"
        self._made: list[Sandbox] = []

    def add(self, address: str = "", *, process: bool = True, name: str = "", uid: str = "") -> Sandbox:
        """`name` is of a namespace that is there already."""
        uid = uid or str(uuid.uuid4())
        made = Sandbox(uid, name or f"nm-{self._tag}-{len(self._made)}", self._cgroup(uid))
        made.cgroup.mkdir(parents=True)
        self._made.append(made)
        if not name:
            subprocess.run(["ip", "netns", "add", made.name], check=True, capture_output=True, timeout=10)
            made.ip("link", "set", "lo", "up")
            made.ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
            made.ip("link", "set", "eth0", "up")
        if address:
            made.ip("address", "add", f"{address}/24", "dev", "eth0")
        if process:
            made.start("sleep", "600")
        return made

    def close(self) -> None:
        for sandbox in self._made:
            sandbox.end()
        for directory in sorted((path for path in self.top.rglob("*") if path.is_dir()), reverse=True):
            _remove(directory)
        _remove(self.top)

    def _cgroup(self, uid: str) -> Path:
        container = f"{secrets.token_hex(16)}{secrets.token_hex(16)}"
        if self._systemd:
            slices = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"
            return self.top / slices / f"cri-containerd-{container}.scope"
        return self.top / "kubepods/besteffort" / f"pod{uid}" / container


@contextmanager
def sandboxes(*, systemd: bool = True) -> Iterator[Sandboxes]:
    made = Sandboxes(systemd=systemd)
    with ExitStack() as end:
        end.callback(made.close)
        yield made


def _remove(directory: Path) -> None:
    """A cgroup whose last process has just been reaped may be busy for a moment."""
    deadline = time.monotonic() + 5
    while directory.exists():
        try:
            os.rmdir(directory)  # noqa: PTH106 - a cgroup: its files go with it
        except OSError:
            assert time.monotonic() < deadline, f"{directory} can't be removed"
            time.sleep(0.01)
