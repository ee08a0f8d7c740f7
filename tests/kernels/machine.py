"""A virtual machine that boots a kernel and a root, has no network, and ends in bounded time; its console is all that comes out."""

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.kernels.debian import Kernel

MEMORY_MB = 1536
CPUS = 2


def command(kernel: Kernel, root: Path, settings: Mapping[str, str]) -> list[str]:
    """QEMU's command line; `settings` come on the kernel's.

    In software, also where there is /dev/kvm: that of a virtual machine hung here, and the test is to be the same everywhere.
    """
    words = ["console=ttyS0", "panic=-1", "loglevel=3", *(f"{name}={value}" for name, value in settings.items())]
    return [
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi"),
        *("-machine", "q35", "-cpu", "max", "-smp", str(CPUS), "-m", str(MEMORY_MB)),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none", "-serial", "stdio"),
        *("-kernel", str(kernel.image), "-initrd", str(root), "-append", " ".join(words)),
    ]


def boot(line: list[str], *, timeout_s: float, heard: Callable[[str], None]) -> None:
    """Runs it to its end, or to the end of its time; each line of its console goes to `heard`."""
    deadline_s = time.monotonic() + timeout_s
    with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as machine:
        try:
            _listen(machine, deadline_s, heard)
        finally:
            machine.kill()


def _listen(machine: subprocess.Popen[bytes], deadline_s: float, heard: Callable[[str], None]) -> None:
    if machine.stdout is None:
        raise RuntimeError("the machine has no console")
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(machine.stdout, selectors.EVENT_READ)
        while (left_s := deadline_s - time.monotonic()) > 0:
            if not selector.select(left_s):
                break
            if not (chunk := os.read(machine.stdout.fileno(), 65536)):
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                heard(line.decode(errors="replace").rstrip("\r"))
    heard("the machine's time was up")
