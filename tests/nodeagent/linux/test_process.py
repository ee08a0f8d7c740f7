"""The file that a process runs: of that process, or of none."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodeagent.linux.process import executable, started_ticks


def started_ns(pid: int) -> int:
    """As the kernel's programs read it, to the clock tick."""
    ticks = started_ticks(pid)
    assert ticks is not None
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_file_of_this_process() -> None:
    own = started_ns(os.getpid())
    assert executable(os.getpid(), own) == str(Path(sys.executable).resolve())
    assert executable(os.getpid(), own + 9_999_999) == str(Path(sys.executable).resolve()), "the kernel's clock is finer than /proc's"


def test_another_process_that_got_the_pid_is_not_taken_for_it() -> None:
    own = started_ns(os.getpid())
    for other in (own - 10_000_000, own + 10_000_000, 0):
        assert executable(os.getpid(), other) is None


def test_a_process_that_has_ended_or_never_was() -> None:
    with running("sleep", "60") as process:
        began = started_ns(process.pid)
        assert executable(process.pid, began) is not None
        process.kill()
        process.wait()
        assert executable(process.pid, began) is None
    assert executable(2**22 + 1, began) is None


def test_a_name_can_not_lead_to_another_number(tmp_path: Path) -> None:
    odd = tmp_path / ") 1 (\udcff"
    shutil.copy("/bin/sleep", odd)
    with running(odd, "60") as process:
        assert executable(process.pid, started_ns(process.pid)) == f"{tmp_path}/) 1 (\ufffd"


def test_a_kernel_thread_runs_no_file() -> None:
    assert executable(2, started_ns(2)) is None
