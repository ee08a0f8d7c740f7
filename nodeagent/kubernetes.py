"""What an agent has in a Kubernetes cluster beside its other parts: the pods' runtime, the watch behind it, the CNI plugin's two ends."""

import asyncio
from collections.abc import Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nodeagent.cni.attachments import Attachments
from nodeagent.cni.conflist import PluginEntry
from nodeagent.cni.installation import Installation
from nodeagent.cni.network import PodNetwork
from nodeagent.cni.server import SOCKET, CNIServer
from nodeagent.config import Config, KubernetesPods
from nodeagent.redirection import markings
from nodeagent.runtime.kubernetes import KubernetesRuntime
from nodeagent.runtime.pods import PodBook
from nodeagent.state.files import StateDirectory
from nodeagent.turn import Turn

if TYPE_CHECKING:
    from nodeagent.pod_watch import PodWatch
    from nodeagent.source import Node


class KubernetesSource:
    """Implements `source.Source`."""

    def __init__(self, config: Config, choice: KubernetesPods, state: StateDirectory, turn: Turn) -> None:
        """Blocks: reads the attachments that were kept."""
        self._config = config
        self._choice = choice
        self._turn = turn
        self._book = PodBook(exempt_namespaces=choice.exempt_namespaces)
        self._attachments = Attachments(state)
        self._watch: PodWatch | None = None
        self.runtime = KubernetesRuntime(self._book, self._attachments, self, turn, cluster=config.cluster)
        self._installation: Installation | None = None
        if choice.cni is not None:
            entry = PluginEntry(str((config.run_dir / SOCKET).absolute()), choice.exempt_namespaces)
            self._installation = Installation(choice.cni, entry)

    @property
    def problem(self) -> str:
        """See `runtime.kubernetes.Server`."""
        refused = self._watch.problem if self._watch is not None else ""
        if refused:
            return f"the API server can't be read: {refused}"
        return "" if self._book.synced else "the API server has not told of this node's pods yet"

    async def refresh(self, namespace: str) -> None:
        """See `runtime.kubernetes.Server`."""
        if self._watch is not None:
            await self._watch.refresh(namespace)

    def tasks(self, node: "Node") -> dict[str, Coroutine[Any, Any, Any]]:
        """See `source.Source`."""
        network = PodNetwork(self.runtime, self._attachments, node.statuses, node.not_ready, self._turn)
        made: dict[str, Coroutine[Any, Any, Any]] = {
            "pods": self._follow(node),
            "CNI": CNIServer(network, self._config.run_dir).run(),
        }
        if self._installation is not None:
            made["CNI plugin"] = self._installation.run()
        return made

    def installation_problem(self) -> str:
        """See `source.Source`."""
        return self._installation.problem if self._installation is not None else ""

    async def uninstalled(self) -> bool:
        """See `source.Source`."""
        return self._watch is not None and await self._watch.uninstalled()

    async def settle(self) -> None:
        """See `source.Source`."""
        if self._watch is not None:
            await self._watch.mark()

    async def remove(self) -> None:
        """The plugin first: pods that start from now on do so outside of the mesh, and wait for nobody."""
        if self._installation is not None:
            await asyncio.to_thread(self._installation.remove)

    async def _follow(self, node: "Node") -> None:
        """Imports the HTTP client beside the running loop: proxy and plugin are answered meanwhile."""
        pod_watch = await asyncio.to_thread(import_module, "nodeagent.pod_watch")

        self._watch = pod_watch.PodWatch(
            node=self._config.node,
            kubeconfig=self._choice.kubeconfig,
            daemonset=self._choice.daemonset,
            book=self._book,
            changed=self.runtime.look,
            markings=lambda: markings(self._book.pods(), node.statuses(), wanted={pod.uid for pod in self._book.wanted()}),
            turn=self._turn,
        )
        await self._watch.run()
