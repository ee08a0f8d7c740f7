"""`python -m tests.kernels [FLAVOUR ...]`: the smoke test on other kernels than this machine's, in QEMU.

Prints a line per step; exit code 1 if any failed.
"""

import argparse
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.kernels import archive, root
from tests.kernels.debian import Kernel, fetch
from tests.kernels.guest import smoke
from tests.kernels.machine import boot, command
from tests.kernels.report import judge, read_step

FLAVOURS = ("cloud-amd64",)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodemesh/kernels"
INIT = root.REPOSITORY / "tests/kernels/guest/init.py"


class Show:
    """Prints steps as they come, and keeps all lines; those that are no steps are shown where something failed."""

    def __init__(self, *, verbose: bool) -> None:
        self.lines: list[str] = []
        self._verbose = verbose

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if step := read_step(line):
            print(f"  {'FAILED' if step.error else 'ok':6} {step.took_s:6.1f} s  {step.stage}: {step.name}", flush=True)
        elif self._verbose:
            print(f"         {line}", flush=True)


def try_on(kernel: Kernel, suites: Sequence[str], *, timeout_s: float, verbose: bool) -> list[str]:
    """Runs the test on a kernel; returns what was wrong, nothing if it passed."""
    nonce = secrets.token_hex(8)
    settings = {
        "nodemesh.nonce": nonce,
        "nodemesh.repository": str(root.REPOSITORY),
        "nodemesh.python": sys.executable,
        "nodemesh.tests": ",".join(suites),
    }
    show = Show(verbose=verbose)
    with tempfile.TemporaryDirectory(prefix="nodemesh-kernel-") as directory:
        image = Path(directory) / "root.cpio"
        with image.open("wb") as output:
            output.writelines(archive.blocks(root.build(kernel, INIT)))
        print(f"kernel {kernel.release}: a root of {image.stat().st_size / 1e6:.0f} MB", flush=True)
        boot(command(kernel, image, settings), timeout_s=timeout_s, heard=show)
    problems = judge(show.lines, nonce=nonce, stages=smoke.names(suites))
    if problems and not verbose:
        print("\n".join(show.lines))
    return problems


def main() -> None:
    """Runs on every flavour, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flavours", nargs="*", default=FLAVOURS, metavar="FLAVOUR", help="of Debian's linux-image-FLAVOUR packages")
    parser.add_argument("--tests", nargs="*", default=(), metavar="PATH", help="run these of the repository's tests there, too")
    parser.add_argument("--timeout", type=float, default=1500.0, metavar="SECONDS", help="for each kernel")
    parser.add_argument("--verbose", action="store_true", help="show the whole console")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit("the guest runs this machine's programs, and the virtual machine is an x86-64 one: not possible here")
    failed = False
    for flavour in options.flavours:
        begin = time.monotonic()
        kernel = fetch(flavour, CACHE)
        problems = try_on(kernel, options.tests, timeout_s=options.timeout, verbose=options.verbose)
        took = f"in {time.monotonic() - begin:.0f} s"
        print(f"kernel {kernel.release}: {'FAILED' if problems else 'passed'} {took}", *problems, sep="\n  ", flush=True)
        failed |= bool(problems)
    sys.exit(failed)


if __name__ == "__main__":
    main()
