"""`nodeagent bug-report`: an archive for whoever is to find out what is wrong."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodeagent.cli.client import fetch_text, runs
from nodeagent.cli.run_dir import pass_run_dir

if TYPE_CHECKING:
    from nodeagent.doctor.report import Item

REPORTS = ("status", "workloads", "workloads/all", "services", "policies", "certs", "connections", "capture")


@click.command("bug-report")
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.",
)
@pass_run_dir
def bug_report(run_dir: Path, target: Path | None) -> None:
    """Write an archive (.tar.gz, readable by its owner alone) with what helps to find a fault.

    State of agent and host, metrics, logs and rules; private keys, tokens and passwords are left out. Look into it
    before you send it: it has names and addresses of your mesh.
    """
    from nodeagent.doctor.report import host_items, write

    file = target or Path(f"nodemesh-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz")

    def told(name: str) -> None:
        click.echo(f"  {name}", err=True)

    def items() -> "Iterator[Item]":
        yield from _agent_items(run_dir)
        yield from host_items()

    try:
        missing = write(file, items(), told)
    except FileExistsError as error:
        raise click.ClickException(f"{file} is there already") from error
    click.echo(f"{file} ({file.stat().st_size} bytes)" + (f"; {missing} items could not be had, and say why" if missing else ""))


def _agent_items(run_dir: Path) -> "Iterator[Item]":
    from importlib.metadata import version

    from nodeagent.doctor.report import Item

    yield Item("version.txt", lambda: f"nodemesh {version('nodemesh')}\n")
    yield _asked("agent/check.txt", lambda: _checked(run_dir))
    if not runs(run_dir):
        yield Item("agent/status.json", lambda: _absent(run_dir))
        return
    for name in REPORTS:
        yield _asked(f"agent/{name}.json", lambda name=name: fetch_text(run_dir, f"/{name}"))  # type: ignore[misc]
    yield _asked("agent/metrics.txt", lambda: fetch_text(run_dir, "/metrics"))
    yield _asked("agent/connections.log", lambda: fetch_text(run_dir, "/logs?count=5000"))


def _asked(name: str, ask: Callable[[], str]) -> "Item":
    """What a command would end over is here an item that could not be had."""
    from nodeagent.doctor.report import Item

    def read() -> str:
        try:
            return ask()
        except SystemExit as end:
            raise OSError("the agent does not answer this") from end

    return Item(name, read)


def _absent(run_dir: Path) -> str:
    raise FileNotFoundError(f"no agent runs with the run directory {run_dir}")


def _checked(run_dir: Path) -> str:
    from nodeagent.cli.check import checks

    return "".join(f"{one.outcome}: {one.subject}: {one.what}{f' -> {one.mend}' if one.mend else ''}\n" for one in checks(run_dir))
