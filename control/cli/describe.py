"""`meshctl describe`: what holds for a service, and in what order."""

from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import asks_controller, output_option
from control.cli.output import emit

TITLES = {
    "owner": "made by",
    "addresses": "addresses",
    "ports": "ports",
    "endpoints": "endpoints",
    "mutual_tls": "mutual TLS",
    "agent_policies": "on its nodes",
    "waypoint": "waypoint",
    "gateways": "gateways",
    "exposed": "from outside",
    "tokens": "tokens",
    "policies": "policies there",
    "limits": "limits",
    "extensions": "extensions",
    "routing": "routing",
    "routes": "routes",
    "rules": "rules",
    "calling": "endpoints are",
    "subsets": "subsets",
    "problems": "in vain",
}


@click.command()
@click.argument("service")
@click.option("-n", "--namespace", default="", help="Of the service; `default` for a name without a dot.")
@output_option
@asks_controller
def describe(client: AdminClient, service: str, namespace: str, output: str) -> None:
    """Show what applies to SERVICE (a name or a host), in the order in which it does."""
    found = client.call("GET", "/describe", query={"name": service, "namespace": namespace})
    if output != "table":
        emit(found, output, (), [])
        return
    for index, one in enumerate(found):
        click.echo(("\n" if index else "") + one["service"])
        for field, title in TITLES.items():
            for at, line in enumerate(_lines(one[field])):
                click.echo(f"  {title if at == 0 else '':<15} {line}")


def _lines(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
