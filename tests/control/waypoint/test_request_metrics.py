"""control/waypoint/request_metrics.py: the text that Prometheus reads, and how much of it there can be."""

import json
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from control.waypoint.request_metrics import RequestMetrics
from control.waypoint.workload_names import PATIENCE_S, WorkloadNames
from meshapi import discovery
from meshapi.wire import WORKLOAD_TYPE
from meshapi.workload import Workload, WorkloadUID, encode_alone

PEER = "spiffe://cluster.local/ns/team/sa/page"


def request(
    status: int = 200,
    duration_ms: int = 3,
    *,
    peer: str = "-",
    dialled: str = ";;",
    called: str = "-",
    workload: str = "",
    identity: str = "",
    expected: str = "",
    own: str = "",
    rules: str = "",
    grpc: str = "-",
    flags: str = "-",
    client: str = "",
    server: str = "",
) -> str:
    """A line as Envoy writes it of a request of 150 bytes whose answer has 60."""
    chosen = f"{workload or ';;;;'};{identity}" if workload or identity else "-"
    place = ";".join((dialled, expected, own, rules))
    said = ("R", peer, place, called, chosen, client, server, flags, str(status), grpc, str(duration_ms * 1000), str(duration_ms))
    return "\t".join((*said, "100", "50", "60", "0"))


def take(metrics: RequestMetrics, *lines: str) -> None:
    metrics.take(list(lines), 0)


def samples(metrics: RequestMetrics, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(metrics.render(0).decode())
    return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]


def test_requests_and_their_labels() -> None:
    metrics = RequestMetrics(WorkloadNames())
    known = {"peer": PEER, "called": "cart.shop;shop;cart", "workload": "cart;shop;cart;v1;here", "identity": "spiffe://d/ns/shop/sa/c"}
    take(metrics, *[request(duration_ms=3, flags="-", **known)] * 3, request(404, duration_ms=70, flags="-", **known))
    (good, three), (bad, one) = samples(metrics, "istio_requests_total")
    assert (three, one) == (3, 1)
    assert {name for name in good if good[name] != bad[name]} == {"response_code"}
    assert good == {
        "reporter": "waypoint",
        "source_workload": "unknown",
        "source_canonical_service": "unknown",
        "source_canonical_revision": "unknown",
        "source_workload_namespace": "team",
        "source_principal": PEER,
        "source_app": "unknown",
        "source_version": "unknown",
        "source_cluster": "unknown",
        "destination_service": "cart.shop",
        "destination_service_namespace": "shop",
        "destination_service_name": "cart",
        "destination_workload": "cart",
        "destination_canonical_service": "cart",
        "destination_canonical_revision": "v1",
        "destination_workload_namespace": "shop",
        "destination_principal": "spiffe://d/ns/shop/sa/c",
        "destination_app": "cart",
        "destination_version": "v1",
        "destination_cluster": "here",
        "request_protocol": "http",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
        "response_code": "200",
        "grpc_response_status": "",
    }
    assert [value for _, value in samples(metrics, "istio_request_duration_milliseconds_sum")] == [9, 70]
    buckets = {labels["le"]: value for labels, value in samples(metrics, "istio_request_duration_milliseconds_bucket")[:20]}
    assert (buckets["1"], buckets["5"], buckets["+Inf"]) == (0, 3, 3)
    assert [value for _, value in samples(metrics, "istio_request_bytes_sum")] == [450, 150]
    assert [value for _, value in samples(metrics, "istio_response_bytes_count")] == [3, 1]


def test_what_reads_the_same_is_one_series() -> None:
    metrics = RequestMetrics(WorkloadNames())
    take(metrics, request(called="cart;shop;cart", dialled="one;a;one"), request(called="cart;shop;cart", dialled="other;a;other"))
    ((_, value),) = samples(metrics, "istio_requests_total")
    assert value == 2


def test_a_request_that_was_sent_nowhere_is_the_dialled_services() -> None:
    metrics = RequestMetrics(WorkloadNames())
    take(metrics, request(403, dialled="cart.shop;shop;cart", flags="UAEX"))
    ((labels, _),) = samples(metrics, "istio_requests_total")
    assert (labels["destination_service_name"], labels["destination_workload"], labels["response_flags"]) == ("cart", "unknown", "UAEX")


