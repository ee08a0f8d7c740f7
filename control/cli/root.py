"""`meshctl root`: the roots that agents need before they can trust the controller, and their rotation."""

from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import asks_controller, output_option
from control.cli.output import emit, moment

NEXT = {
    "none": "one root, and nothing is under way; the next step makes a second one",
    "started": "a second root is trusted beside the first, which signs; the next step lets the second one sign",
    "activated": "the second root signs, the first one is trusted still; the next step ends that",
}


@click.group(invoke_without_command=True)
@click.pass_context
@asks_controller
def root(context: click.Context, client: AdminClient) -> None:
    """Print the root certificates (PEM), for the agents' --root-ca."""
    if context.invoked_subcommand is None:
        click.echo(client.call("GET", "/root")["pem"], nl=False)


@root.command()
@click.option("--status", "only_status", is_flag=True, help="Say how far it is, and do nothing.")
@click.option("--cancel", is_flag=True, help="Take the second root back, before it signs.")
@click.option("--force", is_flag=True, help="Do the next step although something should be waited for.")
@output_option
@asks_controller
def rotate(client: AdminClient, *, only_status: bool, cancel: bool, force: bool, output: str) -> None:
    """Do the next step of rolling over to another root: called three times, it is done.

    First a second root is trusted beside the one that signs. When all agents have it, the second one signs; the first one's key is
    destroyed then. When no certificate below the first one can be in use any more (30 days later), that is trusted no more. Forced
    earlier, workloads get new certificates at once, but an agent whose own certificate is below the first root must join again.
    """
    if sum((only_status, cancel, force)) > 1:
        raise click.UsageError("--status, --cancel and --force exclude each other")
    if only_status:
        found = client.call("GET", "/root/rotation")
    else:
        found = client.call("POST", "/root/rotation", body={"cancel": cancel, "force": force})
    if output != "table":
        emit(found, output, (), ())
        return
    click.echo(NEXT[found["phase"]])
    if found["waits"]:
        click.echo(f"wait before that: {found['waits']}")
    emit(found, output, ("ROOT (SHA-256)", "SUBJECT", "EXPIRES", "SIGNS"), [_row(one) for one in found["roots"]])


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return one["sha256"][:32], one["subject"], moment(one["expires_s"]), "yes" if one["signs"] else "no"
