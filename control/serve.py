"""`meshctl serve`: a source feeds the model, the controller serves it, until a signal ends both."""

import asyncio
import logging
import resource
import signal
from dataclasses import replace
from functools import partial

from control.backing import OpenBacking
from control.controller import Controller, Settings
from control.metrics import Metrics
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import objects
from control.source import Source
from control.xds.proxies import Proxies
from systemdapi.notify import ServiceManager

log = logging.getLogger(__name__)


class SourceEndedError(Exception):
    """The source of configuration stopped by itself: what is served would grow old unseen."""


async def serve(
    settings: Settings, mesh_settings: MeshSettings, open_backing: OpenBacking, stop: asyncio.Event, ready: asyncio.Event
) -> None:
    """Serves until `stop` is set; sets `ready` when agents can connect."""
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(_run(settings, Mesh(mesh_settings), open_backing, ready), name="controller"),
            tasks.create_task(
                ServiceManager().run(lambda: None if ready.is_set() else "the configuration is not read yet"), name="service manager"
            ),
        ]
        await stop.wait()
        log.info("stopping")
        for task in running:
            task.cancel()


async def _run(settings: Settings, mesh: Mesh, open_backing: OpenBacking, ready: asyncio.Event) -> None:
    metrics, synced = Metrics(), asyncio.Event()
    proxies = Proxies(mesh)
    async with open_backing(metrics) as backing:
        settings = replace(settings, authority_dir=backing.authority_dir)
        controller = Controller(
            settings,
            mesh,
            partial(objects, mesh),
            metrics=metrics,
            accounts=backing.accounts,
            shared=backing.shared,
            proxies=proxies,
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(backing.source, mesh, synced), name="configuration source")
            tasks.create_task(backing.secrets(proxies), name="certificates of gateways")
            tasks.create_task(controller.run(synced, ready), name="serving")
            await synced.wait()
            await backing.work(mesh, controller, proxies)


async def follow(source: Source, mesh: Mesh, synced: asyncio.Event) -> None:
    """Brings every change of the source to the model; raises SourceEndedError if there will be no more."""
    async for changes in source.changes():
        mesh.apply(changes)
        if mesh.synced:
            synced.set()
    raise SourceEndedError("the source of configuration ended")


async def run_until_signal(settings: Settings, mesh_settings: MeshSettings, open_backing: OpenBacking) -> None:
    """Serves until SIGTERM or SIGINT; a second one ends the process as if it were not handled."""
    # Keys are in memory, and must not get into a core. One byte, since the kernel pipes a core to a collector in spite of a limit of 0.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def first(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first, number)
    await serve(settings, mesh_settings, open_backing, stop, asyncio.Event())
