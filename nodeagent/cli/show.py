"""The commands that show a report of the running agent."""

import sys
import time
from typing import TYPE_CHECKING

import click

from nodeagent.cli.client import EXIT_PROBLEM, fetch, stream
from nodeagent.cli.output import emit, output_option
from nodeagent.cli.run_dir import pass_run_dir

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@output_option
@pass_run_dir
def status(run_dir: "Path", output: str) -> None:
    """Is all well on this node? Exit code 1 if the agent is not ready or something is wrong."""
    from nodeagent.admin.reports import StatusReport
    from nodeagent.cli.status_view import status as draw

    report = fetch(run_dir, "/status", StatusReport)
    emit(report, output, lambda console: draw(console, report))
    if report.problems or not report.ready:
        sys.exit(EXIT_PROBLEM)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also the workloads of other nodes that this agent knows.")
@output_option
@pass_run_dir
def workloads(run_dir: "Path", output: str, *, everything: bool) -> None:
    """The workloads of this node: captured how, as whom, since when."""
    from nodeagent.admin.reports import RemoteWorkloadReport, WorkloadReport
    from nodeagent.cli import tables

    if everything:
        known = fetch(run_dir, "/workloads/all", list[RemoteWorkloadReport])
        emit(known, output, lambda console: tables.remote_workloads(console, known))
    else:
        local = fetch(run_dir, "/workloads", list[WorkloadReport])
        emit(local, output, lambda console: tables.workloads(console, local, time.time()))


@click.command()
@output_option
@pass_run_dir
def services(run_dir: "Path", output: str) -> None:
    """The services that this agent knows, with their endpoints."""
    from nodeagent.admin.reports import ServiceReport
    from nodeagent.cli import tables

    reports = fetch(run_dir, "/services", list[ServiceReport])
    emit(reports, output, lambda console: tables.services(console, reports))


@click.command()
@output_option
@pass_run_dir
def policies(run_dir: "Path", output: str) -> None:
    """The authorization policies, and for which workloads of this node they hold."""
    from nodeagent.admin.reports import PolicyReport
    from nodeagent.cli import tables

    reports = fetch(run_dir, "/policies", list[PolicyReport])
    emit(reports, output, lambda console: tables.policies(console, reports))


@click.command()
@output_option
@pass_run_dir
def certs(run_dir: "Path", output: str) -> None:
    """The certificates of this node's workloads, and the roots that are trusted."""
    from nodeagent.admin.reports import CertificatesReport
    from nodeagent.cli import tables

    report = fetch(run_dir, "/certs", CertificatesReport)
    emit(report, output, lambda console: tables.certificates(console, report))


@click.command()
@output_option
@pass_run_dir
def connections(run_dir: "Path", output: str) -> None:
    """The connections that are open now."""
    from nodeagent.admin.reports import ConnectionReport
    from nodeagent.cli import tables

    reports = fetch(run_dir, "/connections", list[ConnectionReport])
    emit(reports, output, lambda console: tables.connections(console, reports, time.time()))


@click.command()
@output_option
@pass_run_dir
def capture(run_dir: "Path", output: str) -> None:
    """What is programmed in the workloads' network namespaces, as the kernel says, with its counters."""
    from nodeagent.admin.reports import CaptureReport
    from nodeagent.cli import tables

    reports = fetch(run_dir, "/capture", list[CaptureReport])
    emit(reports, output, lambda console: tables.captures(console, reports))


@click.command()
@click.option("-n", "--lines", "count", type=click.IntRange(0, 10000), default=100, show_default=True, help="How many of the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until interrupted.")
@pass_run_dir
def logs(run_dir: "Path", count: int, *, follow: bool) -> None:
    """The access log: the last connections that ended."""
    for line in stream(run_dir, "/logs", count=count, follow=1 if follow else None):
        click.echo(line)
