"""Reports of this node from the parts of the agent: what each part says, put side by side, and what is wrong."""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodeagent.admin.reports import (
    CaptureReport,
    CertificateReport,
    ConnectionReport,
    CounterReport,
    DenialReport,
    Problem,
    RootReport,
    StatusReport,
    WorkloadReport,
)
from nodeagent.capture.base import Capture, CaptureState, Inspection
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.identity.schedule import IdentityState, State
from nodeagent.runtime.base import LocalWorkload
from nodeagent.telemetry.kernel.sighting import Sighting
from nodeagent.telemetry.records import Record
from nodeagent.ztunnel.protocol import ConnectionEntry


def workload(status: WorkloadStatus, identity: str | None, certificate: IdentityState | None) -> WorkloadReport:
    """A workload of this node: enrolment's word on it and its certificate's."""
    valid = certificate is not None and certificate.state is State.VALID
    captured = status.state is EnrolmentState.CAPTURED
    error = certificate.error if certificate is not None and not valid else None
    return WorkloadReport(
        name=status.workload.name,
        namespace=status.workload.namespace,
        uid=status.workload.uid,
        ready=captured and valid,
        identity=identity or "",
        addresses=status.addresses,
        capture=status.capture if captured else status.state.value,
        captured_since_s=status.captured_since_s,
        certificate="" if certificate is None else certificate.state.value,
        certificate_expires_s=None if certificate is None else certificate.not_after_s,
        problem=status.problem or error or None,
    )


def inspect(way: Capture, workload: LocalWorkload) -> Inspection | None:
    """What the kernel says of a workload's namespace now; None if it is gone. Blocks."""
    try:
        with workload.open() as namespace:
            return way.inspect(namespace, workload.terms) if namespace.key == workload.network else None
    except OSError as error:
        return Inspection(CaptureState.BROKEN, problem=str(error))


def capture(status: WorkloadStatus, found: Inspection | None, prefilter: str) -> CaptureReport:
    """What is in force in its namespace, and how far enrolment is with it."""
    return CaptureReport(
        name=status.workload.name,
        namespace=status.workload.namespace,
        uid=status.workload.uid,
        netns=status.workload.netns,
        way=status.capture,
        state="gone" if found is None else found.state.value,
        problem=status.problem or (found.problem if found is not None else "its network namespace is gone"),
        prefilter=prefilter,
        counters=tuple(CounterReport(rule, counter.packets, counter.bytes) for rule, counter in (found.counters if found else {}).items()),
    )


def certificate(state: IdentityState) -> CertificateReport:
    return CertificateReport(state.identity, state.state.value, state.not_after_s, state.renew_at_s, state.failures, state.error)


def roots(pem_by_domain: Mapping[str, str]) -> tuple[RootReport, ...]:
    """The roots of every trust domain."""
    return tuple(
        RootReport(domain, sha256(root.public_bytes(Encoding.DER)).hexdigest(), root.not_valid_after_utc.timestamp())
        for domain, pem in sorted(pem_by_domain.items())
        for root in (x509.load_pem_x509_certificates(pem.encode()) if pem else [])
    )


def connection(entry: ConnectionEntry, sighting: Sighting) -> ConnectionReport:
    process, figures = sighting
    return ConnectionReport(
        workload=entry.workload,
        direction=entry.direction.value,
        via=entry.via.value,
        source=entry.source,
        destination=entry.destination,
        source_identity=entry.source_identity,
        destination_identity=entry.destination_identity,
        hbone_address=entry.hbone_address,
        opened_s=entry.opened_s,
        sent_bytes=entry.sent_bytes,
        received_bytes=entry.received_bytes,
        pid=process.pid if process else None,
        executable=process.executable if process else None,
        command=process.command if process else None,
        connect_s=figures.connect_s if figures else None,
        rtt_s=figures.rtt_s if figures else None,
        retransmits=figures.retransmits if figures else None,
    )


def denial(record: Record) -> DenialReport:
    """A denied connection as the access log has it."""
    fields = {name: str(value) for name, value in record.fields.items()}
    return DenialReport(
        at_s=record.at_s,
        direction=fields.get("direction", ""),
        source=fields.get("src.identity") or fields.get("src.addr", ""),
        destination=fields.get("dst.addr", ""),
        reason=fields.get("error") or fields.get("policy") or "denied",
        flag=fields.get("flag", ""),
        policy=fields.get("policy"),
    )


def problems(
    report: StatusReport, *, runtime: str, kept: str | None, not_ready: str | None, installed: str = "", probes: str = ""
) -> tuple[Problem, ...]:
    """What is wrong, the worst first, each with what to do."""
    found = [Problem(f"not ready: {not_ready}")] if not_ready is not None else []
    if report.proxy.pid is None:
        found.append(
            Problem(f"the proxy does not run: {report.proxy.problem}", "it is started again; its log is proxy.log in the run directory")
        )
    controller = report.controller
    if not controller.connected:
        hint = "what is known stays in force; check --controller, --root-ca and the network"
        found.append(Problem(f"no connection to the controller: {controller.error or 'not tried yet'}", hint))
    if runtime:
        found.append(Problem(f"the list of workloads can't be used: {runtime}", "the last good list stays in force until it is corrected"))
    if installed:
        found.append(Problem(installed, "pods are captured once they run, not before"))
    if probes:
        hint = "in STRICT they fail: name its cgroup by --kubelet-cgroup, or see --probes-from-node"
        found.append(Problem(f"the kubelet's probes are not known: {probes}", hint))
    if kept is not None:
        found.append(Problem(f"the configuration can't be kept on disk: {kept}", "a restart without the controller would miss the latest"))
    found += [Problem(f"{name} could not be understood: {error}", _rejected_hint) for name, error in report.configuration.rejected.items()]
    found += [
        Problem(f"policy {key}, which a workload here names, has not come", _missing_hint) for key in report.configuration.missing_policies
    ]
    found += _workload_problems(report.workloads)
    return tuple(found)


_missing_hint = "who connects to that workload is denied until it comes"
_rejected_hint = "its last good form stays in force; a policy that has none denies where it may hold"


_CONSEQUENCES = {"closed": "its connections are refused", "open": "its connections pass by the mesh, as its annotation has it"}


def _workload_problems(workloads: Sequence[WorkloadReport]) -> list[Problem]:
    return [
        Problem(
            f"{report.namespace}/{report.name} is not in the mesh: {report.problem or report.capture}",
            _CONSEQUENCES.get(report.capture, ""),
        )
        for report in workloads
        if not report.ready and report.capture != EnrolmentState.LEAVING
    ]
