"""A Debian with systemd, booted in a container of its own on a base that debootstrap made once: what a VM is to a package.

It is in a network namespace that the test made. What it writes goes to a layer that is thrown away with it.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from demo import cgroups

CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodemesh" / "machines"
SUITE: Final = "bookworm"
PACKAGES: Final = "systemd,systemd-sysv,dbus,iproute2,ca-certificates,python3,libnftables1,libbpf1,iptables,nftables"
BOOT_S: Final = 120.0
_UNIFIED: Final = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"}


class MachineError(AssertionError):
    """What was asked of the machine failed, in its own words."""


def base() -> Path:
    """The root of a minimal Debian, made if it is not there: by one process, for all."""
    made = CACHE / f"{SUITE}-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            draft = made.with_suffix(".draft")
            _run("rm", "-rf", "--one-file-system", str(draft))
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(draft), timeout_s=600)
            draft.rename(made)
    return made


class Machine:
    """Use as a context manager: it is halted, and everything of it is gone, at the end."""

    def __init__(self, directory: Path, namespace: str) -> None:
        """`directory`: an empty one, on a file system that can be a layer; `namespace`: a named network namespace."""
        self.name = f"nm-{secrets.token_hex(4)}"
        self._directory = directory
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._cgroup: Path | None = None
        self.root = directory / "root"

    def __enter__(self) -> Self:
        try:
            self._mount()
            self._boot()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def run(self, *command: str, timeout_s: float = 60.0, answers: tuple[int, ...] = (0,)) -> str:
        """Runs a command as root of the machine and returns its output; raises MachineError."""
        environment = [f"PATH={os.defpath}:/usr/sbin:/sbin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"]
        line = ["nsenter", "--target", str(self._leader), "--all", "--", "/usr/bin/env", "-i", *environment, *command]
        done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode not in answers:
            raise MachineError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def put(self, file: Path, at: str) -> None:
        """A copy of a file; see `write`."""
        target = self.root / at.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)

    def write(self, at: str, text: str) -> None:
        """A file of the machine; not below /run or /tmp, which are in its own memory."""
        target = self.root / at.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def journal(self, *options: str) -> str:
        return self.run("journalctl", "--no-pager", "--quiet", "--output=cat", *options)

    def property(self, unit: str, name: str) -> str:
        """Of a unit, as systemd has it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def units(self, pattern: str) -> list[str]:
        """Names of the loaded units that match."""
        output = self.run("systemctl", "list-units", "--plain", "--no-legend", "--no-pager", "--all", pattern)
        return [line.split()[0] for line in output.splitlines()]

    def wait(self, check: Callable[[], object], what: str, *, timeout_s: float = 60.0) -> None:
        """Until it holds; raises MachineError with the end of the journal if it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not check():
            if time.monotonic() > deadline_s:
                raise MachineError(f"{what}: not within {timeout_s:g} s\n{self.journal('--lines=60')}")
            time.sleep(0.1)

    def _mount(self) -> None:
        upper, work = self._directory / "upper", self._directory / "work"
        for made in (self.root, upper, work):
            made.mkdir(parents=True)
        _run("mount", "-t", "overlay", self.name, "-o", f"lowerdir={base()},upperdir={upper},workdir={work}", str(self.root))

    def _boot(self) -> None:
        options = [
            "--register=no",
            "--keep-unit",
            "--quiet",
            "--console=pipe",
            "--capability=all",
            "--system-call-filter=bpf perf_event_open",
        ]
        command = ["systemd-nspawn", *options, f"--machine={self.name}", f"--directory={self.root}"]
        command += [f"--network-namespace-path=/run/netns/{self._namespace}", "--boot"]
        # Its own, and no other machine's: nspawn makes one of a fixed name below that in which it is.
        self._cgroup = cgroups.make(self.name)
        with (self._directory / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                cgroups.entering(self._cgroup, command),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_UNIFIED},
            )
        deadline_s = time.monotonic() + BOOT_S
        while not self._booted(self._process):
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise MachineError(f"it did not boot\n{(self._directory / 'console.log').read_text(errors='replace')}")
            time.sleep(0.1)
        if "/sys/fs/bpf" not in self.run("cat", "/proc/mounts"):
            self.run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")  # as systemd has it, outside of containers

    def _booted(self, nspawn: subprocess.Popen[bytes]) -> bool:
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        with contextlib.suppress(MachineError):
            return self.run("systemctl", "is-system-running", answers=(0, 1)).strip() in {"running", "degraded"}
        return False

    def _end(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                # systemd's own signal to halt: its services are stopped in order, and end what they hold.
                if self._leader:
                    os.kill(self._leader, signal.SIGRTMIN + 3)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                if self._leader:
                    os.kill(self._leader, signal.SIGKILL)
                self._process.kill()
                self._process.wait()
        if self._cgroup is not None:
            for below in sorted(self._cgroup.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
                if below.is_dir():
                    cgroups.remove(below)
            cgroups.remove(self._cgroup)
        subprocess.run(["umount", "--lazy", str(self.root)], check=False, capture_output=True)


def _run(*command: str, timeout_s: float = 60.0) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise MachineError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
