"""The story that `make demo-l7` tells: one chapter after the other, and the shop is closed whatever happens."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from demo.bookshop.chapters import accounts, failures, ingress, limits, security, tracing, traffic
from demo.bookshop.rules import show
from demo.bookshop.shop import STANDING, Bookshop
from demo.cluster import Cluster
from demo.report import Report

CHAPTERS: Final[Mapping[str, Callable[[Bookshop, Report], None]]] = {
    "balanced": traffic.balanced,
    "canary": traffic.canary,
    "header": traffic.by_header,
    "mirror": traffic.mirrored,
    "faults": failures.faults,
    "timeout": failures.timeout,
    "retries": failures.retries,
    "circuit-breaker": failures.circuit_breaking,
    "ejection": failures.ejection,
    "callers": security.callers,
    "tokens": security.tokens,
    "paths": security.paths,
    "limits": limits.limits,
    "tracing": tracing.tracing,
    "ingress": ingress.ingress,
    "metrics": accounts.metrics,
    "log": accounts.access_log,
    "describe": accounts.described,
}
"""By the names that the command line takes, in their order."""


class BookshopStory:
    """Of a mesh that has nothing yet."""

    def __init__(self, cluster: Cluster, report: Report, chapters: Iterable[str]) -> None:
        self._shop = Bookshop(cluster)
        self._report = report
        self._chapters = [CHAPTERS[name] for name in chapters]

    def tell(self) -> None:
        """The chapters, in order."""
        try:
            with self._report.step("Open a bookshop: seven services, and a waypoint (a real Envoy) for their namespace"):
                self._shop.open(self._report.say)
                for name in STANDING:
                    show(self._report, name, self._shop.text(name))
                self._report.claim("every call goes through the waypoint", held=True, seen=", ".join(self._shop.apps))
            for chapter in self._chapters:
                chapter(self._shop, self._report)
        finally:
            self._shop.close()
