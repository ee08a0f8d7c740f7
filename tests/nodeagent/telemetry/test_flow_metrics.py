"""The text of the flow counters: golden, read back by Prometheus' own parser, escaped, bounded."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.telemetry.flow_metrics import MAX_FLAGS, FlowMetrics
from nodeagent.telemetry.labels import LABELS
from nodeagent.telemetry.series import SeriesTable, label_text
from nodeagent.ztunnel.protocol import CounterRow

WEB_TO_DB = {
    "reporter": "source",
    "source_workload": "web",
    "source_principal": "spiffe://cluster.local/ns/shop/sa/web",
    "destination_service": "db.bank.svc.cluster.local",
    "request_protocol": "tcp",
    "connection_security_policy": "mutual_tls",
    "log": {"src.workload": "web-1"},
}
BEFORE = (
    'reporter="source",source_workload="web",source_canonical_service="unknown",source_canonical_revision="unknown",'
    'source_workload_namespace="unknown",source_principal="spiffe://cluster.local/ns/shop/sa/web",source_app="unknown",'
    'source_version="unknown",source_cluster="unknown",destination_service="db.bank.svc.cluster.local",'
    'destination_service_namespace="unknown",destination_service_name="unknown",destination_workload="unknown",'
    'destination_canonical_service="unknown",destination_canonical_revision="unknown",destination_workload_namespace="unknown",'
    'destination_principal="unknown",destination_app="unknown",destination_version="unknown",destination_cluster="unknown",'
    'request_protocol="tcp",response_flags='
)
AFTER = ',connection_security_policy="mutual_tls"'
GOLDEN = f"""\
# HELP istio_tcp_connections_opened_total TCP connections opened.
# TYPE istio_tcp_connections_opened_total counter
istio_tcp_connections_opened_total{{{BEFORE}"-"{AFTER}}} 3
# HELP istio_tcp_connections_closed_total TCP connections closed.
# TYPE istio_tcp_connections_closed_total counter
istio_tcp_connections_closed_total{{{BEFORE}"-"{AFTER}}} 1
# HELP istio_tcp_received_bytes_total Bytes received by the client of TCP connections.
# TYPE istio_tcp_received_bytes_total counter
istio_tcp_received_bytes_total{{{BEFORE}"-"{AFTER}}} 20
# HELP istio_tcp_sent_bytes_total Bytes sent by the client of TCP connections.
# TYPE istio_tcp_sent_bytes_total counter
istio_tcp_sent_bytes_total{{{BEFORE}"-"{AFTER}}} 10
# HELP istio_tcp_connections_failed_total TCP connections that failed, by response flag.
# TYPE istio_tcp_connections_failed_total counter
istio_tcp_connections_failed_total{{{BEFORE}"UF"{AFTER}}} 2
istio_tcp_connections_failed_total{{{BEFORE}"UAEX"{AFTER}}} 1
"""


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_text_of_a_flow() -> None:
    metrics = FlowMetrics()
    labels = label_text(WEB_TO_DB)
    metrics.add(labels, CounterRow(1, opened=2, sent_bytes=10, received_bytes=20, failed={"UF": 2}))
    metrics.add(labels, CounterRow(1, opened=1, closed=1, failed={"UAEX": 1}))
    assert metrics.render() == GOLDEN
    assert len(samples(GOLDEN)) == 6


def test_a_flow_that_only_failed_has_no_traffic() -> None:
    metrics = FlowMetrics()
    metrics.add(label_text({}), CounterRow(1, failed={"NR": 1}))
    assert [name for name, _ in samples(metrics.render())] == ["istio_tcp_connections_failed_total"]


values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(st.sampled_from([name for name in LABELS if name != "response_flags"]), values), values)
def test_whatever_a_label_holds_comes_back_as_it_was(attributes: dict[str, Any], flag: str) -> None:
    metrics = FlowMetrics()
    metrics.add(label_text(attributes), CounterRow(1, opened=7, failed={flag: 5}))
    read = samples(metrics.render())
    expected = dict.fromkeys(LABELS, "unknown") | attributes
    assert read["istio_tcp_connections_opened_total", tuple(sorted((expected | {"response_flags": "-"}).items()))] == 7
    assert read["istio_tcp_connections_failed_total", tuple(sorted((expected | {"response_flags": flag}).items()))] == 5


def test_the_number_of_label_sets_is_bounded_and_the_longest_unchanged_goes() -> None:
    metrics = FlowMetrics(max_flows=2)
    for name in ("a", "b", "a", "c"):
        metrics.add((name, ""), CounterRow(1, opened=1))
    assert (len(metrics), metrics.evicted) == (2, 1)
    metrics.add(("a", ""), CounterRow(1, opened=1))
    assert (len(metrics), metrics.evicted) == (2, 1)


def test_flags_beyond_reason_are_one() -> None:
    metrics = FlowMetrics()
    for number in range(100):
        metrics.add(("", ""), CounterRow(1, failed={f"flag{number}": 1}))
    read = {line.rpartition(" ")[2] for line in metrics.render().splitlines() if '"other"' in line}
    assert read == {str(100 - MAX_FLAGS)}


def test_series_of_a_session_are_bounded_and_the_longest_unused_goes() -> None:
    table = SeriesTable(max_series=2)
    for number in (1, 2):
        table.define(number, {"source_workload": str(number)})
    assert table.find(1) is not None
    table.define(3, {})
    assert [table.find(number) is None for number in (1, 2, 3)] == [False, True, False]


def test_attributes_that_the_agent_did_not_make_break_nothing() -> None:
    table = SeriesTable()
    table.define(1, {"log": [1], "reporter": {"a": 1}, "source_workload": "x" * 10_000})
    flow = table.find(1)
    assert flow is not None
    assert flow.log == {}
    assert len(flow.labels[0]) < 5000
