"""`nodeagent leave`: undoes `nodeagent join`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from nodeagent.cli.client import EXIT_PROBLEM, fetch, runs, wait_for_end
from nodeagent.cli.down import END_DEADLINE_S
from nodeagent.cli.join import state_option
from nodeagent.cli.run_dir import pass_run_dir

if TYPE_CHECKING:
    from nodeagent.vm.membership import Membership

ALONE_S: Final = 60.0
"""Then an agent that is still there listens to the controller again: the machine did not leave after all."""
SPREADS_S: Final = 1.0
"""A change reaches all nodes within it."""


@click.command()
@state_option
@click.option(
    "--drain", "drain_s", type=click.FloatRange(0, 3600), default=30.0, show_default=True, help="Seconds for connections to finish."
)
@click.option("--force", is_flag=True, help="Leave also if the controller can't be told: it forgets the machine by itself, later.")
@pass_run_dir
def leave(run_dir: Path, state_dir: Path, drain_s: float, *, force: bool) -> None:
    """Takes the machine out of the mesh for good.

    Its applications go on outside of it, the agent ends and is not started again, the controller forgets the machine, and what is kept of
    it here is deleted. To come back, it needs a new bundle.
    """
    from nodeagent.vm import service
    from nodeagent.vm.membership import NotJoinedError, load

    try:
        membership = load(state_dir)
    except NotJoinedError as error:
        raise click.ClickException(str(error)) from error
    # As long as others take it for a member they send it what it could no longer take in: so they are told first, while the agent goes on
    # as if nothing had been said. But where the host is captured and nobody decides, nothing gets through, to the controller neither.
    told = runs(run_dir)
    if told:
        _tell(membership, state_dir, force=force, connected=lambda: fetch(run_dir, "/alone", float, method="POST", for_s=ALONE_S))
        time.sleep(SPREADS_S)
    _release(run_dir, state_dir, drain_s)
    if not told:
        _tell(membership, state_dir, force=force)
    if service.there():
        try:
            service.stop()
        except service.ServiceError as error:
            click.echo(f"note: {error}", err=True)
    _forget(state_dir)
    click.echo(f"{membership.machine.name} has left the mesh")


def _release(run_dir: Path, state_dir: Path, drain_s: float) -> None:
    """By the agent that runs; else by one that runs for as long as it takes, if there is anything to release."""
    if runs(run_dir):
        for name in fetch(run_dir, "/down", list[str], method="POST", timeout_s=drain_s + 60, drain_s=drain_s):
            click.echo(f"{name} is released")
        wait_for_end(run_dir, timeout_s=END_DEADLINE_S)
        return
    from nodeagent.enrolment import records
    from nodeagent.state.files import StateDirectory

    if not records.load(StateDirectory(state_dir)):
        return
    import asyncio

    from nodeagent.cli.run import joined_config
    from nodeagent.vm.releasing import release

    for name in asyncio.run(release(joined_config(run_dir, state_dir))):
        click.echo(f"{name} is released")


def _tell(membership: "Membership", state_dir: Path, *, force: bool, connected: Callable[[], object] = lambda: None) -> None:
    """`connected` is called once the controller is there: this process is captured, too, so that the agent had to find the way to it."""
    import asyncio

    from nodeagent.identity.certificate import CertificateError
    from nodeagent.vm.joining import leave

    try:
        asyncio.run(leave(membership, state_dir, connected))
    except (PermissionError, FileNotFoundError, CertificateError) as error:
        # It can't come back with what it has, and its registration ends by itself: there is nobody to be told anything.
        click.echo(f"note: the controller does not know this machine any more: {error}", err=True)
    except OSError as error:
        click.echo(f"nodeagent leave: the controller could not be told: {error}", err=True)
        if not force:
            click.echo("        -> try again when it can be reached; --force leaves without it", err=True)
            sys.exit(EXIT_PROBLEM)


def _forget(state_dir: Path) -> None:
    """All but the directory itself, which may be a mount or the service manager's."""
    for file in state_dir.iterdir():
        if file.is_file() and not file.is_symlink():
            file.unlink()
