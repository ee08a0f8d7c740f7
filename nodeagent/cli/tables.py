"""The reports as tables for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nodeagent.admin.reports import (
    CaptureReport,
    CertificatesReport,
    ConnectionReport,
    PolicyReport,
    RemoteWorkloadReport,
    ServiceReport,
    WorkloadReport,
)
from nodeagent.cli.words import ago, plural, printable, size, until


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table: no lines, cells as they are."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(escape(printable(cell)) for cell in row))
    return made


def draw(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], *, nothing: str) -> None:
    """Prints the rows, or says that there are none."""
    if rows:
        console.print(table(columns, rows))
    else:
        console.print(nothing)


def workloads(console: Console, reports: Sequence[WorkloadReport], now_s: float) -> None:
    rows = [
        [
            f"{report.namespace}/{report.name}",
            "yes" if report.ready else "NO",
            report.capture or "-",
            ago(report.captured_since_s, now_s) if report.captured_since_s is not None else "-",
            report.identity or "-",
            f"{report.certificate or '-'}{_expiry(report, now_s)}",
            ", ".join(report.addresses) or "-",
            report.problem or "",
        ]
        for report in reports
    ]
    columns = ("WORKLOAD", "READY", "CAPTURE", "SINCE", "IDENTITY", "CERTIFICATE", "ADDRESSES", "PROBLEM")
    draw(console, columns, rows, nothing="no workloads run on this node")


def _expiry(report: WorkloadReport, now_s: float) -> str:
    return "" if report.certificate_expires_s is None else f", expires {until(report.certificate_expires_s, now_s)}"


def remote_workloads(console: Console, reports: Sequence[RemoteWorkloadReport]) -> None:
    rows = [
        [
            f"{report.namespace}/{report.name}",
            report.node or "-",
            report.tunnel,
            report.health,
            report.identity,
            ", ".join(report.addresses) or "-",
            ", ".join(report.policies) or "-",
        ]
        for report in reports
    ]
    draw(console, ("WORKLOAD", "NODE", "TUNNEL", "HEALTH", "IDENTITY", "ADDRESSES", "POLICIES"), rows, nothing="no workloads are known")


def services(console: Console, reports: Sequence[ServiceReport]) -> None:
    rows = [
        [
            f"{report.namespace}/{report.hostname}",
            ", ".join(report.addresses) or "headless",
            ", ".join(report.ports) or "-",
            f"{report.healthy_endpoints} of {report.endpoints}",
            report.balancing or "-",
            report.waypoint or "-",
        ]
        for report in reports
    ]
    draw(console, ("SERVICE", "ADDRESSES", "PORTS", "HEALTHY", "BALANCING", "WAYPOINT"), rows, nothing="no services are known")


def policies(console: Console, reports: Sequence[PolicyReport]) -> None:
    rows = [
        [
            f"{report.namespace}/{report.name}",
            report.scope,
            report.action + (" (dry run)" if report.dry_run else ""),
            str(report.rules),
            ", ".join(report.workloads) or "-",
            f"NOT UNDERSTOOD: {report.error}" if report.error else "accepted",
        ]
        for report in reports
    ]
    draw(console, ("POLICY", "SCOPE", "ACTION", "RULES", "WORKLOADS HERE", "STATE"), rows, nothing="no policies are known")


def certificates(console: Console, report: CertificatesReport) -> None:
    rows = [
        [
            entry.identity,
            entry.state,
            until(entry.expires_s, report.now_s),
            until(entry.renew_s, report.now_s),
            f"{entry.error} ({plural(entry.failures, 'failure')})" if entry.error else "",
        ]
        for entry in report.certificates
    ]
    draw(console, ("IDENTITY", "STATE", "EXPIRES", "RENEWED", "LAST ERROR"), rows, nothing="no certificates")
    roots = [[root.trust_domain, root.fingerprint, until(root.expires_s, report.now_s)] for root in report.roots]
    console.print()
    draw(console, ("TRUST DOMAIN", "ROOT (SHA-256)", "EXPIRES"), roots, nothing="no roots: nobody is trusted")
    console.print(f"\nin force: {plural(report.revocations, 'revocation')}")


def connections(console: Console, reports: Sequence[ConnectionReport], now_s: float) -> None:
    rows = [
        [
            report.direction,
            report.source + (f" ({report.source_identity})" if report.source_identity else ""),
            _process(report),
            report.destination + (f" ({report.destination_identity})" if report.destination_identity else ""),
            report.via + (f" {report.hbone_address}" if report.hbone_address else ""),
            ago(report.opened_s, now_s),
            size(report.sent_bytes),
            size(report.received_bytes),
            f"{report.rtt_s * 1000:.1f} ms" if report.rtt_s is not None else "-",
        ]
        for report in reports
    ]
    columns = ("DIRECTION", "SOURCE", "PROCESS", "DESTINATION", "VIA", "OPENED", "SENT", "RECEIVED", "RTT")
    draw(console, columns, rows, nothing="no open connections")


def _process(report: ConnectionReport) -> str:
    if report.pid is not None:
        return f"{report.executable or report.command} ({report.pid})"
    return "unknown" if report.direction == "outbound" else "-"


def captures(console: Console, reports: Sequence[CaptureReport]) -> None:
    for report in reports:
        problem = f": {report.problem}" if report.problem else ""
        console.print(
            escape(printable(f"{report.namespace}/{report.name}  {report.way or '-'}  {report.state}{problem}  ({report.netns})")),
            style="bold",
        )
        if report.prefilter:
            console.print(escape(printable(f"  at the SYN: {report.prefilter}")))
        rows = [[f"  {counter.rule}", str(counter.packets), size(counter.bytes)] for counter in report.counters]
        draw(console, ("  RULE", "PACKETS", "BYTES"), rows, nothing="  no rules")
    if not reports:
        console.print("no workloads run on this node")
