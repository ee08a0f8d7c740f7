"""The first process of the guest: mounts what a system has, runs the test, reaps what is left behind, and switches the machine off."""

import ctypes
import os
import sys
import traceback
from pathlib import Path

POWER_OFF = 0x4321FEDC
MOUNTS = (
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("cgroup2", "/sys/fs/cgroup"),
)
libc = ctypes.CDLL(None, use_errno=True)


def settings() -> dict[str, str]:
    """What the host wrote on the kernel's command line."""
    return dict(word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word)


def run(command: list[str], environment: dict[str, str]) -> None:
    """Runs the test, and meanwhile is the parent of every orphan."""
    child = os.posix_spawn(command[0], command, environment)
    while os.wait()[0] != child:
        pass


def mount() -> None:
    """The archive has no devices, so that there is nothing to speak to before."""
    failed = []
    for kind, target in MOUNTS:
        Path(target).mkdir(exist_ok=True)
        if libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None) != 0:
            failed.append(f"mount {kind} at {target}: {os.strerror(ctypes.get_errno())}")
    console = os.open("/dev/console", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(console, descriptor)
    print(*failed, sep="\n", flush=True)


def main() -> None:
    mount()
    said = settings()
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "PYTHONPATH": said["nodemesh.repository"],
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        run(
            [said["nodemesh.python"], "-u", "-m", "tests.kernels.guest.smoke", said["nodemesh.nonce"], *said["nodemesh.tests"].split(",")],
            environment,
        )
    finally:
        # Nobody hears of what is raised behind this.
        if sys.exc_info()[1] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
