"""The agent as a service of systemd, where systemd is what starts services."""

import shutil
from pathlib import Path
from typing import Final

from nodeagent.linux.errors import KernelError
from nodeagent.linux.programs import run

UNIT: Final = "nodemesh-agent.service"
_RUNNING: Final = Path("/run/systemd/system")
"""There if systemd is the init system: sd_booted(3)."""
_DEADLINE_S: Final = 90.0


class ServiceError(Exception):
    """systemd could not do it; the text holds its words."""


def there() -> bool:
    """Whether systemd runs here, and has the agent's unit."""
    return _RUNNING.is_dir() and _systemctl() is not None and _has_unit()


def start() -> None:
    """Now, and whenever the machine boots; raises ServiceError."""
    _run("enable", "--now", UNIT)


def stop() -> None:
    """Now, and from the next boot on; raises ServiceError."""
    _run("disable", "--now", UNIT)


def _has_unit() -> bool:
    try:
        _run("cat", UNIT)
    except ServiceError:
        return False
    return True


def _systemctl() -> str | None:
    return shutil.which("systemctl")


def _run(*words: str) -> None:
    try:
        run([_systemctl() or "/usr/bin/systemctl", *words], timeout_s=_DEADLINE_S)
    except KernelError as error:
        raise ServiceError(f"systemctl {' '.join(words)}: {error.strerror}") from error