@pytest.mark.parametrize(("status", "label"), [("0", "0"), ("14", "14"), ("17", ""), ("99999", ""), ("x", "")])
def test_the_status_of_a_grpc_call(status: str, label: str) -> None:
    metrics = RequestMetrics(WorkloadNames())
    take(metrics, request(grpc=status))
    ((labels, _),) = samples(metrics, "istio_requests_total")
    assert (labels["request_protocol"], labels["grpc_response_status"]) == ("grpc", label)


def test_series_are_bounded_and_names_can_not_break_out_of_the_text() -> None:
    metrics = RequestMetrics(WorkloadNames(), max_series=5)
    take(metrics, *(request(status) for status in range(200, 220)))
    take(metrics, request(called='a"} 1\n\\;b;c' + "x" * 10_000))
    found = samples(metrics, "istio_requests_total")
    assert len(found) == 5
    assert found[-1][0]["destination_service"] == 'a"} 1_\\'
    assert len(found[-1][0]["destination_service_name"]) == 512
    assert samples(metrics, "nodemesh_waypoint_series_evicted_total") == [({}, 4 * 16)]


@given(st.lists(st.text(max_size=60) | st.sampled_from(["R\t", "C\t-\t-", "{}", '{"status": "a"}', request() + "\tmore"]), max_size=6))
def test_what_is_no_report_is_counted_and_nothing_else(lines: list[str]) -> None:
    metrics = RequestMetrics(WorkloadNames(), lambda: 2)
    take(metrics, *lines, request())
    ((_, value),) = samples(metrics, "istio_requests_total")
    assert value == 1
    assert samples(metrics, "nodemesh_waypoint_reports_lost_total") == [({}, 2 + len(lines))]


def test_what_telemetry_leaves_out() -> None:
    metrics = RequestMetrics(WorkloadNames())
    rules = "REQUEST_COUNT=response_code,response_flags|REQUEST_SIZE=!"
    take(metrics, request(200, rules=rules), request(404, flags="NR", rules=rules), request(200))
    (merged, two), (whole, one) = samples(metrics, "istio_requests_total")
    assert (two, one) == (2, 1)
    assert whole.keys() - merged.keys() == {"response_code", "response_flags"}
    assert [value for _, value in samples(metrics, "istio_request_bytes_count")] == [1], "of the one without rules"
    assert len(samples(metrics, "istio_response_bytes_count")) == 2


NAMED = Workload(
    WorkloadUID("u"), "page-1", "team", (ip_address("10.0.0.7"),), service_account="page", workload_name="page", canonical_name="page"
)


def from_address(address: str, peer: str = PEER) -> str:
    return request(peer=peer, client=address)


def answer(names: WorkloadNames, *workloads: Workload, removed: tuple[str, ...] = ()) -> None:
    found = tuple(discovery.Resource(one.uid, "1", encode_alone(one)) for one in workloads)
    names.take(discovery.Response(WORKLOAD_TYPE, "1", found, removed))


def test_a_report_waits_for_the_name_of_its_client() -> None:
    names = WorkloadNames()
    metrics = RequestMetrics(names)
    take(metrics, from_address("10.0.0.7"))
    assert samples(metrics, "istio_requests_total") == []
    answer(names, NAMED)
    ((labels, _),) = samples(metrics, "istio_requests_total")
    assert {key: labels[key] for key in labels if key.startswith("source_")} == {
        "source_workload": "page",
        "source_canonical_service": "page",
        "source_canonical_revision": "unknown",
        "source_workload_namespace": "team",
        "source_principal": PEER,
        "source_app": "page",
        "source_version": "unknown",
        "source_cluster": "Kubernetes",
    }


def test_it_waits_no_longer_than_a_moment_and_not_with_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.waypoint.request_metrics.MAX_WAITING", 3)
    metrics = RequestMetrics(WorkloadNames())
    take(metrics, *[from_address("10.0.0.7")] * 5)
    ((labels, value),) = samples(metrics, "istio_requests_total")
    assert (labels["source_workload"], value) == ("unknown", 2)
    metrics.settle(PATIENCE_S)
    ((_, value),) = samples(metrics, "istio_requests_total")
    assert value == 5


def test_a_workload_that_was_dialled_itself_has_its_name() -> None:
    names = WorkloadNames()
    metrics = RequestMetrics(names)
    take(metrics, request(expected=PEER, server="10.0.0.7"))
    answer(names, NAMED)
    ((labels, _),) = samples(metrics, "istio_requests_total")
    assert (labels["destination_workload"], labels["destination_app"], labels["source_workload"]) == ("page", "page", "unknown")


GATEWAY = "spiffe://cluster.local/ns/edge/sa/entry"


