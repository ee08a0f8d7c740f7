"""Where this node's workloads are known from, with all that goes with it: one of several, by the configuration."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, assert_never

from nodeagent.config import USUAL_ENGINE_SOCKETS, Config, EngineContainers, JoinedMachine, KubernetesPods, StaticList
from nodeagent.enrolment.status import WorkloadStatus
from nodeagent.runtime.base import Runtime
from nodeagent.runtime.static import StaticRuntime
from nodeagent.state.files import StateDirectory
from nodeagent.turn import Turn
from nodeagent.xds.channel import Dial


class Node(Protocol):
    """What a source asks the rest of the agent."""

    def statuses(self) -> tuple[WorkloadStatus, ...]:
        """How far the enrolment of each workload is."""

    def not_ready(self) -> str | None:
        """Why the node serves nobody, None if it does."""


class Source(Protocol):
    """A runtime, and what it needs to run."""

    @property
    def runtime(self) -> Runtime: ...

    def tasks(self, node: Node) -> dict[str, Coroutine[Any, Any, Any]]:
        """What is to run beside the runtime, by name, until it is cancelled."""

    def installation_problem(self) -> str:
        """Why what it installs on the node is not as it should be, in words; empty if it is."""

    async def uninstalled(self) -> bool:
        """Whether an agent that ends is not to come back: the mesh is taken off. Asked once, when it ends."""

    async def settle(self) -> None:
        """Tells whoever else should know what became of the workloads; without an answer, nothing."""

    async def remove(self) -> None:
        """Takes off the node what it installed there; the node leaves the mesh."""


class StaticSource:
    """A runtime that installs nothing; `beside` is what is to run with it."""

    def __init__(self, runtime: Runtime, beside: dict[str, Callable[[], Coroutine[Any, Any, Any]]] | None = None) -> None:
        self.runtime = runtime
        self._beside = beside or {}

    def tasks(self, _node: Node) -> dict[str, Coroutine[Any, Any, Any]]:
        return {name: run() for name, run in self._beside.items()}

    def installation_problem(self) -> str:
        return ""

    async def uninstalled(self) -> bool:
        return False

    async def settle(self) -> None:
        return

    async def remove(self) -> None:
        return


def make_source(config: Config, state: StateDirectory, turn: Turn, dial: Callable[[], Dial]) -> Source:
    """`turn` is told when what the runtime knows changes; `dial` says how to reach the controller. Blocks: reads what was kept."""
    match config.runtime:
        case StaticList(path):
            return StaticSource(StaticRuntime(path, cluster=config.cluster))
        case KubernetesPods():
            from nodeagent.kubernetes import KubernetesSource

            return KubernetesSource(config, config.runtime, state, turn)
        case EngineContainers(sockets, exempt):
            from nodeagent.runtime.containers import ContainersRuntime

            runtime = ContainersRuntime(sockets or USUAL_ENGINE_SOCKETS, usual=not sockets, exempt=exempt, cluster=config.cluster)
            return StaticSource(runtime)
        case JoinedMachine(configuration):
            from nodeagent.vm.membership import load
            from nodeagent.vm.runtime import MachineRuntime

            machine = MachineRuntime(load(config.state_dir), configuration, state, dial)
            return StaticSource(machine, {"attendance": machine.attendance.run, "health": machine.prober.run})
        case _:
            assert_never(config.runtime)
