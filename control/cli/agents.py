"""`meshctl agents` and `meshctl status`: which nodes are connected and how far they are, and how the controller is."""

import sys
from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import EXIT_PROBLEM, asks_controller, output_option
from control.cli.output import emit, moment


@click.command()
@output_option
@asks_controller
def agents(client: AdminClient, output: str) -> None:
    """List the connected agents: since when, what they hold, what they refused."""
    connected = client.call("GET", "/agents")
    rows = [_row(agent, one) for agent in connected for one in agent["types"] or [None]]
    emit(connected, output, ("NODE", "SINCE", "TYPE", "HOLDS", "STATE", "ACKED", "REFUSED"), rows)


@click.command()
@output_option
@asks_controller
def status(client: AdminClient, output: str) -> None:
    """Say how the controller is; exit code 1 if something is wrong."""
    found = client.call("GET", "/status")
    rows = [
        ("ready", "yes" if found["ready"] else "no: the configuration is not read yet"),
        ("trust domain", found["trust_domain"]),
        ("agents connected", str(found["agents"])),
        ("roots", str(found["roots"])),
        ("issuer expires", moment(found["issuer_expires_s"])),
        ("authority files", found["authority_error"] or "in force"),
        ("signs with", f"the given key: {direct}" if (direct := found["signs_directly_because"]) else "an intermediate of its own"),
    ]
    emit(found, output, ("CONTROLLER", ""), rows)
    if not found["ready"] or found["authority_error"]:
        sys.exit(EXIT_PROBLEM)


def _row(agent: dict[str, Any], one: dict[str, Any] | None) -> tuple[str, ...]:
    start = (agent["node"], moment(agent["since_s"]))
    if one is None:
        return (*start, "-", "-", "asked nothing yet", "-", "-")
    refused = f"{moment(one['last_nack']['at_s'])} {one['last_nack']['message']}" if one["last_nack"] else "-"
    kind = one["type_url"].rpartition("/")[2]
    return (*start, kind, str(one["held"]), "behind" if one["pending"] else "current", moment(one["acked_s"]), refused)
