"""The weaker way to know probes, where the kernel can't tell whose a connection is: plaintext from the node's own addresses.

It lets in any process of the node, and whoever's connections the node masquerades, at the ports that workloads declare for probes.
So it is asked for, and holds only as long as there is no better way.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from meshapi.workload import IPAddress
from nodeagent.linux import netlink
from nodeagent.policy.addresses import parse_address, plain
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update

log = logging.getLogger(__name__)

_LOOK_S: Final = 10.0


def sources(detected: tuple[str, ...], configured: tuple[IPAddress, ...], *, is_better_known: bool) -> frozenset[IPAddress]:
    """From where plaintext counts as probes: nowhere while there is a better way; else from what is configured, or detected."""
    if is_better_known:
        return frozenset()
    return frozenset(map(plain, configured or map(parse_address, detected)))


class NodeSources:
    """Keeps the snapshot's `probe_sources` true."""

    def __init__(self, store: SnapshotStore, configured: tuple[IPAddress, ...], is_better_known: Callable[[], bool]) -> None:
        self._store = store
        self._configured = configured
        self._is_better_known = is_better_known
        self._detected: tuple[str, ...] = ()
        self.problem = ""

    async def run(self) -> None:
        """Follows the addresses of the node until cancelled."""
        while True:
            if not self._configured:
                await self._detect()
            self.apply()
            await asyncio.sleep(_LOOK_S)

    def apply(self) -> None:
        """Also to be called when a better way comes or goes."""
        wanted = sources(self._detected, self._configured, is_better_known=self._is_better_known())
        if wanted != self._store.current.probe_sources:
            self._store.apply(Update(probe_sources=wanted))

    async def _detect(self) -> None:
        try:
            self._detected = await asyncio.to_thread(netlink.addresses)
        except OSError as error:
            if self.problem != str(error):
                log.warning("the node's addresses, for probes: %s; those that were known stay", error)
            self.problem = str(error)
        else:
            self.problem = ""
