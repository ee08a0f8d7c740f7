"""How this node knows probes: put together from the configuration, run beside the rest of the agent, and told in words."""

from collections.abc import Coroutine
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from nodeagent.bpf.kubelet import KubeletRecorder
from nodeagent.config import Config, KubernetesPods
from nodeagent.probes.kubelet import KubeletProbes, Store
from nodeagent.probes.node import NodeSources
from nodeagent.snapshot.store import SnapshotStore

_OFF: Final = "--kubelet-cgroup none"


class Way(StrEnum):
    """From the best to none."""

    KUBELET = "kubelet"
    """The kernel knows the kubelet's own connections."""
    NODE = "node"
    """Plaintext from the node's addresses, at declared ports."""
    NONE = "none"


class Known(Struct, frozen=True):
    """`words` say what passes and, where it is not the best way, why not."""

    way: Way
    words: str
    problem: str = ""
    """Why the kubelet is not known where there must be one; empty if it is, or none is expected."""


class Probes:
    """See the module."""

    def __init__(
        self, config: Config, recorder: KubeletRecorder, state: Store, store: SnapshotStore, *, capture: str, knows_connections: bool
    ) -> None:
        """`knows_connections`: the capture has a program that looks at the recorder's table."""
        why_not = _OFF if config.kubelet is None else "" if knows_connections else f"capture by {capture} can't tell whose a connection is"
        self._store = store
        self._expected = config.kubelet is not None and (config.kubelet.path is not None or isinstance(config.runtime, KubernetesPods))
        self._kubelet = KubeletProbes(None if why_not else config.kubelet, recorder, state, self._on_kubelet, why_not=why_not)
        self._node = (
            NodeSources(store, config.node_addresses, lambda: bool(self._kubelet.state.cgroup)) if config.probes_from_node else None
        )

    @property
    def connections(self) -> int:
        """Of the kubelet that were recorded."""
        return self._kubelet.state.connections

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What is to run, by name, until cancelled."""
        tasks: dict[str, Coroutine[Any, Any, None]] = {"probes of the kubelet": self._kubelet.run()}
        if self._node is not None:
            tasks["probes from the node"] = self._node.run()
        return tasks

    async def remove(self) -> None:
        """Takes off what the kernel has of it; the node leaves the mesh."""
        await self._kubelet.remove()

    def known(self) -> Known:
        """The way that holds now."""
        kubelet = self._kubelet.state
        if kubelet.cgroup:
            return Known(
                Way.KUBELET, f"the kubelet's own connections pass, whatever the policies; they are those of the cgroup {kubelet.cgroup}"
            )
        if self._node is None:
            return Known(Way.NONE, f"not told from other plaintext: {kubelet.problem}", kubelet.problem if self._expected else "")
        count = len(self._store.current.probe_sources)
        passes = f"plaintext from {count} addresses of this node passes to the ports that workloads declare for probes"
        weakness = "any process of the node does, and whatever it masquerades; a probe of a port succeeds with the proxy alone"
        return Known(Way.NODE, f"{passes}: {weakness} ({kubelet.problem})")

    def _on_kubelet(self) -> None:
        if self._node is not None:
            self._node.apply()
