"""Reports as an agent might give them."""

from nodeagent.admin.reports import (
    CaptureReport,
    CertificateReport,
    CertificatesReport,
    ConfigurationReport,
    ConnectionReport,
    ControllerReport,
    CounterReport,
    DenialReport,
    PolicyReport,
    Problem,
    ProxyReport,
    RemoteWorkloadReport,
    RootReport,
    ServiceReport,
    StatusReport,
    WorkloadReport,
)
from nodeagent.resolve.explanation import Explanation, Outcome, Step

NOW_S = 1_800_000_000.0
SHOP = "spiffe://cluster.local/ns/default/sa/shop"
API = "spiffe://cluster.local/ns/default/sa/api"

WORKLOAD = WorkloadReport(
    "shop",
    "default",
    "Kubernetes//Pod/default/shop",
    ready=True,
    identity=SHOP,
    addresses=("10.0.1.2", "fd00:1::2"),
    capture="nftables",
    captured_since_s=NOW_S - 3700,
    certificate="valid",
    certificate_expires_s=NOW_S + 80000,
)
BROKEN = WorkloadReport(
    "api", "default", "Kubernetes//Pod/default/api", identity=API, capture="waiting", problem="/run/netns/api: no such namespace [x]"
)
GOOD = StatusReport(
    node="n1",
    trust_domain="cluster.local",
    version="0.1.0",
    ready=True,
    now_s=NOW_S,
    started_s=NOW_S - 7265,
    controller=ControllerReport("192.0.2.1:15011", connected=True, since_s=NOW_S - 7200, last_response_s=NOW_S - 3),
    configuration=ConfigurationReport(current=True, workloads=4, services=1, policies=2, subscriptions=6),
    proxy=ProxyReport(
        pid=42, connected=True, since_s=NOW_S - 60, connections=3, tunnels_in=1, tunnels_out=2, resident_bytes=12 << 20, shed={"UO": 2}
    ),
    capture="ebpf",
    capture_reason="the best way, and this kernel carries it",
    probes="the kubelet's own connections pass, whatever the policies; they are those of the cgroup /system.slice/kubelet.service",
    prefilter="1 of 1 workloads refuse at the first packet",
    workloads=(WORKLOAD,),
    denials=(
        DenialReport(NOW_S - 30, "inbound", "10.0.2.3:40000", "10.0.1.2:8080", "denied by default/only-api", "UAEX", "default/only-api"),
    ),
)
BAD = StatusReport(
    node="n1",
    trust_domain="cluster.local",
    version="0.1.0",
    ready=False,
    now_s=NOW_S,
    started_s=NOW_S - 5,
    controller=ControllerReport("192.0.2.1:15011", error="UNAVAILABLE: connection refused"),
    configuration=ConfigurationReport(workloads=4, rejected={"default/bad": "unknown action"}),
    proxy=ProxyReport(problem="exit code 1"),
    capture="nftables",
    capture_reason="ebpf is not possible here: eBPF link: Operation not permitted",
    probes="not told from other plaintext: capture by nftables can't tell whose a connection is",
    workloads=(WORKLOAD, BROKEN),
    problems=(Problem("the controller can't be reached: UNAVAILABLE: connection refused", "what is known stays in force"),),
)
REMOTE = RemoteWorkloadReport(
    "api", "default", "Kubernetes//Pod/default/api", "n2", API, ("10.0.2.2",), "HBONE", "HEALTHY", ("istio-system/strict",)
)
SERVICE = ServiceReport("api", "default", "api.default.svc.cluster.local", ("10.96.0.10",), ("80 -> 8080",), 3, 2, "FAILOVER ZONE, NODE")
POLICIES = [
    PolicyReport("only-api", "default", "namespace", "DENY", 1, workloads=("default/shop",)),
    PolicyReport("trial", "default", "namespace", "ALLOW", 2, dry_run=True),
    PolicyReport("bad", "default", "unknown", "unknown", 0, error="unknown action 7"),
]
CERTIFICATES = CertificatesReport(
    NOW_S,
    (
        CertificateReport(SHOP, "valid", NOW_S + 80000, NOW_S + 40000),
        CertificateReport(API, "waiting", failures=3, error="PERMISSION_DENIED: refused"),
    ),
    (RootReport("cluster.local", "ab" * 32, NOW_S + 86400 * 3650),),
    revocations=1,
)
CONNECTION = ConnectionReport(
    "Kubernetes//Pod/default/shop",
    "outbound",
    "hbone",
    "10.0.1.2:40000",
    "10.0.2.2:8080",
    SHOP,
    API,
    "10.0.2.2:15008",
    NOW_S - 61,
    1536,
    5 << 30,
)
CAPTURE = CaptureReport(
    "shop",
    "default",
    "Kubernetes//Pod/default/shop",
    "/run/netns/shop",
    "nftables",
    "captured",
    prefilter="refuses denied by default/[strict]",
    counters=(CounterReport("redirected", 12, 720), CounterReport("dropped", 0, 0)),
)
EXPLANATION = Explanation(Outcome.DENIED, (Step("source", "default/shop [is] captured"), Step("verdict", "denied by default/only-api")))