def test_a_gateway_is_the_client_of_what_it_calls() -> None:
    """Whoever called it is none of the mesh, whatever he says that he is."""
    names = WorkloadNames()
    metrics = RequestMetrics(names)
    take(
        metrics,
        request(
            own=GATEWAY,
            called="cart.shop;shop;cart",
            workload="cart;shop;cart;v1;here",
            identity="spiffe://d/ns/shop/sa/c",
            server="10.0.0.9",
            client="10.0.0.7",
        ),
    )
    answer(
        names,
        NAMED,
        Workload(WorkloadUID("e"), "entry-1", "edge", (ip_address("10.0.0.9"),), service_account="entry", canonical_name="entry"),
    )
    ((labels, _),) = samples(metrics, "istio_requests_total")
    wanted = {"reporter": "source", "source_workload": "entry-1", "source_app": "entry", "source_principal": GATEWAY}
    wanted |= {"source_workload_namespace": "edge", "destination_workload": "cart", "connection_security_policy": "unknown"}
    assert {name: labels[name] for name in wanted} == wanted


def test_a_gateway_that_the_mesh_does_not_know_is_called_as_its_gateway_is() -> None:
    metrics = RequestMetrics(WorkloadNames())
    take(metrics, request(own=GATEWAY))
    ((labels, _),) = samples(metrics, "istio_requests_total")
    assert (labels["source_workload"], labels["source_workload_namespace"], labels["source_app"]) == ("entry", "edge", "unknown")


def tunnel(status: int, authority: str = "10.0.0.1:80", *names: str) -> str:
    said = {"status": status, "client": "10.0.0.9", "peers": ",".join(names or (PEER,)), "authority": authority, "why": "route_not_found"}
    return json.dumps(said)


def test_refused_tunnels_are_counted_and_told_and_are_no_requests(caplog: pytest.LogCaptureFixture) -> None:
    metrics = RequestMetrics(WorkloadNames())
    take(metrics, tunnel(404, "10.0.0.1:80\nINFO all is well" + "x" * 1000, PEER, "spiffe://d/two"), *[tunnel(401)] * 30)
    counted = samples(metrics, "nodemesh_waypoint_refused_tunnels_total")
    assert counted == [({"response_code": "401"}, 30), ({"response_code": "404"}, 1)]
    assert samples(metrics, "istio_requests_total") == []
    assert len(caplog.records) == 20, "a flood of them is counted, and not told"
    (first, *_) = caplog.messages
    assert f"{PEER},spiffe://d/two" in first
    assert "\n" not in first
    assert len(first) < 1000


def test_requests_like_others_just_before_add_to_the_same() -> None:
    metrics = RequestMetrics(WorkloadNames())
    lines = [request(duration_ms=took) for took in range(1, 51)] + [request(404, duration_ms=7)] * 3
    metrics.take(lines, 0)
    metrics.take(lines, 0.5)
    assert [value for _, value in samples(metrics, "istio_requests_total")] == [100, 6]
    assert [value for _, value in samples(metrics, "istio_request_duration_milliseconds_sum")] == [2 * sum(range(1, 51)), 42]
    assert [value for _, value in samples(metrics, "istio_request_bytes_sum")] == [15_000, 900]
    wrong = request(duration_ms=3).replace("\t3000\t", "\tx\t")
    metrics.take([wrong], 0.6)
    assert samples(metrics, "nodemesh_waypoint_reports_lost_total") == [({}, 1)]


def test_series_that_made_room_get_no_more() -> None:
    metrics = RequestMetrics(WorkloadNames(), max_series=2)
    metrics.take([request(200 + number % 3) for number in range(30)], 0)
    assert len(samples(metrics, "istio_requests_total")) == 2
    ((_, evicted),) = samples(metrics, "nodemesh_waypoint_series_evicted_total")
    shown = sum(value for _, value in samples(metrics, "istio_requests_total"))
    assert shown == 2, "each of three kinds in turn makes room for the next"
    assert evicted == 4 * 28


def test_a_name_that_changes_holds_from_then_on() -> None:
    names = WorkloadNames()
    metrics = RequestMetrics(names)
    line = from_address("10.0.0.7")
    take(metrics, line)
    for name in ("first", "second"):
        answer(names, msgspec.structs.replace(NAMED, workload_name=name))
        take(metrics, line, line)
    found = {labels["source_workload"]: value for labels, value in samples(metrics, "istio_requests_total")}
    assert found == {"first": 3, "second": 2}, "the first one waited for a name"
