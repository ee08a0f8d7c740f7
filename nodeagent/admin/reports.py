"""The reports, as values: what the admin socket serves and the command line shows. Times are Unix seconds."""

from msgspec import Struct


class Problem(Struct, frozen=True):
    """Something that is wrong, and what to do about it."""

    what: str
    hint: str = ""


class ControllerReport(Struct, frozen=True):
    target: str = ""
    connected: bool = False
    since_s: float | None = None
    """Connected since."""
    last_response_s: float | None = None
    error: str | None = None
    """Of the last try to connect."""


class ConfigurationReport(Struct, frozen=True):
    """What is known of the mesh. `current`: the controller confirmed it in this run of the agent; else it was kept on the node."""

    current: bool = False
    workloads: int = 0
    services: int = 0
    policies: int = 0
    subscriptions: int = 0
    rejected: dict[str, str] = {}
    """By resource, why it could not be understood."""
    missing_policies: tuple[str, ...] = ()
    """Those that a workload of this node names, and that have not come: it is denied until they have."""


class ProxyReport(Struct, frozen=True):
    pid: int | None = None
    connected: bool = False
    since_s: float | None = None
    restarts: int = 0
    held_answers: int = 0
    waiting_questions: int = 0
    connections: int | None = None
    tunnels_in: int | None = None
    tunnels_out: int | None = None
    resident_bytes: int | None = None
    shed: dict[str, int] = {}
    draining: tuple[int, ...] = ()
    """Processes of former proxies, which finish what they carry."""
    problem: str | None = None


class WorkloadReport(Struct, frozen=True):
    """A workload that runs on this node. `ready`: captured, known to the proxy, and with a certificate."""

    name: str
    namespace: str
    uid: str
    ready: bool = False
    identity: str = ""
    addresses: tuple[str, ...] = ()
    capture: str = ""
    """How it is captured, or how far that is."""
    captured_since_s: float | None = None
    certificate: str = ""
    certificate_expires_s: float | None = None
    problem: str | None = None


class RemoteWorkloadReport(Struct, frozen=True):
    """A workload of the mesh that this agent knows."""

    name: str
    namespace: str
    uid: str
    node: str
    identity: str
    addresses: tuple[str, ...]
    tunnel: str
    health: str
    policies: tuple[str, ...] = ()


class DenialReport(Struct, frozen=True):
    """A connection that was refused."""

    at_s: float
    direction: str
    source: str
    destination: str
    reason: str
    flag: str = ""
    policy: str | None = None


class StatusReport(Struct, frozen=True):
    node: str
    trust_domain: str
    version: str
    ready: bool
    now_s: float
    started_s: float
    controller: ControllerReport
    configuration: ConfigurationReport
    proxy: ProxyReport
    capture: str
    """How workloads are captured here, and why this way."""
    capture_reason: str
    probes: str = ""
    """How the kubelet's probes are known here, in words."""
    tcp_telemetry: str = ""
    """Why the kernel does not count connections between workloads; empty if it does."""
    prefilter: str = ""
    """What is refused at the first packet, in words."""
    dns: str = ""
    """Whose questions to DNS are answered here, in words."""
    workloads: tuple[WorkloadReport, ...] = ()
    denials: tuple[DenialReport, ...] = ()
    problems: tuple[Problem, ...] = ()


class ServiceReport(Struct, frozen=True):
    """`ports` as `80 -> 8080`."""

    name: str
    namespace: str
    hostname: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    endpoints: int
    healthy_endpoints: int
    balancing: str = ""
    waypoint: str | None = None


class PolicyReport(Struct, frozen=True):
    """`workloads`: those of this node that it holds for. `error`: the last form is not understood; the one before, if any, is in force."""

    name: str
    namespace: str
    scope: str
    action: str
    rules: int
    dry_run: bool = False
    workloads: tuple[str, ...] = ()
    error: str | None = None


class CertificateReport(Struct, frozen=True):
    identity: str
    state: str
    expires_s: float | None = None
    renew_s: float | None = None
    failures: int = 0
    error: str | None = None


class RootReport(Struct, frozen=True):
    trust_domain: str
    fingerprint: str
    """SHA-256 of the certificate."""
    expires_s: float


class CertificatesReport(Struct, frozen=True):
    now_s: float
    certificates: tuple[CertificateReport, ...]
    roots: tuple[RootReport, ...]
    revocations: int = 0


class ConnectionReport(Struct, frozen=True):
    workload: str
    direction: str
    via: str
    source: str
    destination: str
    source_identity: str | None
    destination_identity: str | None
    hbone_address: str | None
    opened_s: float
    sent_bytes: int
    received_bytes: int
    pid: int | None = None
    """Of the process that opened it, where the workload's cgroup is known; so are the next two."""
    executable: str | None = None
    command: str | None = None
    connect_s: float | None = None
    """Of the tunnel that carries it, or of its own connection to the other side; so are the next two."""
    rtt_s: float | None = None
    retransmits: int | None = None


class CounterReport(Struct, frozen=True):
    rule: str
    packets: int
    bytes: int


class CaptureReport(Struct, frozen=True):
    """What is programmed in a workload's network namespace, as the kernel says."""

    name: str
    namespace: str
    uid: str
    netns: str
    way: str
    state: str
    problem: str = ""
    prefilter: str = ""
    """What is refused at the first packet, in words."""
    counters: tuple[CounterReport, ...] = ()


class Failure(Struct, frozen=True):
    """The body of an answer that is none."""

    error: str


class UnavailableError(Exception):
    """A report can't be had now; the text says why."""
