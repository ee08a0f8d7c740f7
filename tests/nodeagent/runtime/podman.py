"""A real engine (Podman, by Docker's API) whose containers have their networks in a namespace that the test made."""

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.nodeagent.pod_sandbox import cgroup_root

PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
OPTIONS = ("--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file")
# What a container is not given here, since this machine may lack the right to give it: limits on what it may use, and on devices.
UNLIMITED = ("--privileged", "--pids-limit=-1", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--cgroups=no-conmon")
START_S = 30.0


class Podman:
    """Runs in mounts of its own: what it writes below /var/lib/cni, and the view of cgroups that it needs, are nobody else's."""

    def __init__(self) -> None:
        self.tag = secrets.token_hex(4)
        self.directory = Path(tempfile.mkdtemp(prefix="nodemesh-podman-"))
        self.socket = self.directory / "podman.sock"
        self.namespace = f"nm-{self.tag}-podman"
        self.cgroup = f"nodemesh-test-{self.tag}"
        self._service: subprocess.Popen[bytes] | None = None
        self._rootfs()
        subprocess.run(["ip", "netns", "add", self.namespace], check=True, timeout=10)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True, timeout=10)
        # One process keeps mounts and network; the engine and its commands come and go within.
        setup = (
            "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /var/lib/cni && mount -t tmpfs none /var/lib/cni"
        )
        hold = [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "unshare",
            "--mount",
            "sh",
            "-c",
            f"{setup} && touch {self.directory}/set && exec sleep 3600",
        ]
        self._holder = subprocess.Popen(hold)
        self._wait((self.directory / "set").exists)

    def start(self) -> None:
        """The engine's API."""
        self._service = subprocess.Popen(self._inside("system", "service", "--time=0", f"unix://{self.socket}"), stderr=subprocess.DEVNULL)
        self._wait(self.socket.exists)

    def stop(self) -> None:
        """The engine goes; its containers stay."""
        if self._service is not None:
            self._service.kill()
            self._service.wait()
            self._service = None
            self.socket.unlink(missing_ok=True)

    def run(self, name: str, *options: str, **labels: str) -> str:
        """Starts a container; returns its id. Labels are named as in `label`."""
        given = [f"--label={label(key)}={value}" for key, value in labels.items()]
        command = ("run", "--detach", f"--name={name}", f"--cgroup-parent=/{self.cgroup}", *UNLIMITED, *given, *options)
        return self.command(*command, "--rootfs", str(self.directory / "rootfs"), "/pause").strip()

    def inspect(self, name: str) -> Any:
        return json.loads(self.command("inspect", name))[0]

    def command(self, *arguments: str) -> str:
        done = subprocess.run(self._inside(*arguments), check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"podman {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        with suppress(AssertionError):
            self.command("rm", "--force", "--all", "--time=0")
        self.stop()
        self._holder.kill()
        self._holder.wait()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True, timeout=10)
        top = cgroup_root() / self.cgroup
        for directory in (*sorted(top.rglob("*/"), reverse=True), top):
            with suppress(OSError):
                directory.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _inside(self, *arguments: str) -> list[str]:
        places = [f"--{name}={self.directory / name}" for name in ("root", "runroot", "tmpdir")]
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--", "podman", *places, *OPTIONS, *arguments]

    def _rootfs(self) -> None:
        rootfs = self.directory / "rootfs"
        for name in ("proc", "sys", "dev", "etc", "run"):
            (rootfs / name).mkdir(parents=True)
        compiler = ["gcc", "-static", "-x", "c", "-", "-o", str(rootfs / "pause")]
        subprocess.run(compiler, input=PAUSE, text=True, check=True, timeout=60)

    @staticmethod
    def _wait(check: Any) -> None:
        deadline = time.monotonic() + START_S
        while not check():
            assert time.monotonic() < deadline, "podman does not start"
            time.sleep(0.02)


def label(key: str) -> str:
    """`mode`, `workload`, `namespace`, `account`, or a label as it is."""
    names = {
        "mode": "istio.io/dataplane-mode",
        "workload": "nodemesh.io/workload",
        "namespace": "nodemesh.io/namespace",
        "account": "nodemesh.io/service-account",
    }
    return names.get(key, key)


@contextmanager
def podman() -> Iterator[Podman]:
    made = Podman()
    try:
        made.start()
        yield made
    finally:
        made.close()
