"""`meshctl waypoint run`: identity, socket and Envoy together, until a signal ends them in order."""

import asyncio
import fcntl
import logging
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from control.ca.private_files import make_private_directory
from control.waypoint.envoy_process import EnvoyProcess
from control.waypoint.gateway_secrets import GatewaySecrets
from control.waypoint.identity import Identity
from control.waypoint.local import serving
from control.waypoint.metrics_server import serving_metrics
from control.waypoint.name_stream import follow_names
from control.waypoint.report_pipe import ReportPipe
from control.waypoint.request_metrics import RequestMetrics
from control.waypoint.settings import Settings
from control.waypoint.workload_names import WorkloadNames

LOCK_FILE: Final = "lock"
log = logging.getLogger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop` is set; raises NoProofError, EnvoyEndedError, or OSError for directories that can't be used."""
    make_private_directory(settings.state_dir)
    make_private_directory(settings.run_dir)
    with alone(settings.run_dir):
        await _run(settings, stop)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Two in one directory would take each other's sockets away: raises OSError for the second, as long as the first one lives."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another one runs in {directory}: give each a --run-dir of its own") from None
        yield
    finally:
        os.close(descriptor)


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    identity = Identity(settings)
    names, pipe, certificates = WorkloadNames(), ReportPipe(settings.reports), GatewaySecrets(identity)
    metrics = RequestMetrics(names, lambda: pipe.lost)
    async with (
        serving(identity, settings.socket, certificates),
        pipe.reading(lambda lines: metrics.take(lines, time.monotonic())),
        serving_metrics(metrics, settings.admin, settings.metrics_listen),
        asyncio.TaskGroup() as tasks,
    ):
        beside = [
            tasks.create_task(identity.run(), name="identity"),
            tasks.create_task(certificates.run(), name="certificates"),
            tasks.create_task(follow_names(identity, names), name="names"),
        ]
        envoy = tasks.create_task(_envoy(settings, identity), name="envoy")
        await stop.wait()
        log.info("stopping")
        # First Envoy: what it still carries may need its configuration.
        envoy.cancel()
        await asyncio.wait([envoy])
        for task in beside:
            task.cancel()


async def _envoy(settings: Settings, identity: Identity) -> None:
    await identity.ready.wait()
    await EnvoyProcess(settings).run()


async def run_until_signal(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT."""
    # Keys are in memory, and must not get into a core. One byte, since the kernel pipes a core to a collector in spite of a limit of 0.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop)
