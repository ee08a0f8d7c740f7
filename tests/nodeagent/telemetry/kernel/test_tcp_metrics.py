"""The kernel's counts as Prometheus reads them: cumulative, under bounds in seconds, no more labels than there is room for."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from nodeagent.bpf.mesh_sockets import BUCKETS, FIRST_BOUND_US, Flow, Histogram
from nodeagent.telemetry.kernel.tcp_metrics import STRANGER, Named, TCPMetrics, labels, minus, plus
from nodeagent.telemetry.labels import Reporter

PAIR = labels(Reporter.SOURCE, Named("shop", "default"), Named("api", "bank"))
counts = st.lists(st.integers(0, 2**40), min_size=BUCKETS, max_size=BUCKETS).map(tuple)
histograms = st.builds(Histogram, counts, st.integers(0, 2**60))
grown = st.builds(Flow, histograms, histograms, st.integers(0, 2**60), st.integers(0, 2**60), st.integers(0, 2**60))


def bucket_of(us: int) -> int:
    """As the kernel's program has it."""
    return next((bucket for bucket in range(BUCKETS - 1) if us <= FIRST_BOUND_US << bucket), BUCKETS - 1)


def observed(values_us: list[int]) -> Histogram:
    buckets = [bucket_of(us) for us in values_us]
    return Histogram(tuple(buckets.count(bucket) for bucket in range(BUCKETS)), sum(values_us))


def rendered(metrics: TCPMetrics) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(metrics.render()) for sample in family.samples]


@given(st.lists(st.one_of(st.integers(0, 2**30), st.integers(0, BUCKETS).map(lambda power: FIRST_BOUND_US << power)), max_size=50))
def test_each_bucket_has_what_is_at_most_its_bound(values_us: list[int]) -> None:
    metrics = TCPMetrics()
    metrics.add(PAIR, Flow(rtt=observed(values_us), retransmits=1))
    buckets = {one.labels["le"]: one.value for one in rendered(metrics) if one.name == "nodemesh_tcp_rtt_seconds_bucket"}
    assert len(buckets) == BUCKETS
    for bound, count in buckets.items():
        assert count == sum(us <= float(bound) * 1e6 for us in values_us)
    [total] = [one.value for one in rendered(metrics) if one.name == "nodemesh_tcp_rtt_seconds_sum"]
    assert abs(total - sum(values_us) / 1e6) < 1e-9 * max(1, total)


def test_what_is_said_of_a_pair() -> None:
    metrics = TCPMetrics()
    metrics.add(PAIR, Flow(observed([100, 200]), observed([50]), 3, 4000, 5000))
    metrics.add(PAIR, Flow(observed([16]), observed([]), 1, 1, 1))
    said = {one.name + one.labels.get("direction", "") + one.labels.get("le", ""): one for one in rendered(metrics)}
    assert said["nodemesh_tcp_connect_duration_seconds_count"].value == 3
    assert said["nodemesh_tcp_connect_duration_seconds_bucket1.6e-05"].value == 1
    assert said["nodemesh_tcp_connect_duration_seconds_bucket+Inf"].value == 3
    assert said["nodemesh_tcp_rtt_seconds_sum"].value == 50e-6
    assert said["nodemesh_tcp_retransmits_total"].value == 4
    assert said["nodemesh_tcp_bytes_totalsent"].value == 4001
    assert said["nodemesh_tcp_bytes_totalreceived"].value == 5001
    assert said["nodemesh_tcp_retransmits_total"].labels == {
        "reporter": "source",
        "source_workload": "shop",
        "source_workload_namespace": "default",
        "destination_workload": "api",
        "destination_workload_namespace": "bank",
    }


def test_who_accepts_has_no_connect_latency() -> None:
    metrics = TCPMetrics()
    metrics.add(labels(Reporter.DESTINATION, STRANGER, Named("api", "bank")), Flow(rtt=observed([50])))
    assert not [one for one in rendered(metrics) if "connect" in one.name]


@given(grown, grown)
def test_what_came_since_and_what_was_before_are_the_whole(one: Flow, other: Flow) -> None:
    whole = plus(one, other)
    assert minus(whole, one) == other
    assert minus(whole, whole) == Flow()
    assert plus(whole, Flow()) == whole


@given(st.lists(st.integers(0, 12), max_size=60))
def test_the_number_of_pairs_is_bounded_and_the_longest_unchanged_goes(order: list[int]) -> None:
    metrics = TCPMetrics(max_pairs=5)
    kept: list[str] = []
    for number in order:
        name = labels(Reporter.SOURCE, Named(f"w{number}", "default"), STRANGER)
        metrics.add(name, Flow(retransmits=1))
        kept = [*(one for one in kept if one != name), name][-5:]
    said = {one.labels["source_workload"] for one in rendered(metrics) if one.name == "nodemesh_tcp_retransmits_total"}
    assert said == {name.split('"')[3] for name in kept}
    assert metrics.evicted == 0 or len(set(order)) > 5


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_name_is_one_value(workload: str, namespace: str) -> None:
    metrics = TCPMetrics()
    metrics.add(labels(Reporter.SOURCE, Named(workload, namespace), STRANGER), Flow(retransmits=7))
    [one] = [sample for sample in rendered(metrics) if sample.name == "nodemesh_tcp_retransmits_total"]
    assert (one.value, one.labels["source_workload"], one.labels["source_workload_namespace"]) == (7, workload, namespace)
