"""Who talks to whom, and how much: from two readings of the node's counters, in whatever form they are shown."""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

_NAMES: Final = {
    "istio_tcp_connections_opened_total": "opened",
    "istio_tcp_connections_closed_total": "closed",
    "istio_tcp_connections_failed_total": "failed",
    "istio_tcp_sent_bytes_total": "sent",
    "istio_tcp_received_bytes_total": "received",
}
UNKNOWN: Final = "unknown"


class Talk(Struct, frozen=True, order=True):
    """A workload of this node and who it talks to: outbound if it calls, inbound if it is called."""

    workload: str
    direction: str
    peer: str
    security: str


class Totals(Struct):
    """Since the agent first ran; bytes as the one who calls sees them."""

    opened: float = 0.0
    closed: float = 0.0
    failed: float = 0.0
    sent: float = 0.0
    received: float = 0.0


class Rates(Struct, frozen=True):
    """`open` connections now; the others a second."""

    talk: Talk
    open: int
    opened: float
    failed: float
    sent_bytes: float
    received_bytes: float


def read(page: str) -> dict[Talk, Totals]:
    """The counters of connections on a page of metrics."""
    found: dict[Talk, Totals] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            field = _NAMES.get(sample.name)
            if field is not None:
                totals = found.setdefault(_talk(sample.labels), Totals())
                setattr(totals, field, getattr(totals, field) + sample.value)
    return found


def rates(before: dict[Talk, Totals], now: dict[Talk, Totals], elapsed_s: float) -> list[Rates]:
    """What happened between two readings, the most bytes first; without an earlier one only what is open. What rests is left out."""
    found = []
    for talk, totals in now.items():
        former = before.get(talk, Totals() if before else totals)
        one = Rates(
            talk,
            max(0, round(totals.opened - totals.closed)),
            *(_rate(getattr(former, field), getattr(totals, field), elapsed_s) for field in ("opened", "failed", "sent", "received")),
        )
        if one.open or one.opened or one.failed:
            found.append(one)
    return sorted(found, key=lambda one: (-(one.sent_bytes + one.received_bytes), -one.open, one.talk))


def total(found: Iterable[Rates]) -> Rates:
    """All together."""
    listed = list(found)
    sums = (sum(getattr(one, field) for one in listed) for field in ("opened", "failed", "sent_bytes", "received_bytes"))
    return Rates(Talk("", "", "", ""), sum(one.open for one in listed), *sums)


def _rate(before: float, now: float, elapsed_s: float) -> float:
    # Counters begin anew with an agent that lost them.
    return (now - before if now >= before else now) / elapsed_s if elapsed_s > 0 else 0.0


def _talk(labels: dict[str, str]) -> Talk:
    calls = labels.get("reporter") == "source"
    local, remote = ("source", "destination") if calls else ("destination", "source")
    peer = _name(labels, remote)
    if calls and peer == UNKNOWN:
        peer = labels.get("destination_service", UNKNOWN)
    security = labels.get("connection_security_policy", UNKNOWN)
    return Talk(_name(labels, local), "outbound" if calls else "inbound", peer, "mTLS" if security == "mutual_tls" else "plaintext")


def _name(labels: dict[str, str], side: str) -> str:
    workload, namespace = (labels.get(f"{side}_{name}", UNKNOWN) for name in ("workload", "workload_namespace"))
    return UNKNOWN if workload == UNKNOWN else f"{namespace}/{workload}"
