"""A real containerd with the real runc, in mounts of its own and without a network that leads anywhere."""

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.nodeagent.pod_sandbox import cgroup_root
from tests.nodeagent.runtime.podman import PAUSE, label

START_S = 30.0
DISABLED = ["grpc.v1.cri", *(f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs"))]


class Containerd:
    """`ctr` is containerd's own client; a container is a process that waits, by a specification written here."""

    def __init__(self) -> None:
        self.tag = secrets.token_hex(4)
        # Not below the tests' usual place: the shims' sockets have paths that may not be long.
        self.directory = Path(tempfile.mkdtemp(prefix="nm-ctrd-"))
        self.socket = self.directory / "containerd.sock"
        self.namespace = f"nm-{self.tag}-ctrd"
        self.cgroup = f"nodemesh-test-{self.tag}"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._configure()
        subprocess.run(["ip", "netns", "add", self.namespace], check=True, timeout=10)
        # One process keeps mounts and network; containerd and its commands come and go within.
        setup = f"mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && touch {self.directory}/set && exec sleep 3600"
        self._holder = subprocess.Popen(["ip", "netns", "exec", self.namespace, "unshare", "--mount", "sh", "-c", setup])
        self._wait((self.directory / "set").exists)

    def start(self) -> None:
        """The daemon; what it is stopped and started, its containers and their shims outlive."""
        log = (self.directory / "log").open("ab")
        self._daemon = subprocess.Popen(
            self._inside("containerd", f"--config={self.directory}/config.toml"), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        log.close()
        self._wait(self._answers)

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def run(self, name: str, *, namespace: str = "default", network: str | None = "", cgroup: str | None = None, **labels: str) -> int:
        """Starts a container; returns the pid of its process. `network`: a path to share, None for the host's."""
        networks = [] if network is None else [{"type": "network", "path": network}] if network else [{"type": "network"}]
        specification = {
            "ociVersion": "1.0.2",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/pause"], "cwd": "/"},
            "root": {"path": str(self.directory / "rootfs")},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": cgroup or f"/{self.cgroup}/{namespace}/{name}",
                "namespaces": [*({"type": kind} for kind in ("pid", "mount", "ipc", "uts")), *networks],
            },
        }
        path = self.directory / f"{namespace}-{name}.json"
        path.write_text(json.dumps(specification))
        given = [word for key, value in labels.items() for word in ("--label", f"{label(key)}={value}")]
        self.ctr("run", "--detach", *given, "--config", str(path), name, namespace=namespace)
        return self.pid(name, namespace=namespace)

    def pid(self, name: str, *, namespace: str = "default") -> int:
        lines = [line.split() for line in self.ctr("tasks", "ls", namespace=namespace).splitlines()]
        return next(int(fields[1]) for fields in lines if fields[0] == name)

    def kill(self, name: str, *, namespace: str = "default") -> None:
        """The task ends; the container, without one, stays."""
        self.ctr("tasks", "delete", "--force", name, namespace=namespace)

    def remove(self, name: str, *, namespace: str = "default") -> None:
        self.kill(name, namespace=namespace)
        self.ctr("containers", "rm", name, namespace=namespace)

    def clear(self) -> None:
        for namespace in self.ctr("namespaces", "ls", "--quiet").split():
            for name in self.ctr("containers", "ls", "--quiet", namespace=namespace).split():
                with suppress(AssertionError):
                    self.kill(name, namespace=namespace)
                self.ctr("containers", "rm", name, namespace=namespace)

    def ctr(self, *arguments: str, namespace: str = "default") -> str:
        command = self._inside("ctr", f"--address={self.socket}", f"--namespace={namespace}", *arguments)
        with tempfile.TemporaryFile("w+") as said:
            # A file and no pipe: a shim keeps what it inherits open for as long as it runs.
            done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, timeout=60)
            said.seek(0)
            text = said.read()
        assert done.returncode == 0, f"ctr {' '.join(arguments)}: {text}"
        return text

    def close(self) -> None:
        with suppress(AssertionError, subprocess.TimeoutExpired):
            if self._daemon is None:
                self.start()
            self.clear()
        self.stop()
        self._holder.kill()
        self._holder.wait()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True, timeout=10)
        top = cgroup_root() / self.cgroup
        for directory in (*sorted(top.rglob("*/"), reverse=True), top):
            with suppress(OSError):
                directory.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            self.ctr("version")
        except AssertionError:
            return False
        return True

    def _inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--", *command]

    def _configure(self) -> None:
        rootfs = self.directory / "rootfs"
        for name in ("proc", "sys", "dev"):
            (rootfs / name).mkdir(parents=True)
        compiler = ["gcc", "-static", "-x", "c", "-", "-o", str(rootfs / "pause")]
        subprocess.run(compiler, input=PAUSE, text=True, check=True, timeout=60)
        settings: dict[str, Any] = {"root": str(self.directory / "root"), "state": str(self.directory / "state")}
        lines = [f'{name} = "{value}"' for name, value in settings.items()]
        disabled = json.dumps([f"io.containerd.{name}" for name in DISABLED])
        sockets = f'[grpc]\naddress = "{self.socket}"\n[ttrpc]\naddress = "{self.socket}.ttrpc"\n'
        (self.directory / "config.toml").write_text("\n".join(["version = 2", *lines, f"disabled_plugins = {disabled}", sockets]))

    def _wait(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not check():
            log = self.directory / "log"
            assert time.monotonic() < deadline, f"containerd does not start: {log.read_text()[-2000:] if log.exists() else ''}"
            time.sleep(0.02)


@contextmanager
def containerd() -> Iterator[Containerd]:
    made = Containerd()
    try:
        made.start()
        yield made
    finally:
        made.close()
