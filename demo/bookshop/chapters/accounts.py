"""What the mesh tells of all that was done, beside what the services and their visitor counted themselves."""

import json
import re
from collections import Counter
from contextlib import suppress
from typing import Final

from demo.bookshop.accounts import calls
from demo.bookshop.chart import rows
from demo.bookshop.shop import Bookshop
from demo.cluster import NotInTime
from demo.report import Report
from demo.shell import run

METRICS: Final = "http://127.0.0.1:15090/stats/prometheus"
_SAMPLE: Final = re.compile(r"^istio_requests_total\{(?P<labels>.*)\} (?P<value>\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
FLAGS: Final = {
    "DI": "delayed on purpose",
    "FI": "aborted on purpose",
    "UT": "upstream timed out",
    "UO": "overflow: the circuit breaker",
}
"""Of Envoy's, those that chapters count."""


def metrics(shop: Bookshop, report: Report) -> None:
    """Istio's metrics at the waypoint, against both sides' own counts."""
    with report.step("Metrics: what the waypoint counted, and what the callers did"):
        own = Counter({call: count for call, count in _calls(shop).items() if call[1]})
        # What it reports comes within a second or two; where it never does, the table says what is missing.
        with suppress(NotInTime):
            shop.eventually(lambda: counted(_scrape(shop)) == own, "the waypoint's metrics to be those of its callers")
        told = counted(_scrape(shop))
        heads = ("service", "status", "counted by callers", "istio_requests_total")
        report.show(rows(heads, [(*call, own[call], told[call]) for call in sorted(own | told)]))
        report.claim(
            "istio_requests_total of the waypoint is what the callers counted, by service and status, to the last request",
            held=told == own,
            seen=f"{told.total()} requests in {len(told)} rows",
        )


def _calls(shop: Bookshop) -> Counter[tuple[str, int]]:
    return calls([shop.visitor.account, *(app.account() for app in shop.apps.values())])


def _scrape(shop: Bookshop) -> str:
    return run(["curl", "-sS", "--max-time", "5", METRICS], namespace=shop.waypoint.pod.namespace)


def counted(text: str) -> Counter[tuple[str, int]]:
    """Requests by service and status, of the text that Prometheus reads."""
    found: Counter[tuple[str, int]] = Counter()
    for line in text.splitlines():
        if sample := _SAMPLE.match(line):
            labels = dict(_LABEL.findall(sample["labels"]))
            if status := int(labels["response_code"]):
                found[labels["destination_service_name"], status] += int(float(sample["value"]))
    return found


def access_log(shop: Bookshop, report: Report) -> None:
    """A line for each request, with Envoy's reason."""
    with report.step("The access log: why requests came to nothing"):
        expected = shop.flags
        with suppress(NotInTime):
            shop.eventually(lambda: _flags(shop) >= expected, "the lines of the access log")
        told = _flags(shop)
        heads = ("flag", "meaning", "by the chapters", "in the log")
        report.show(rows(heads, [(flag, what, expected[flag], told[flag]) for flag, what in FLAGS.items()]))
        report.claim(
            "its response flags are as often there as each happened",
            held=told == expected,
            seen=", ".join(f"{flag}: {told[flag]}" for flag in FLAGS),
        )


def _flags(shop: Bookshop) -> Counter[str]:
    lines = shop.waypoint.directory.with_suffix(".log").read_text(errors="replace").splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return Counter(flag for line in logged for flag in str(line.get("response_flags")).split(",") if flag in FLAGS)


def described(shop: Bookshop, report: Report) -> None:
    """The operator's own view."""
    with report.step("meshctl describe reviews; meshctl proxy-status"), shop.in_force("by-header", shop.text("by-header")):
        told = shop.cluster.meshctl("describe", "reviews")
        report.show(told)
        wanted = ("jason", "v1", "v3", "default/bookshop")
        report.claim("it names the rule, its versions and the waypoint", held=all(word in told for word in wanted), seen=", ".join(wanted))
        status = shop.cluster.meshctl_answer("proxy-status")
        report.show(status)
        report.claim(
            "the waypoint has taken all that it is served, and refused nothing",
            held="refuses" not in status and "behind" not in status,
            seen="synced",
        )
