"""A proxy as an instance of a unit of systemd: confined and accounted for apart from the agent, with its output in the journal.

Each proxy is an instance of its own, so that a successor can be started beside one that still carries connections. What it is told in its
command line is in a file that the unit reads as its environment.
"""

import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from nodeagent.linux import programs
from nodeagent.linux.errors import KernelError

START_DEADLINE_S: Final = 30.0
"""Until systemd says that it is ready, which it is as soon as it has its lock."""
_TEMPLATE: Final = re.compile(r"[A-Za-z0-9:_.-]+@\.service")
_SPECIAL: Final = re.compile(r'["\\`$]')
"""Within double quotes, in such a file."""


def is_template(unit: str) -> bool:
    """Whether it is the name of a service that instances are made of, such as `nodemesh-proxy@.service`."""
    return _TEMPLATE.fullmatch(unit) is not None


def start(template: str, variables: Mapping[str, str], directory: Path) -> None:
    """Starts a new instance, and returns when it is ready. Blocks; raises KernelError.

    `directory`: for the file, `proxy-INSTANCE.env`, which the unit removes when it ends.
    """
    instance = secrets.token_hex(4)
    unit = template.replace("@", f"@{instance}")
    file = directory / f"proxy-{instance}.env"
    # os.defpath: not where the agent's environment leads.
    command = shutil.which("systemctl", path=os.defpath) or "systemctl"
    file.touch(0o600)
    file.write_text("".join(f"{name}={quoted(value)}\n" for name, value in variables.items()))
    try:
        programs.run([command, "start", unit], timeout_s=START_DEADLINE_S)
    except KernelError as error:
        file.unlink(missing_ok=True)
        raise KernelError(error.errno or 0, f"start {unit}", f"journalctl -u {unit}", detail=str(error)) from error


def quoted(value: str) -> str:
    """A value as systemd.exec(5) has it in an environment file; raises ValueError if it can't be there."""
    if "\0" in value or "\n" in value:
        raise ValueError(f"{value!r} can't be in an environment file")
    return '"' + _SPECIAL.sub(r"\\\g<0>", value) + '"'
