"""`meshctl proxy-status` and `meshctl proxy-config`: how far each Envoy is, what it refused, and what it is served."""

import sys
from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import EXIT_PROBLEM, asks_controller, output_option
from control.cli.output import emit, moment

KINDS = ("listeners", "clusters", "endpoints", "routes")
_TYPES = {"Cluster": "CLUSTERS", "ClusterLoadAssignment": "ENDPOINTS", "Listener": "LISTENERS", "RouteConfiguration": "ROUTES"}


@click.command("proxy-status")
@output_option
@asks_controller
def proxy_status(client: AdminClient, output: str) -> None:
    """Say of each connected Envoy how far it is, what it refused, and which certificates it lacks; exit code 1 if there is any of that."""
    found = client.call("GET", "/proxies")
    emit(found, output, ("PROXY", "ENVOY", "SINCE", *_TYPES.values(), "REFUSED"), [_row(one) for one in found])
    problems = [line for one in found for line in _problems(one)]
    if output == "table" and problems:
        click.echo("\n" + "\n".join(problems))
    if problems:
        sys.exit(EXIT_PROBLEM)


@click.command("proxy-config")
@click.argument("proxy", metavar="NAMESPACE/GATEWAY")
@click.argument("kind", type=click.Choice(KINDS), default="clusters")
@click.option("--name", default="", help="Only the resource of this name.")
@output_option
@asks_controller
def proxy_config(client: AdminClient, proxy: str, kind: str, name: str, output: str) -> None:
    """Show what the Envoys of a Gateway are served; with -o json or yaml in full."""
    found = client.call("GET", "/proxies/config", query={"proxy": proxy, "kind": kind, "name": name})
    rows = [row for one in found for row in _resource_rows(one)]
    emit(found, output, ("NAME", "WHAT", "FROM"), rows)


def _resource_rows(one: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for the resource, and one for each of what it consists of."""
    return [(one["name"], one["summary"], ", ".join(one["sources"]) or "-"), *(("", f"  {line}", "") for line in one["details"])]


def _row(proxy: dict[str, Any]) -> tuple[str, ...]:
    by_type = {one["type_url"].rpartition(".")[2]: one for one in proxy["types"]}
    states = (_state(by_type.get(kind)) for kind in _TYPES)
    envoy = proxy["client"].split("~")[2] if proxy["client"].count("~") == 3 else proxy["client"]
    return (proxy["proxy"], envoy, moment(proxy["since_s"]), *states, str(len(proxy["refused"])))


def _state(one: dict[str, Any] | None) -> str:
    if one is None:
        return "not asked"
    return f"{one['held']} {'behind' if one['pending'] else 'synced'}"


def _problems(proxy: dict[str, Any]) -> list[str]:
    refused = []
    for one in proxy["refused"]:
        kind, origin = one["type_url"].rpartition(".")[2], ", ".join(one["sources"]) or "of no object"
        refused.append(f"{proxy['proxy']} refuses {kind} {one['name']} ({origin}): {one['message']}")
    lacking = [f"{proxy['proxy']}: the secret {name.partition('://')[2]} {why}" for name, why in proxy["secrets"].items()]
    return refused + [f"{proxy['proxy']}: {name} could not be made: {why}" for name, why in proxy["untranslated"].items()] + lacking
