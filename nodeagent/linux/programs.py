"""Running a program to its end, in the namespaces of the calling thread: without a fork, without pipes."""

import errno
import logging
import os
import select
import shlex
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from nodeagent.linux.errors import KernelError

log = logging.getLogger(__name__)

_MAX_OUTPUT_BYTES: Final = 8 << 20


def run(command: Sequence[str], *, stdin: str = "", timeout_s: float = 10.0) -> str:
    """Runs a program and returns what it said. Blocks.

    Raises KernelError with its own words if it fails, or with ETIMEDOUT; it is killed then.
    """
    log.debug("run: %s", shlex.join(command))
    with ExitStack() as opened:
        # Files in memory instead of pipes: nobody needs to read while it writes.
        given, said, complained = (opened.enter_context(open(os.memfd_create(name), "r+b")) for name in ("stdin", "stdout", "stderr"))  # noqa: PTH123
        given.write(stdin.encode())
        given.seek(0)
        code = _reap(_spawn(command, (given.fileno(), said.fileno(), complained.fileno())), timeout_s)
        output, words = (os.pread(file.fileno(), _MAX_OUTPUT_BYTES, 0).decode(errors="replace") for file in (said, complained))
    if code is None:
        raise KernelError(errno.ETIMEDOUT, command[0], detail=f"killed after {timeout_s:g} s")
    if code != 0:
        raise KernelError(errno.EINVAL, command[0], detail=words.strip() or f"exit code {code}")
    return output


def _spawn(command: Sequence[str], files: Sequence[int]) -> int:
    """posix_spawn, because a fork beside gRPC crashes. Nothing of our environment: it may hold secrets."""
    actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
    try:
        return os.posix_spawn(command[0], list(command), {"PATH": os.defpath, "LC_ALL": "C"}, file_actions=actions, setsigmask=())
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"start {command[0]}", "is the program there and executable?") from error


def _reap(pid: int, timeout_s: float) -> int | None:
    """Its exit code; None if it took too long, and was killed."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = _ends(descriptor, timeout_s)
        if not ended:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        result = os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
    finally:
        os.close(descriptor)
    return result.si_status if ended and result is not None else None


def _ends(descriptor: int, timeout_s: float) -> bool:
    # Not select(2): it takes no descriptor beyond 1023.
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
