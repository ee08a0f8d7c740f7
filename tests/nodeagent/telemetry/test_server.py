"""Metrics and readiness over real HTTP on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodeagent.identity.schedule import IdentityState, State
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.gauges import AgentMetrics, FailingOpen, Readings
from nodeagent.telemetry.labels import Reporter, flow_attributes
from nodeagent.telemetry.recorder import MAX_POLICIES, Recorder, SessionRecorder
from nodeagent.telemetry.records import as_json
from nodeagent.telemetry.server import TelemetryServer
from nodeagent.ztunnel.protocol import Closed, ConnectionEntry, CounterRow, Counters, Direction, ProxyStatus, Via
from tests.nodeagent.attributes import given_back

ID = "spiffe://cluster.local/ns/shop/sa/web"
READINGS = Readings(
    connected=True,
    config_age_s=1.5,
    workloads=2,
    certificates=(
        IdentityState(ID, State.VALID, 1_800_000_000.0, 1_700_000_000.0, 0, None),
        IdentityState(f"{ID}-new", State.WAITING, None, None, 3, "denied"),
    ),
    rejected={"type.googleapis.com/istio.security.Authorization": {"ns/bad": "no"}},
    proxy=ProxyStatus(1, 5, 2, 3, 10, 20, 0, 12345678, {"memory": 4}),
    kubelet_connections=12,
    fail_open=(FailingOpen("web", "shop", is_open=True, passed=3),),
    opened={("web", "shop"): {"outside": 5, "excluded": 1, "marked": 9}},
)


def denied(policy: str | None, series: int | None = 1) -> ConnectionEntry:
    return ConnectionEntry(
        id=1,
        workload="w",
        direction=Direction.INBOUND,
        series=series,
        source="10.0.0.1:1",
        destination="10.0.0.2:2",
        opened_s=0.0,
        via=Via.PLAINTEXT,
        flag="UAEX",
        policy=policy,
    )


def probed(series: int) -> ConnectionEntry:
    return msgspec.structs.replace(denied(None, series), direction=Direction.INBOUND, flag=None)


def recorded() -> tuple[Recorder, SessionRecorder]:
    recorder = Recorder(AccessLog(None, as_json))
    session = recorder.begin_session()
    session.on_counters(
        Counters((CounterRow(1, given_back(flow_attributes(Reporter.SOURCE)), opened=1), CounterRow(2, opened=1)), lost_log_entries=7)
    )
    session.on_counters(Counters((CounterRow(3, given_back(flow_attributes(Reporter.DESTINATION, is_probe=True))),)))
    session.on_closed(Closed((denied("bank/deny"), denied(None, None), probed(3), probed(1))))
    return recorder, session


def samples(body: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            labels = ",".join(sample.labels.values()) if len(sample.labels) == 1 else sample.labels.get("outcome", "")
            found[f"{sample.name} {labels}".strip()] = sample.value
    return found


@asynccontextmanager
async def serving(
    refresh: Callable[[], Awaitable[None]], not_ready: Callable[[], str | None], recorder: Recorder
) -> AsyncIterator[Callable[[str, str], Awaitable[tuple[int, str]]]]:
    loopback = ("127.0.0.1", 0)
    metrics = AgentMetrics(recorder, lambda: READINGS)
    server = TelemetryServer(metrics=loopback, readiness=loopback, render=metrics.render, refresh=refresh, not_ready=not_ready)
    async with asyncio.TaskGroup() as tasks, aiohttp.ClientSession() as client:
        task = tasks.create_task(server.run())
        async with asyncio.timeout(10):
            while not server.addresses:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)

        async def get(port: str, path: str) -> tuple[int, str]:
            host, number = server.addresses[port]
            async with client.get(f"http://{host}:{number}{path}") as answer:
                return answer.status, await answer.text()

        yield get
        task.cancel()


async def test_the_page_holds_flows_and_the_agents_own_and_is_fresh() -> None:
    recorder, session = recorded()

    async def refresh() -> None:
        session.on_counters(Counters((CounterRow(1, opened=4),)))

    async with serving(refresh, lambda: None, recorder) as get:
        status, body = await get("metrics", "/metrics")
    assert status == 200
    assert samples(body) == {
        "istio_tcp_connections_opened_total": 5,
        "istio_tcp_connections_closed_total": 0,
        "istio_tcp_received_bytes_total": 0,
        "istio_tcp_sent_bytes_total": 0,
        "nodemesh_controller_connected": 1,
        "nodemesh_config_age_seconds": 1.5,
        "nodemesh_workloads": 2,
        "nodemesh_rejected_resources type.googleapis.com/istio.security.Authorization": 1,
        f"nodemesh_certificate_expiry_timestamp_seconds {ID}": 1_800_000_000,
        f"nodemesh_certificate_valid {ID}": 1,
        f"nodemesh_certificate_valid {ID}-new": 0,
        f"nodemesh_certificate_failed_tries {ID}": 0,
        f"nodemesh_certificate_failed_tries {ID}-new": 3,
        "nodemesh_denied_connections_total bank/deny": 1,
        "nodemesh_denied_connections_total -": 1,
        "nodemesh_probe_connections_from_node_total": 1,
        "nodemesh_kubelet_connections_recorded_total": 12,
        "nodemesh_access_log_lost_entries_total proxy": 7,
        "nodemesh_access_log_lost_entries_total agent": 0,
        "nodemesh_access_log_lost_entries_total kernel": 0,
        "nodemesh_flow_metrics_lost_total label_sets": 0,
        "nodemesh_flow_metrics_lost_total rows": 1,
        "nodemesh_flow_metrics_lost_total tcp_label_sets": 0,
        "nodemesh_tcp_telemetry": 0,
        "nodemesh_capture_open": 1,
        "nodemesh_capture_fail_open_total": 3,
        "nodemesh_capture_outbound_connections_total outside": 5,
        "nodemesh_capture_outbound_connections_total excluded": 1,
        "nodemesh_capture_outbound_connections_total marked": 9,
        "nodemesh_proxy_connections": 5,
        "nodemesh_proxy_tunnels inbound": 2,
        "nodemesh_proxy_tunnels outbound": 3,
        "nodemesh_proxy_held_answers route": 10,
        "nodemesh_proxy_held_answers verdict": 20,
        "nodemesh_proxy_waiting_questions": 0,
        "nodemesh_proxy_resident_bytes": 12345678,
        "nodemesh_proxy_shed_connections_total memory": 4,
    }


async def test_a_proxy_that_does_not_answer_delays_the_page_by_its_deadline_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.telemetry.server.REFRESH_DEADLINE_S", 0.05)
    stuck = asyncio.Event()

    async def refresh() -> None:
        await stuck.wait()

    async with serving(refresh, lambda: None, recorded()[0]) as get, asyncio.timeout(5):
        pages = await asyncio.gather(*(get("metrics", "/metrics") for _ in range(5)))
        assert all("istio_tcp_connections_opened_total{" in body for _, body in pages)


async def test_many_who_ask_at_once_share_one_report() -> None:
    reports = 0

    async def refresh() -> None:
        nonlocal reports
        reports += 1

    async with serving(refresh, lambda: None, recorded()[0]) as get:
        await asyncio.gather(*(get("metrics", "/metrics") for _ in range(5)))
    assert reports < 5


async def test_readiness_says_why_not() -> None:
    reason: str | None = "waiting for the controller"

    async def refresh() -> None:
        raise AssertionError("readiness asks nobody")

    async with serving(refresh, lambda: reason, recorded()[0]) as get:
        assert await get("readiness", "/healthz/ready") == (503, "waiting for the controller\n")
        reason = None
        assert await get("readiness", "/healthz/ready") == (200, "ready\n")
        assert (await get("readiness", "/metrics"))[0] == 404


def test_each_session_has_numbers_of_its_own() -> None:
    recorder, former = recorded()
    recorder.begin_session().on_counters(Counters((CounterRow(1, opened=1),)))
    assert recorder.unattributed_rows == 2
    former.on_counters(Counters((CounterRow(1, opened=1),)))
    assert recorder.unattributed_rows == 2


def test_policies_that_deny_are_counted_up_to_a_bound() -> None:
    recorder = Recorder(AccessLog(None, as_json))
    recorder.begin_session().on_closed(Closed(tuple(denied(f"ns/{number}") for number in range(MAX_POLICIES + 10))))
    assert len(recorder.denied) == MAX_POLICIES + 1
    assert recorder.denied["other"] == 10
