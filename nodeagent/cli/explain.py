"""`nodeagent explain`: how a call would go."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodeagent.cli.client import EXIT_PROBLEM, fetch
from nodeagent.cli.output import emit, output_option
from nodeagent.cli.run_dir import pass_run_dir
from nodeagent.cli.words import printable

if TYPE_CHECKING:
    from rich.console import Console


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option("--no-exit-code", is_flag=True, help="Exit code 0 also where the call is denied or can't be explained.")
@output_option
@pass_run_dir
def explain(run_dir: Path, source: str, destination: str, output: str, *, no_exit_code: bool) -> None:
    """How a call of SOURCE to DESTINATION[:PORT] would go, from what this agent knows now.

    SOURCE is namespace/pod, a workload's uid or an address, or the word kubelet, for a probe. DESTINATION is an address,
    namespace/pod, or a service's name as its callers write it. Exit code 1 if the call is denied or can't be explained.
    """
    from nodeagent.resolve.explanation import Explanation, Outcome, Step

    report = fetch(run_dir, "/explain", Explanation, source=source, destination=destination)

    def draw(console: "Console") -> None:
        for step in (*report.steps, Step("outcome", report.outcome.value.upper())):
            console.print(printable(f"{step.what + ':':<13}{step.text}"), markup=False, soft_wrap=True)

    emit(report, output, draw)
    if report.outcome not in {Outcome.ALLOWED, Outcome.OUTSIDE} and not no_exit_code:
        sys.exit(EXIT_PROBLEM)
