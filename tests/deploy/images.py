"""The images, built once for a state of the tree, on a base that debootstrap made: what they are asked for, in the way of a container."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodemesh" / "images"
SUITE: Final = "bookworm"
PACKAGES: Final = "ca-certificates,iptables,libbpf1,libnftables1,python3,python3-venv"
CHROOT: Final = ("--isolation", "chroot", "--network", "host")
"""No runtime is needed, and none that asks for more than this machine gives."""
DEFAULT: Final = frozenset(
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID"),
        *("SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)
"""What a container has whose capabilities nobody names."""
_BITS = {
    "DAC_OVERRIDE": 1,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "PERFMON": 38,
    "BPF": 39,
}


def run(*command: str | Path, timeout_s: float = 600, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, check=False, capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def build() -> str:
    """Builds the images unless they are there; returns their tag."""
    base = _base()
    wheel = _wheel()
    parts = [wheel.read_bytes(), base.encode(), *(path.read_bytes() for path in sorted((ROOT / "deploy/images").iterdir()))]
    tag = "test-" + hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    if not all(_exists(f"nodemesh-{part}:{tag}") for part in ("agent", "controller", "envoy")):
        options = " ".join([*CHROOT, "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"])
        run("tools/images.sh", env={"BUILDER": "buildah", "BASE": base, "TAG": tag, "BUILD_OPTIONS": options})
    return tag


def _base() -> str:
    name = f"nodemesh-base:{SUITE}-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
    if not _exists(name):
        root = CACHE / f"{SUITE}-{os.getpid()}"
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, root)
            made = run("buildah", "from", "scratch").strip()
            run("buildah", "copy", made, root, "/")
            run("buildah", "commit", "--rm", made, name)
        finally:
            run("rm", "-rf", "--one-file-system", root)
    return name


def _wheel() -> Path:
    for former in (ROOT / "dist").glob("nodemesh-*.whl"):
        former.unlink()
    built = os.environ.get("CARGO_TARGET_DIR") or CACHE.parent / "cargo"
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", ".", env={"CARGO_TARGET_DIR": str(built)})
    (wheel,) = (ROOT / "dist").glob("nodemesh-*.whl")
    return wheel


def _exists(name: str) -> bool:
    return subprocess.run(["buildah", "inspect", "--type", "image", name], check=False, capture_output=True, timeout=60).returncode == 0


def ours() -> frozenset[str]:
    """Of the capabilities that the agent is given, those that this machine's root has, and so can give."""
    effective = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")).split()[1], 16)
    return frozenset(name for name, bit in _BITS.items() if effective >> bit & 1)


class Container(AbstractContextManager["Container"]):
    """A container of an image: commands are run in it as the image's user, with the capabilities that are named and no others."""

    def __init__(self, image: str, *, capabilities: Iterable[str] = (), netns: str = "", volumes: Sequence[str] = ()) -> None:
        wanted = {f"CAP_{name}" for name in capabilities}
        self._options = [option for name in sorted(DEFAULT - wanted) for option in ("--cap-drop", name)]
        self._options += [option for name in sorted(wanted - DEFAULT) for option in ("--cap-add", name)]
        self._options += [option for volume in volumes for option in ("--volume", volume)]
        self._enter = ["ip", "netns", "exec", netns] if netns else []
        self._name = run("buildah", "from", image).strip()

    def command(self, *command: str) -> list[str]:
        """What to start, for one that goes on."""
        return [*self._enter, "buildah", "run", *CHROOT, *self._options, self._name, "--", *command]

    def run(self, *command: str) -> str:
        return run(*self.command(*command))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        run("buildah", "rm", self._name)
