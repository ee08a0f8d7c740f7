"""`meshctl vm`: virtual machines that join the mesh."""

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.admin.client import AdminClient
from control.cli.options import asks_controller
from control.cli.token import Duration

if TYPE_CHECKING:
    from meshapi.bundle import Bundle
    from meshapi.vm import GroupName, VMName


@click.group()
def vm() -> None:
    """Virtual machines, and other hosts outside of the cluster."""


@vm.command()
@click.option("--group", "groups", multiple=True, required=True, metavar="NAMESPACE/NAME", help="A WorkloadGroup that it joins.")
@click.option("--name", help="The machine's name; that of its first group with something random, without it.")
@click.option("--controller", "address", metavar="HOST[:PORT]", help="As machines reach the controller; its first --hostname, without it.")
@click.option("--ttl", "ttl_s", type=Duration(), default="1h", show_default=True, help="How long it may be used to join, at most 7d.")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    required=True,
    help="Where to write it; - for the standard output.",
)
@asks_controller
def create(client: AdminClient, groups: tuple[str, ...], name: str | None, address: str | None, ttl_s: int, file: Path) -> None:
    """Write the bundle with which a machine joins, once.

    The machine gets the service account of each of the groups, and no other. Whoever has the file can join in its place: move it there by
    a way that others can't read, and join with `nodeagent join FILE`.
    """
    import msgspec

    from meshapi.bundle import encode_bundle

    machine = _machine(name, groups)
    accounts = {str(group): _account(client, group) for group in machine.groups}
    bundle = msgspec.structs.replace(_bundle(client, machine, address, ttl_s), accounts=accounts)
    if file == Path("-"):
        click.echo(encode_bundle(bundle), nl=False)
        return
    try:
        _write(file, encode_bundle(bundle))
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    click.echo(f"{file} is for {machine.name} ({', '.join(str(group) for group in machine.groups)}): nodeagent join {file.name}")


def _machine(name: str | None, groups: tuple[str, ...]) -> "VMName":
    from meshapi.spiffe import IdentityError
    from meshapi.vm import GroupName, VMName

    try:
        parsed = tuple(GroupName.parse(group) for group in groups)
        return VMName.make(name or f"{parsed[0].name}-{secrets.token_hex(3)}", parsed)
    except IdentityError as error:
        raise click.UsageError(str(error)) from error


def _account(client: AdminClient, group: "GroupName") -> str:
    """Raises AdminError for a group that is not there."""
    listing = client.call("GET", "/objects", query={"kind": "workloadgroup", "namespace": group.namespace, "name": group.name})
    if not listing["objects"][0]["accepted"]:
        raise click.ClickException(f"WorkloadGroup {group} is not accepted: meshctl get workloadgroup {group.name}")
    spec = listing["objects"][0]["manifest"].get("spec") or {}
    return (spec.get("template") or {}).get("serviceAccount") or "default"


def _bundle(client: AdminClient, machine: "VMName", address: str | None, ttl_s: int) -> "Bundle":
    from meshapi.bundle import VERSION, Bundle, ControllerPlace

    about = client.call("GET", "/joining")
    host, agent_port = _address(address, about)
    # A name that the certificate has for certain, if it has not the one that machines dial.
    known = None if host in about["hostnames"] else about["hostnames"][0]
    made = client.call("POST", "/tokens", body={"node": machine.node, "ttl_s": ttl_s})
    return Bundle(
        version=VERSION,
        node=machine.node,
        controller=ControllerPlace(host, agent_port, about["token_port"], known),
        roots_pem=client.call("GET", "/root")["pem"],
        token=made["token"],
        trust_domain=about["trust_domain"],
        cluster=about["cluster"],
        root_namespace=about["root_namespace"],
        created_s=made["created_s"],
        expires_s=made["expires_s"],
    )


def _address(text: str | None, about: dict[str, Any]) -> tuple[str, int]:
    """Host and port for certificates."""
    if text is None:
        return about["hostnames"][0], about["agent_port"]
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = text, str(about["agent_port"])
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
        raise click.UsageError(f"--controller {text!r}: must be host or host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _write(file: Path, content: bytes) -> None:
    """In place of a former one; nobody else can read it at any moment."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    draft.replace(file)
