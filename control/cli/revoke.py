"""`meshctl revoke`: refuse all certificates of an identity that were issued until now."""

import click

from control.admin.client import AdminClient
from control.cli.options import asks_controller, output_option
from control.cli.output import emit, moment


@click.command()
@click.argument("identity", metavar="SPIFFE-ID", required=False)
@click.option("--list", "listing", is_flag=True, help="List the revocations in force.")
@click.option("--undo", is_flag=True, help="Accept the identity's older certificates again.")
@output_option
@asks_controller
def revoke(client: AdminClient, identity: str | None, *, listing: bool, undo: bool, output: str) -> None:
    """Refuse every certificate of SPIFFE-ID that was issued until now.

    Open connections that stand on one close within a second. A workload that still runs gets a new certificate by itself; the agent of a
    node (spiffe://DOMAIN/nodemesh/node/NODE) needs a new join token.
    """
    if listing:
        if identity or undo:
            raise click.UsageError("--list stands alone")
        revocations = client.call("GET", "/revocations")
        rows = [(one["identity"], moment(one["issued_before_s"])) for one in revocations]
        emit(revocations, output, ("IDENTITY", "ISSUED BEFORE"), rows)
        return
    if not identity:
        raise click.UsageError("name the SPIFFE-ID, or --list")
    if undo:
        client.call("DELETE", "/revocations", query={"identity": identity})
        click.echo(f"{identity} is no longer revoked")
    else:
        made = client.call("POST", "/revocations", body={"identity": identity})
        click.echo(f"certificates of {identity} issued before {moment(made['issued_before_s'])} are refused")
