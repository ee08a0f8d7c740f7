"""`meshctl agents` and `meshctl status`: which nodes are connected and how far they are, and how the controller is."""

import sys
from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import EXIT_PROBLEM, asks_controller, output_option
from control.cli.output import emit, moment


@click.command()
@click.option("--types", is_flag=True, help="Of each connected agent, every type of resource: what it holds, what it refused.")
@output_option
@asks_controller
def agents(client: AdminClient, output: str, *, types: bool) -> None:
    """List the nodes and machines: what runs there, and whether their agents are connected and up to date.

    Exit code 1 if an agent is missing where something is captured, or refused something. Of several controllers, each knows its own agents.
    """
    if types:
        connected = client.call("GET", "/agents")
        rows = [_row(agent, one) for agent in connected for one in agent["types"] or [None]]
        emit(connected, output, ("NODE", "SINCE", "TYPE", "HOLDS", "STATE", "ACKED", "REFUSED"), rows)
        return
    nodes = client.call("GET", "/nodes")
    emit(
        nodes,
        output,
        ("NODE", "AGENT", "SINCE", "WORKLOADS", "CAPTURED", "UNHEALTHY", "LAST ACK", "REFUSED"),
        [_node(one) for one in nodes],
    )
    if any(one["refused"] or (one["captured"] and not one["connected"]) for one in nodes):
        sys.exit(EXIT_PROBLEM)


def _node(node: dict[str, Any]) -> tuple[str, ...]:
    state = "NOT CONNECTED" if not node["connected"] else "behind" if node["behind"] else "current"
    counts = (str(node[name]) for name in ("workloads", "captured", "unhealthy"))
    since, acked = (moment(node[name]) if node[name] else "-" for name in ("since_s", "acked_s"))
    name = f"{node['node']} (machine)" if node["machine"] else node["node"]
    return (name, state, since, *counts, acked, "; ".join(node["refused"]) or "-")


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
