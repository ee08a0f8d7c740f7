"""The story that `make demo-l7` tells: one chapter after the other, and the shop is closed whatever happens."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from demo.bookshop.chapters import accounts, failures, ingress, limits, security, tracing, traffic
from demo.bookshop.chapters.accounts import METRICS
from demo.bookshop.rules import show
from demo.bookshop.services import PORT
from demo.bookshop.shop import RULES, STANDING, VIPS, WAYPOINT, Bookshop
from demo.cluster import BIN, Cluster
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

    def tell(self, *, keep: bool = False) -> None:
        """The chapters, in order; with `keep` the shop stays open at the end, until Ctrl-C."""
        try:
            with self._report.step("Open a bookshop: seven services, and a waypoint (a real Envoy) for their namespace"):
                self._shop.open(self._report.say)
                for name in STANDING:
                    show(self._report, name, self._shop.text(name))
                self._report.claim("every call goes through the waypoint", held=True, seen=", ".join(self._shop.apps))
            for chapter in self._chapters:
                chapter(self._shop, self._report)
            if keep:
                self._report.look_around(self._ways())
        finally:
            self._shop.close()

    def _ways(self) -> list[str]:
        cluster, topology = self._shop.cluster, self._shop.cluster.topology
        visitor, socket = topology.hosts["n1"].pods["visitor"], f"--admin-socket {self._shop.cluster.admin_socket}"
        return [
            f"export PATH={BIN}:$PATH",
            f"ip netns exec {visitor.namespace} curl -s http://{VIPS['productpage']}:{PORT}/productpage",
            f"cp {RULES}/canary.yaml {cluster.config}/    # or any other; to take one back, remove it there",
            f"meshctl describe reviews {socket}",
            f"meshctl proxy-config default/{WAYPOINT} routes {socket}",
            f"ip netns exec {self._shop.waypoint.pod.namespace} curl -s {METRICS}",
            f"tail -f {self._shop.waypoint.directory}.log",
        ]
