"""`meshctl get`: the objects that the running controller holds, with their status."""

import sys
from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import EXIT_PROBLEM, asks_controller, output_option
from control.cli.output import emit


@click.command()
@click.argument("kind", default="")
@click.argument("name", default="")
@click.option("-n", "--namespace", default="", help="Only this namespace; without it, all.")
@output_option
@asks_controller
def get(client: AdminClient, kind: str, name: str, namespace: str, output: str) -> None:
    """Show objects and whether they were accepted; `-o yaml` has the details under status. Exit code 1 if any was refused."""
    listing = client.call("GET", "/objects", query={"kind": kind, "namespace": namespace, "name": name})
    manifests = [one["manifest"] for one in listing["objects"]]
    rows = [_row(one) for one in listing["objects"]]
    data: Any = manifests[0] if name and len(manifests) == 1 else manifests
    emit(data, output, ("KIND", "NAMESPACE", "NAME", "ACCEPTED", "BOUND", "SOURCE", "MESSAGE"), rows)
    for finding in listing["files"]:
        click.echo(finding, err=True)
    if listing["files"] or not all(one["accepted"] for one in listing["objects"]):
        sys.exit(EXIT_PROBLEM)


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    accepted = "yes" if one["accepted"] else "no"
    bound = "-" if one["bound"] is None else str(one["bound"])
    return one["kind"], one["namespace"] or "-", one["name"], accepted, bound, one["source"], one["summary"]
