"""`nodeagent status` on one screen: what is wrong first, then who is connected, what is captured, and what was denied."""

from rich.console import Console
from rich.markup import escape

from nodeagent.admin.reports import StatusReport
from nodeagent.cli import tables
from nodeagent.cli.words import ago, duration, plural, printable, size

SHOWN_DENIALS = 5
SHOWN_WORKLOADS = 8
"""A screen has 24 lines; those that are not well come first."""


def status(console: Console, report: StatusReport) -> None:
    """Draws the report."""
    now_s = report.now_s
    state = "ready" if report.ready else "NOT READY"
    running = duration(now_s - report.started_s)
    console.print(f"[bold]node {_plain(report.node)}: {state}[/bold], running for {running}, version {report.version}")
    for problem in report.problems:
        console.print(_plain(f"  problem: {problem.what}"), style="red")
        if problem.hint:
            console.print(_plain(f"           {problem.hint}"))
    console.print(_plain(f"controller     {_controller(report)}"))
    console.print(_plain(f"configuration  {_configuration(report)}"))
    console.print(_plain(f"proxy          {_proxy(report)}"))
    console.print(_plain(f"capture        {report.capture}: {report.capture_reason}"))
    console.print(_plain(f"probes         {report.probes}"))
    if report.tcp_telemetry:
        console.print(_plain(f"tcp telemetry  off: {report.tcp_telemetry}"))
    if report.prefilter:
        console.print(_plain(f"at the SYN     {report.prefilter}"))
    if report.dns:
        console.print(_plain(f"DNS            {report.dns}"))
    console.print()
    _workloads(console, report)
    _denials(console, report)


def _workloads(console: Console, report: StatusReport) -> None:
    ordered = sorted(report.workloads, key=lambda one: one.ready)
    shown = ordered[:SHOWN_WORKLOADS]
    tables.workloads(console, shown, report.now_s)
    if len(ordered) > len(shown):
        console.print(_plain(f"and {len(ordered) - len(shown)} more, all of them: nodeagent workloads"))


def _plain(text: str) -> str:
    return escape(printable(text))


def _controller(report: StatusReport) -> str:
    controller = report.controller
    if controller.connected:
        last = ago(controller.last_response_s, report.now_s)
        return f"connected to {controller.target} for {_since(controller.since_s, report)}, last word from it {last}"
    return f"NOT CONNECTED to {controller.target or 'anything yet'}: {controller.error or 'not tried yet'}"


def _since(at_s: float | None, report: StatusReport) -> str:
    return duration(report.now_s - (report.now_s if at_s is None else at_s))


def _configuration(report: StatusReport) -> str:
    known = report.configuration
    source = "confirmed by the controller" if known.current else "kept on this node from before, not confirmed yet"
    numbers = (known.workloads, "workload"), (known.services, "service"), (known.policies, "policy"), (known.subscriptions, "subscription")
    counts = ", ".join(plural(number, noun) for number, noun in numbers)
    return f"{counts}; {source}" + (f"; {plural(len(known.rejected), 'resource')} not understood" if known.rejected else "")


def _proxy(report: StatusReport) -> str:
    proxy = report.proxy
    if proxy.pid is None:
        return f"NOT RUNNING: {proxy.problem or 'not started yet'}"
    words = f"process {proxy.pid}, " + (f"connected for {_since(proxy.since_s, report)}" if proxy.connected else "NOT CONNECTED")
    if proxy.connections is not None:
        words += f", {plural(proxy.connections, 'connection')}, tunnels: {proxy.tunnels_in} in, {proxy.tunnels_out} out"
    if proxy.resident_bytes is not None:
        words += f", {size(proxy.resident_bytes)}"
    if proxy.draining:
        words += f", {plural(len(proxy.draining), 'former one')} draining: {', '.join(map(str, proxy.draining))}"
    return words + (f", turned away: {', '.join(f'{count} {why}' for why, count in sorted(proxy.shed.items()))}" if proxy.shed else "")


def _denials(console: Console, report: StatusReport) -> None:
    if not report.denials:
        console.print("\nno connection was denied lately")
        return
    latest = sorted(report.denials, key=lambda denial: denial.at_s, reverse=True)[:SHOWN_DENIALS]
    rows = [[ago(denial.at_s, report.now_s), denial.direction, denial.source, denial.destination, denial.reason] for denial in latest]
    console.print()
    console.print(tables.table(("DENIED", "DIRECTION", "SOURCE", "DESTINATION", "WHY"), rows))
