"""Starts Envoy, waits for it, and ends it in order: first nothing new, then what is open may end, then Envoy."""

import asyncio
import http.client
import logging
import resource
import socket
import time
from dataclasses import replace
from pathlib import Path

from control.waypoint.bootstrap import bootstrap
from control.waypoint.ends import note_end, words
from control.waypoint.settings import Settings

KILL_S = 5.0
REPLACED_S = 1
"""How long connections of a filter chain last that another one has replaced: what new policies forbid of them ends with them."""
ADMIN_S = 5.0
log = logging.getLogger(__name__)


class EnvoyEndedError(Exception):
    """Envoy ended by itself; the process beside it has nothing to do any more, and whoever supervises it starts both anew."""


class EnvoyProcess:
    """One Envoy, which the kernel ends if this process is ended by force: nobody else has its secrets and its configuration."""

    def __init__(self, settings: Settings) -> None:
        # It runs in the directory in which it reports.
        self._settings = replace(settings, run_dir=settings.run_dir.absolute(), envoy=settings.envoy.absolute())
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Until Envoy ends, which raises EnvoyEndedError, or the caller is cancelled, which drains it."""
        settings = self._settings
        file = settings.run_dir / "bootstrap.pb"
        file.write_bytes(bootstrap(settings, _files()).SerializeToString())
        settings.admin.unlink(missing_ok=True)
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(settings.envoy)]
        command += ["-c", str(file), "--log-level", settings.log_level, "--disable-hot-restart"]
        # Access logs are read as they come: Envoy would keep lines for ten seconds.
        command += ["--drain-time-s", str(REPLACED_S), "--file-flush-interval-msec", "1000"]
        if settings.concurrency is not None:
            command += ["--concurrency", str(settings.concurrency)]
        began_s = time.time()
        process = self._process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, cwd=settings.run_dir)
        log.info("envoy runs as process %d: %s", process.pid, " ".join(command))
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                await asyncio.shield(self._end(process))
        lately = note_end(settings.state_dir, time.time())
        often = f"; it has ended by itself {lately} times within the last hour" if lately > 1 else ""
        raise EnvoyEndedError(f"envoy ended {words(code)} after {time.time() - began_s:.0f} s{often}")

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        try:
            await asyncio.to_thread(_ask, self._settings.admin, "/drain_listeners?graceful")
            log.info("envoy drains for %d s", self._settings.drain_s)
            async with asyncio.timeout(self._settings.drain_s):
                await process.wait()
        except TimeoutError:
            pass
        except OSError as error:
            log.warning("envoy could not be told to drain: %s", error)
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(KILL_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _files() -> int:
    """As many open files as this process and what it starts may have, from now on."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def _ask(admin: Path, path: str) -> None:
    """A POST to Envoy's admin interface; raises OSError."""
    connection = http.client.HTTPConnection("envoy", timeout=ADMIN_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(ADMIN_S)
    try:
        connection.sock.connect(str(admin))
        connection.request("POST", path)
        connection.getresponse().read()
    except http.client.HTTPException as error:
        raise OSError(f"{path}: {error}") from error
    finally:
        connection.close()
