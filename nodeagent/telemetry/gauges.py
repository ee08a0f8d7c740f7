"""What the agent tells about itself, as Prometheus metrics: read when it is asked for, kept nowhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from nodeagent.identity.schedule import IdentityState, State
from nodeagent.telemetry.flow_metrics import FlowMetrics
from nodeagent.telemetry.kernel.tcp_metrics import TCPMetrics
from nodeagent.telemetry.recorder import Recorder
from nodeagent.ztunnel.protocol import ProxyStatus

Family = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, slots=True)
class Readings:
    """The state of the agent at one moment. `rejected`: by type URL, the names that were refused."""

    connected: bool
    config_age_s: float | None
    workloads: int
    certificates: Sequence[IdentityState] = ()
    rejected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    proxy: ProxyStatus | None = None
    tcp_telemetry: bool = False
    """The kernel counts connections between workloads."""
    kubelet_connections: int = 0
    """That were recorded, so that they pass as probes."""
    fail_open: Sequence["FailingOpen"] = ()
    """The workloads that are to fail open."""
    opened: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    """By workload and its namespace: connections that it has opened since it is captured, by what the kernel made of them."""


@dataclass(frozen=True, slots=True)
class FailingOpen:
    """A workload whose connections pass by the mesh while no proxy serves it. `passed`: handshakes that did, since it is captured."""

    workload: str
    namespace: str
    is_open: bool
    passed: int


class AgentMetrics:
    """Renders the whole page: the flows, then the agent's own."""

    def __init__(
        self,
        recorder: Recorder,
        read: Callable[[], Readings],
        tcp: TCPMetrics | None = None,
        others: Sequence[Collector] = (),
    ) -> None:
        self._flows: FlowMetrics = recorder.flows
        self._tcp = tcp or TCPMetrics()
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (_AgentCollector(recorder, read, self._tcp), *others):
            self._registry.register(collector)

    def render(self) -> bytes:
        """The text format, version 0.0.4."""
        own = self._flows.render() + self._tcp.render()
        return own.encode("utf-8", "backslashreplace") + generate_latest(self._registry)


class _AgentCollector(Collector):
    def __init__(self, recorder: Recorder, read: Callable[[], Readings], tcp: TCPMetrics) -> None:
        self._recorder = recorder
        self._read = read
        self._tcp = tcp

    def collect(self) -> Iterator[Family]:
        readings = self._read()
        yield _gauge("nodemesh_controller_connected", "1 while the agent has a stream to its controller.", float(readings.connected))
        if readings.config_age_s is not None:
            yield _gauge("nodemesh_config_age_seconds", "Time since the controller last sent anything.", readings.config_age_s)
        yield _gauge("nodemesh_tcp_telemetry", "1 while the kernel counts connections between workloads.", float(readings.tcp_telemetry))
        yield _gauge("nodemesh_workloads", "Workloads served on this node.", readings.workloads)
        yield _labelled(
            "nodemesh_rejected_resources",
            "Resources in their last form refused.",
            "type",
            {u: len(n) for u, n in readings.rejected.items()},
        )
        yield from _failing_open(readings.fail_open)
        yield _opened(readings.opened)
        yield from _certificates(readings.certificates)
        yield CounterMetricFamily(
            "nodemesh_kubelet_connections_recorded",
            "Connections of the kubelet's own processes, known to the kernel as such.",
            value=readings.kubelet_connections,
        )
        yield from self._counts()
        if readings.proxy is not None:
            yield from _proxy(readings.proxy)

    def _counts(self) -> Iterator[Family]:
        recorder = self._recorder
        yield _counter("nodemesh_denied_connections", "Connections denied, by the policy that decided.", "policy", recorder.denied)
        yield CounterMetricFamily(
            "nodemesh_probe_connections_from_node",
            "Connections let in as probes for coming from the node's own addresses.",
            value=recorder.probes_from_node,
        )
        yield _counter(
            "nodemesh_refused_at_syn", "Those of them that the kernel refused at their first packet.", "policy", recorder.refused_at_syn
        )
        yield _counter(
            "nodemesh_access_log_lost_entries",
            "Entries of the access log that were shed.",
            "by",
            {"proxy": recorder.lost_entries, "agent": recorder.access_log.lost, "kernel": recorder.untold_refusals},
        )
        yield _counter(
            "nodemesh_flow_metrics_lost",
            "Label sets of flows that made room for others, and rows that fit no known series.",
            "what",
            {"label_sets": recorder.flows.evicted, "rows": recorder.unattributed_rows, "tcp_label_sets": self._tcp.evicted},
        )


def _failing_open(workloads: Sequence[FailingOpen]) -> Iterator[Family]:
    labels = ["workload", "namespace"]
    now = GaugeMetricFamily("nodemesh_capture_open", "1 while connections pass by the mesh, since no proxy is there.", labels=labels)
    passed = CounterMetricFamily(
        "nodemesh_capture_fail_open", "Handshakes that passed by the mesh, since no proxy was there.", labels=labels
    )
    for one in workloads:
        now.add_metric([one.workload, one.namespace], float(one.is_open))
        passed.add_metric([one.workload, one.namespace], one.passed)
    yield from (now, passed)


def _opened(workloads: Mapping[tuple[str, str], Mapping[str, int]]) -> Family:
    family = CounterMetricFamily(
        "nodemesh_capture_outbound_connections",
        "Connections that workloads opened, as the kernel saw them: `outside` the mesh and `excluded` ones went past the proxy, "
        "those of a known cgroup that did not are `marked`.",
        labels=["workload", "namespace", "outcome"],
    )
    for (workload, namespace), outcomes in workloads.items():
        for outcome, count in outcomes.items():
            family.add_metric([workload, namespace, outcome], count)
    return family


def _certificates(states: Sequence[IdentityState]) -> Iterator[Family]:
    expiry = {state.identity: state.not_after_s for state in states if state.not_after_s is not None}
    valid = {state.identity: float(state.state is State.VALID) for state in states}
    failures = {state.identity: state.failures for state in states}
    yield _labelled("nodemesh_certificate_expiry_timestamp_seconds", "When the certificate held ends, in Unix time.", "identity", expiry)
    yield _labelled("nodemesh_certificate_valid", "1 while there is a certificate that peers accept.", "identity", valid)
    yield _labelled("nodemesh_certificate_failed_tries", "Failed tries since the last certificate.", "identity", failures)


def _proxy(status: ProxyStatus) -> Iterator[Family]:
    yield _gauge("nodemesh_proxy_connections", "Open connections of applications.", status.connections)
    tunnels = {"inbound": status.tunnels_in, "outbound": status.tunnels_out}
    yield _labelled("nodemesh_proxy_tunnels", "Open HBONE tunnels.", "direction", tunnels)
    answers = {"route": status.held_routes, "verdict": status.held_verdicts}
    yield _labelled("nodemesh_proxy_held_answers", "Decisions that the proxy holds.", "kind", answers)
    yield _gauge("nodemesh_proxy_waiting_questions", "Questions that wait for the agent.", status.waiting_questions)
    yield _gauge("nodemesh_proxy_resident_bytes", "Memory of the proxy.", status.resident_bytes)
    yield _counter("nodemesh_proxy_shed_connections", "Connections turned away, by reason.", "reason", status.shed)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
