"""Reports of the node, from what its parts say."""

import time
from typing import Any

import msgspec
import pytest

from nodeagent.admin import node
from nodeagent.admin.reports import CaptureReport, ConfigurationReport, CounterReport, DenialReport, ProxyReport, WorkloadReport
from nodeagent.capture.base import CaptureState, Inspection
from nodeagent.capture.terms import Terms
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.identity.schedule import IdentityState, State
from nodeagent.linux.namespaces import Namespace, key_at
from nodeagent.linux.nftables import Counter
from nodeagent.runtime.base import LocalWorkload
from nodeagent.telemetry.records import Record
from tests.nodeagent.cli import samples
from tests.nodeagent.identity.pki import authority

WEB = LocalWorkload("web", "web", "shop", "web", "/proc/self/ns/net", key_at("/proc/self/ns/net"))
VALID = IdentityState("spiffe://td/ns/shop/sa/web", State.VALID, 200.0, 100.0, 0, None)
REFUSED = IdentityState("spiffe://td/ns/shop/sa/web", State.WAITING, None, None, 3, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("status", "certificate", "expected"),
    [
        (
            WorkloadStatus(WEB, EnrolmentState.CAPTURED, "nftables", 50.0, addresses=("10.0.0.1",)),
            VALID,
            WorkloadReport(
                "web",
                "shop",
                "web",
                ready=True,
                identity=VALID.identity,
                addresses=("10.0.0.1",),
                capture="nftables",
                captured_since_s=50.0,
                certificate="valid",
                certificate_expires_s=200.0,
            ),
        ),
        (
            WorkloadStatus(WEB, EnrolmentState.CAPTURED, "nftables"),
            REFUSED,
            WorkloadReport(
                "web",
                "shop",
                "web",
                identity=VALID.identity,
                capture="nftables",
                certificate="waiting",
                problem="PERMISSION_DENIED",
            ),
        ),
        (
            WorkloadStatus(WEB, EnrolmentState.WAITING, "nftables", problem="no such namespace"),
            None,
            WorkloadReport("web", "shop", "web", identity=VALID.identity, capture="waiting", problem="no such namespace"),
        ),
    ],
)
def test_a_workload_is_ready_when_it_is_captured_and_has_a_valid_certificate(
    status: WorkloadStatus, certificate: IdentityState | None, expected: WorkloadReport
) -> None:
    assert node.workload(status, VALID.identity, certificate) == expected


class _Capture:
    name = "fake"

    def __init__(self, found: Inspection | OSError) -> None:
        self._found = found

    def apply(self, namespace: Namespace) -> None:
        raise AssertionError(namespace)

    drain = remove = apply

    def inspect(self, namespace: Namespace, _terms: Terms) -> Inspection:
        assert namespace.key == WEB.network
        if isinstance(self._found, OSError):
            raise self._found
        return self._found


def test_a_capture_is_reported_as_the_kernel_has_it() -> None:
    status = WorkloadStatus(WEB, EnrolmentState.CAPTURED, "nftables")
    there = Inspection(CaptureState.CAPTURED, {"leak": Counter(1, 60)})
    assert node.capture(status, node.inspect(_Capture(there), WEB), "switched off") == CaptureReport(
        "web", "shop", "web", WEB.netns, "nftables", "captured", prefilter="switched off", counters=(CounterReport("leak", 1, 60),)
    )
    failed = node.capture(status, node.inspect(_Capture(OSError("no permission")), WEB), "")
    assert (failed.state, failed.problem) == ("broken", "no permission")
    replaced = msgspec.structs.replace(WEB, network=None)
    assert node.capture(status, node.inspect(_Capture(there), replaced), "").state == "gone"
    missing = msgspec.structs.replace(WEB, netns="/nonexistent")
    assert node.capture(status, node.inspect(_Capture(there), missing), "").state == "broken"


def test_a_denial_names_who_and_why() -> None:
    fields: dict[str, Any] = {
        "src.addr": "10.0.0.1:4",
        "dst.addr": "10.0.0.9:80",
        "direction": "inbound",
        "error": "denied by a/b",
        "policy": "a/b",
        "flag": "UAEX",
    }
    assert node.denial(Record(5.0, fields)) == DenialReport(5.0, "inbound", "10.0.0.1:4", "10.0.0.9:80", "denied by a/b", "UAEX", "a/b")
    assert node.denial(Record(5.0, {**fields, "src.identity": "spiffe://x"})).source == "spiffe://x"
    assert node.denial(Record(5.0, {"src.addr": "10.0.0.1:4"})).reason == "denied"


def test_roots_are_named_by_their_fingerprint() -> None:
    made = authority("root", time.time())
    (report,) = node.roots({"td": made.pem.decode(), "empty": ""})
    assert report.trust_domain == "td"
    assert len(report.fingerprint) == 64
    assert report.expires_s == made.certificate.not_valid_after_utc.timestamp()


def words(report: Any, *, runtime: str = "", kept: str | None = None, not_ready: str | None = None, probes: str = "") -> list[str]:
    return [problem.what for problem in node.problems(report, runtime=runtime, kept=kept, not_ready=not_ready, probes=probes)]


def test_nothing_is_wrong_with_a_good_node() -> None:
    assert words(samples.GOOD) == []


def test_each_thing_that_is_wrong_is_named() -> None:
    bad = msgspec.structs.replace(
        samples.BAD,
        proxy=ProxyReport(problem="exit code 1"),
        configuration=ConfigurationReport(rejected={"default/bad": "unknown action"}, missing_policies=("default/late",)),
    )
    assert words(bad, runtime="line 3", kept="disk full", not_ready="the proxy is not connected", probes="no cgroup") == [
        "not ready: the proxy is not connected",
        "the proxy does not run: exit code 1",
        "no connection to the controller: UNAVAILABLE: connection refused",
        "the list of workloads can't be used: line 3",
        "the kubelet's probes are not known: no cgroup",
        "the configuration can't be kept on disk: disk full",
        "default/bad could not be understood: unknown action",
        "policy default/late, which a workload here names, has not come",
        "default/api is not in the mesh: /run/netns/api: no such namespace [x]",
    ]


def test_a_workload_that_leaves_is_no_problem() -> None:
    leaving = msgspec.structs.replace(samples.BROKEN, capture="leaving")
    assert words(msgspec.structs.replace(samples.GOOD, workloads=(leaving,))) == []
