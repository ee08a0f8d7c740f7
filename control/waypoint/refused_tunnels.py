"""Tunnels that Envoy does not let in: counted all, and told in the log as far as it has room."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Final

from control.waypoint.traffic import Refusal

LINES_PER_S: Final = 20
MAX_TEXT: Final = 300
NAME: Final = "nodemesh_waypoint_refused_tunnels_total"
log = logging.getLogger(__name__)


class RefusedTunnels:
    """By the status of the answer, which is Envoy's own: 401 for who, 404 for where to, 503 for what could not be reached."""

    def __init__(self) -> None:
        self._by_status: Counter[int] = Counter()
        self._second = 0
        self._lines = 0

    def take(self, refusal: Refusal, now_s: float) -> None:
        self._by_status[refusal.status] += 1
        if int(now_s) != self._second:
            self._second, self._lines = int(now_s), 0
        self._lines += 1
        if self._lines <= LINES_PER_S:
            # What peers say of themselves is shown as data: no line of theirs is one of ours.
            peers, authority, why = ((text or "")[:MAX_TEXT] for text in (refusal.peers, refusal.authority, refusal.why))
            log.warning("a tunnel from %s by %r to %r is refused: %d %r", refusal.client, peers, authority, refusal.status, why)

    def lines(self) -> Iterator[str]:
        """Prometheus' text, without the head."""
        for status, count in sorted(self._by_status.items()):
            yield f'{NAME}{{response_code="{status}"}} {count}\n'
