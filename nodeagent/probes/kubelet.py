"""Keeps the recorder of probes on the kubelet's cgroup, whichever that is now: a unit that is started again has another.

What was attached is written down first, so that an agent that is configured otherwise finds it, and takes it off.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from nodeagent.bpf.kubelet import KubeletRecorder, Recording
from nodeagent.linux import cgroups
from nodeagent.linux.errors import KernelError
from nodeagent.probes.place import KubeletCgroup, find

log = logging.getLogger(__name__)

_FILE: Final = "kubelet-cgroups"
_LOOK_S: Final = 1.0
"""How soon a kubelet that was started again is known: its first probe comes later."""
_CHECK_EVERY: Final = 10
"""Looks between two at which the kernel is asked about the program, and not only about the cgroup."""


class Store(Protocol):
    """Private files that are whole or not there (`nodeagent.state.files.StateDirectory`)."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, body: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def set_aside(self, name: str, why: str) -> None: ...


class KubeletState(Struct, frozen=True):
    """`cgroup`: the path of the one whose connections are known now, empty if there is none; then `problem` says why."""

    cgroup: str = ""
    connections: int = 0
    """That were recorded, when the kernel was last asked."""
    problem: str = ""


class _Former:
    """A cgroup that something may be attached to, open or not."""

    def __init__(self, number: int) -> None:
        self.id = number

    def fileno(self) -> int:
        return -1


class KubeletProbes:
    """See the module. `changed` is called, on the event loop, after `state` has changed."""

    def __init__(
        self, wanted: KubeletCgroup | None, recorder: KubeletRecorder, store: Store, changed: Callable[[], None], *, why_not: str = ""
    ) -> None:
        """`wanted` None: nobody's connections are to be known, because of `why_not`."""
        self._wanted = wanted
        self._recorder = recorder
        self._store = store
        self._changed = changed
        self._why_not = why_not
        self._attached: frozenset[int] | None = None
        """What is written down; None before it was read."""
        self._looks = 0
        self._current: tuple[int, Path] | None = None
        self._busy = asyncio.Lock()
        self.state = KubeletState(problem=why_not or "not tried yet")

    async def run(self) -> None:
        """Until cancelled; what is attached stays."""
        while True:
            async with self._busy:
                found = await asyncio.to_thread(self._look)
            if (found.cgroup, found.problem) != (self.state.cgroup, self.state.problem):
                log.info("probes: %s", found.problem or f"the kubelet's connections are those of the cgroup {found.cgroup}")
            if found != self.state:
                self.state = found
                self._changed()
            await asyncio.sleep(_LOOK_S)

    async def remove(self) -> None:
        """Takes everything off."""
        async with self._busy:
            self._wanted, self._why_not = None, "the node is leaving the mesh"
            self.state = await asyncio.to_thread(self._look, thorough=True)

    def _look(self, *, thorough: bool = False) -> KubeletState:
        thorough = thorough or self._looks % _CHECK_EVERY == 0
        self._looks += 1
        if not thorough and (self._wanted is None or self._unchanged()):
            return self.state
        try:
            return self._tidied() if self._wanted is None else self._attach(self._wanted)
        except OSError as error:
            self._current = None
            return KubeletState(problem=str(error))

    def _unchanged(self) -> bool:
        """Whether the cgroup that was attached to is where it was."""
        return self._current is not None and cgroups.id_at(self._current[1]) == self._current[0]

    def _tidied(self) -> KubeletState:
        """Nobody's connections are to be known."""
        self._forget(self._written())
        self._recorder.sweep()
        return KubeletState(problem=self._why_not)

    def _attach(self, wanted: KubeletCgroup) -> KubeletState:
        former = self._written()
        try:
            cgroup = find(wanted)
        except KernelError:
            # A unit that was stopped takes its cgroup along; one that is named no more may still be there.
            self._forget(former)
            raise
        with cgroup:
            self._note(former | {cgroup.id})
            self._recorder.attach(cgroup)
            self._forget(former - {cgroup.id})
            self._recorder.sweep()
            self._current = (cgroup.id, cgroups.root() / cgroup.path.lstrip("/"))
            recorded = self._recorder.inspect(cgroup)
            return KubeletState(cgroup.path, recorded.connections[Recording.BEGAN] if recorded else 0)

    def _forget(self, former: frozenset[int]) -> None:
        for number in former:
            self._recorder.detach(_Former(number))
        self._note(self._written() - former)

    def _written(self) -> frozenset[int]:
        if self._attached is None:
            body = self._store.read(_FILE)
            try:
                self._attached = frozenset() if body is None else msgspec.json.decode(body, type=frozenset[int])
            except msgspec.MsgspecError as error:
                self._store.set_aside(_FILE, str(error))
                self._attached = frozenset()
        return self._attached

    def _note(self, numbers: frozenset[int]) -> None:
        if numbers == self._attached:
            return
        if numbers:
            self._store.write(_FILE, msgspec.json.encode(sorted(numbers)))
        else:
            self._store.delete(_FILE)
        self._attached = numbers
