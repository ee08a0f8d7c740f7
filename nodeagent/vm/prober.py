"""Runs the probes of a machine's workloads, one task for each, and tells when a verdict changes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

from meshapi.attendance import Probe
from meshapi.vm import GroupName
from nodeagent.vm.health import HealthState, Verdict

log = logging.getLogger(__name__)


class Prober:
    """`ask` runs one probe: what is wrong, None for nothing."""

    def __init__(self, on_change: Callable[[], None], ask: Callable[[Probe], Awaitable[str | None]]) -> None:
        self._on_change = on_change
        self._ask = ask
        self._wanted: dict[GroupName, Probe] = {}
        self._states: dict[GroupName, HealthState] = {}
        self._tasks: dict[GroupName, tuple[Probe, asyncio.Task[NoReturn]]] = {}
        self._changed = asyncio.Event()

    @property
    def verdicts(self) -> dict[GroupName, Verdict]:
        """Of all that are probed."""
        return {group: state.verdict for group, state in self._states.items()}

    def want(self, probes: Mapping[GroupName, Probe]) -> None:
        """From now on these are run, and no others; one that changes begins anew."""
        if probes != self._wanted:
            self._wanted = dict(probes)
            self._changed.set()

    async def run(self) -> NoReturn:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                self._reconcile(group)
                await self._changed.wait()
        raise AssertionError("ends only by being cancelled")

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        for name, (running, task) in list(self._tasks.items()):
            if self._wanted.get(name) != running:
                task.cancel()
                del self._tasks[name], self._states[name]
        loop = asyncio.get_running_loop()
        for name, wanted in self._wanted.items():
            if name not in self._tasks:
                state = self._states[name] = HealthState(wanted, loop.time())
                self._tasks[name] = (wanted, group.create_task(self._follow(name, state), name=f"probe of {name}"))
        self._on_change()

    async def _follow(self, name: GroupName, state: HealthState) -> NoReturn:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(state.wait_s(clock()))
            state.begin(clock())
            if state.found(await self._ask(state.probe)):
                verdict = state.verdict
                log.info("%s is %s%s", name, verdict.health.name.lower(), f": {verdict.message}" if verdict.message else "")
                self._on_change()
