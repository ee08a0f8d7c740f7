"""`nodeagent join`: makes a host outside of any cluster a member of the mesh."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from nodeagent.cli.client import EXIT_PROBLEM
from nodeagent.cli.run_dir import pass_run_dir

if TYPE_CHECKING:
    from meshapi.bundle import Bundle

DEFAULT_STATE: Final = Path("/var/lib/nodemesh")
state_option = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_STATE,
    show_default=True,
    envvar="NODEMESH_STATE_DIR",
    help="Where the machine keeps what it knows of the mesh.",
)


@click.command()
@click.argument("bundle_file", metavar="BUNDLE", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@state_option
@click.option("--start/--no-start", default=True, help="Enable and start the service, where systemd starts services.")
@click.option("--check-only", is_flag=True, help="Only tell whether the host can join: the bundle stays good.")
@pass_run_dir
def join(run_dir: Path, bundle_file: Path, state_dir: Path, *, start: bool, check_only: bool) -> None:
    """Joins the mesh with a bundle that `meshctl vm create` wrote.

    First the host is checked, and what is missing is told with how to mend it. A bundle works once: after that, delete it.
    """
    bundle = _read(bundle_file)
    if not _checked(bundle, run_dir, state_dir):
        click.echo("the machine has not joined: mend this, and try again; the bundle is still good", err=True)
        sys.exit(EXIT_PROBLEM)
    if check_only:
        return
    _obtain(bundle, state_dir)
    click.echo(f"{bundle.machine.name} has joined; {bundle_file} is spent, and can be deleted")
    _start(run_dir, state_dir, start=start)


def _read(file: Path) -> "Bundle":
    from meshapi.bundle import MAX_BYTES, BundleError, decode_bundle

    try:
        with file.open("rb") as stream:
            bundle = decode_bundle(stream.read(MAX_BYTES + 1))
        if file.stat().st_mode & 0o077:
            click.echo(f"note: others can read {file}: whoever has read it can join in this machine's place", err=True)
    except (BundleError, OSError) as error:
        raise click.ClickException(f"{file} {error}") from error
    return bundle


def _checked(bundle: "Bundle", run_dir: Path, state_dir: Path) -> bool:
    from nodeagent.cli.check import show
    from nodeagent.doctor.check import Outcome
    from nodeagent.vm.checks import joining_checks

    good = True
    for one in joining_checks(bundle, run_dir, state_dir):
        good = good and one.outcome is not Outcome.FAILED
        show(one)
    return good


def _obtain(bundle: "Bundle", state_dir: Path) -> None:
    import asyncio

    from nodeagent.identity.authority import AuthorityError
    from nodeagent.identity.certificate import CertificateError
    from nodeagent.vm.joining import join

    try:
        asyncio.run(join(bundle, state_dir))
    except AuthorityError as error:
        hint = "the bundle was used, has expired or was revoked, or its group is gone: make a new one with `meshctl vm create`"
        _fail(f"the controller gives no certificate: {error}", hint if "UNAUTHENTICATED" in str(error) or "DENIED" in str(error) else "")
    except (CertificateError, OSError) as error:
        _fail(f"what the controller gave can't be used or kept: {error}", "")


def _start(run_dir: Path, state_dir: Path, *, start: bool) -> None:
    from nodeagent.vm import service

    if not start or not service.there():
        options = "" if state_dir == DEFAULT_STATE else f" --state-dir={state_dir}"
        click.echo(f"start the agent with: nodeagent --run-dir={run_dir} run --runtime=vm{options}")
        return
    try:
        service.start()
    except service.ServiceError as error:
        _fail(f"{error}", f"see journalctl -u {service.UNIT}")
    click.echo(f"{service.UNIT} runs, and is started when the machine boots; `nodeagent status` shows what it does")


def _fail(what: str, mend: str) -> Any:
    click.echo(f"nodeagent join: {what}", err=True)
    if mend:
        click.echo(f"        -> {mend}", err=True)
    sys.exit(EXIT_PROBLEM)
