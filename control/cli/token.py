"""`meshctl token`: join tokens, with which a node gets the certificate of its agent."""

import re
from typing import Any

import click

from control.admin.client import AdminClient
from control.cli.options import asks_controller, output_option
from control.cli.output import emit, moment

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[int]):
    """`30m`, `1h`, `7d`: a number and a unit, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration: a number and s, m, h or d", param, ctx)
        return int(match[1]) * SECONDS[match[2]]


@click.group()
def token() -> None:
    """Join tokens for new nodes."""


@token.command()
@click.option("--node", default="", help="The node that may join with it: its name in the configuration.")
@click.option("--gateway", default="", metavar="NAMESPACE/NAME", help="Or the Gateway whose Envoy may get its identity with it.")
@click.option("--ttl", "ttl_s", type=Duration(), default="1h", show_default=True, help="How long it may be used, at most 7d.")
@output_option
@asks_controller
def create(client: AdminClient, node: str, gateway: str, ttl_s: int, output: str) -> None:
    """Make a token and print it. It works once, and is never shown again."""
    if bool(node) == bool(gateway):
        raise click.UsageError("either --node or --gateway")
    made = client.call("POST", "/tokens", body={"node": node, "gateway": gateway, "ttl_s": ttl_s})
    if not made["node_known"]:
        missing = f"Node {node}" if node else f"Gateway {gateway} of this mesh's classes"
        click.echo(f"note: the configuration has no {missing} yet; the token works once it has", err=True)
    if output == "table":
        click.echo(made["token"])
    else:
        emit(made, output, (), ())


@token.command("list")
@output_option
@asks_controller
def list_tokens(client: AdminClient, output: str) -> None:
    """List the tokens, without their secrets."""
    tokens = client.call("GET", "/tokens")
    rows = [
        (one["id"], one["node"] or f"gateway {one['gateway']}", moment(one["created_s"]), moment(one["expires_s"]), moment(one["used_s"]))
        for one in tokens
    ]
    emit(tokens, output, ("ID", "NODE", "CREATED", "EXPIRES", "USED"), rows)


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@asks_controller
def revoke_token(client: AdminClient, token_id: str) -> None:
    """Make a token unusable."""
    client.call("DELETE", f"/tokens/{_path_segment(token_id)}")
    click.echo(f"token {token_id} is revoked")


def _path_segment(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")
