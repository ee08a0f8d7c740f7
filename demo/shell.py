"""Running programs: the one `run()` for those that end, and processes that are started in a namespace and always ended."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from demo.cgroups import entering


class CommandError(RuntimeError):
    """A program failed: which, how, and what it said."""


def in_namespace(namespace: str | None, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` in a named network namespace (None = the caller's)."""
    return list(command) if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}", "--", *command]


def with_resolver(configuration: Path, command: Sequence[str]) -> list[str]:
    """The command line that runs `command` with another /etc/resolv.conf, which no other process sees."""
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(configuration), *command]


def run(
    command: Sequence[str],
    *,
    namespace: str | None = None,
    stdin: str | None = None,
    timeout_s: float = 30.0,
    answers: Sequence[int] = (0,),
) -> str:
    """Runs a program to its end and returns its output; raises CommandError if its exit code is none of `answers`."""
    line = in_namespace(namespace, command)
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode not in answers:
        raise CommandError(f"{' '.join(line)}: exit code {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


@dataclass
class Process:
    """A program that runs until it is stopped; its output goes to `log`."""

    name: str
    command: Sequence[str]
    log: Path
    namespace: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    cgroup: Path | None = None
    _popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Starts it; its output is appended to the log."""
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                entering(self.cgroup, in_namespace(self.namespace, self.command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
            )
        return self

    @property
    def pid(self) -> int:
        """Of the running process (sh and nsenter replace themselves by the program)."""
        if self._popen is None:
            raise CommandError(f"{self.name} was not started")
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def stop(self, *, signal_number: int = signal.SIGTERM, timeout_s: float = 10.0) -> int | None:
        """Ends it (SIGKILL after `timeout_s`) and returns its exit code, None if it never ran."""
        if self._popen is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal_number)
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
