"""`nodeagent check`: a doctor's round over the host and the agent that runs on it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodeagent.cli.client import EXIT_PROBLEM, fetch, runs
from nodeagent.cli.output import Format, emit, output_option
from nodeagent.cli.run_dir import pass_run_dir

if TYPE_CHECKING:
    from nodeagent.doctor.check import Check

_MARKS = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "failed": ("FAILED ", "red")}


@click.command()
@output_option
@pass_run_dir
def check(run_dir: Path, output: str) -> None:
    """Check the host, and the agent if it runs: what is wrong, and what to do about it.

    Captures are tried in network namespaces that are made for it and go again. Exit code 1 if a check failed.
    """
    from nodeagent.doctor.check import Outcome

    found = []
    for one in checks(run_dir):
        found.append(one)
        if output == Format.TABLE:
            show(one)
    if output != Format.TABLE:
        emit(found, output, lambda _console: None)
    if any(one.outcome is Outcome.FAILED for one in found):
        sys.exit(EXIT_PROBLEM)


def show(one: "Check") -> None:
    """A line for a check, and one for what to do."""
    from nodeagent.cli.words import printable
    from nodeagent.doctor.check import Outcome

    mark, colour = {Outcome.OK: ("ok     ", "green"), Outcome.WARNING: ("warning", "yellow"), Outcome.FAILED: ("FAILED ", "red")}[
        one.outcome
    ]
    bad = one.outcome is not Outcome.OK
    click.echo(f"{click.style(mark, fg=colour)} {printable(f'{one.subject}: {one.what}')}", err=bad and not sys.stdout.isatty())
    if one.mend:
        click.echo(f"        -> {printable(one.mend)}", err=bad and not sys.stdout.isatty())


def checks(run_dir: Path) -> "Iterator[Check]":
    """Each check as it is made."""
    from nodeagent.admin.reports import CertificatesReport, StatusReport
    from nodeagent.doctor.agent import agent_checks
    from nodeagent.doctor.check import warning
    from nodeagent.doctor.host import host_checks

    yield from host_checks()
    if not runs(run_dir):
        yield warning("agent", f"none runs with the run directory {run_dir}", "start it, or say where its sockets are: --run-dir")
        return
    status = fetch(run_dir, "/status", StatusReport)
    certificates = fetch(run_dir, "/certs", CertificatesReport)
    yield from agent_checks(status, certificates, run_dir, None)
