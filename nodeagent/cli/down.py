"""`nodeagent down`: takes the node out of the mesh."""

from pathlib import Path
from typing import Final

import click

from nodeagent.cli.client import fetch, wait_for_end
from nodeagent.cli.run_dir import pass_run_dir

END_DEADLINE_S: Final = 15.0


@click.command()
@click.option(
    "--drain", "drain_s", type=click.FloatRange(0, 3600), default=30.0, show_default=True, help="Seconds for connections to finish."
)
@pass_run_dir
def down(run_dir: Path, drain_s: float) -> None:
    """Drains, removes every capture, stops the proxy, and ends the agent. The workloads go on outside the mesh."""
    released = fetch(run_dir, "/down", list[str], method="POST", timeout_s=drain_s + 60, drain_s=drain_s)
    for name in released:
        click.echo(f"{name} is released")
    wait_for_end(run_dir, timeout_s=END_DEADLINE_S)
    click.echo("the proxy and the agent have ended")
