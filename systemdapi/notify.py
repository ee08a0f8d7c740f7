"""The service manager is told that the service is ready, what it does, and, by its event loop, that it lives: sd_notify(3)."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

log = logging.getLogger(__name__)

POLL_S: Final = 0.1
"""Between two looks whether it is ready yet."""
LONGEST_PERIOD_S: Final = 1.0
"""Between two looks at what changed since."""
PATIENCE_S: Final = 30.0
"""A service that is not ready yet is given up if its loop says nothing for this long."""
_US: Final = 1_000_000


class ServiceManager:
    """What started this process, if it asked to be told. Used from one event loop."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._period_s = min(_watchdog_s(environment) / 3, LONGEST_PERIOD_S)
        self._failed = False

    def tell(self, **variables: str | int) -> None:
        """Sends variables (READY=1, STATUS=…). What can't be sent is logged once: the manager will act on what it does not hear."""
        if not self._address:
            return
        lines = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in variables.items())
        # An address that begins with @ is of the abstract namespace.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
                made.sendto(lines.encode(), address)
        except OSError as error:
            if not self._failed:
                log.warning("the service manager can't be told %s: %s", ", ".join(variables), error)
            self._failed = True

    async def run(self, not_ready: Callable[[], str | None]) -> NoReturn:
        """Tells until it is cancelled; says then that it stops. `not_ready`: why it does not serve, None if it does.

        The loop that serves is the one that says it lives: one that hangs falls silent, and is started again.
        """
        if not self._address:
            await asyncio.Event().wait()
        told: str | None = None
        ready = False
        try:
            while True:
                words = not_ready()
                ready = ready or words is None
                said = {"STATUS": words or "serving"} if told != (words or "serving") else {}
                told = words or "serving"
                if ready:
                    self.tell(READY=1, WATCHDOG=1, **said)
                else:
                    self.tell(EXTEND_TIMEOUT_USEC=int(PATIENCE_S * _US), **said)
                await asyncio.sleep(self._period_s if ready else POLL_S)
        finally:
            self.tell(STOPPING=1)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Within which time the manager wants to hear from this process; without bound if it does not."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    return int(text) / _US
