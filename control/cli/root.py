"""`meshctl root`: the roots that agents need before they can trust the controller."""

import click

from control.admin.client import AdminClient
from control.cli.options import asks_controller


@click.command()
@asks_controller
def root(client: AdminClient) -> None:
    """Print the root certificates (PEM), for the agents' --root-ca."""
    click.echo(client.call("GET", "/root")["pem"], nl=False)
