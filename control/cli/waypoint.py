"""`meshctl waypoint` and `meshctl gateway`: run the Envoy of a Gateway, whichever it is."""

import sys
from pathlib import Path
from typing import Any

import click

from control.cli.options import EXIT_PROBLEM, address_and_port, leaves
from control.cli.token import Duration
from meshapi import wire

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def waypoint() -> None:
    """Waypoints: Envoys that the controller configures."""


@click.group()
def gateway() -> None:
    """Gateways: Envoys at the edge of the mesh that the controller configures."""


@waypoint.command(context_settings={"auto_envvar_prefix": "NODEMESH_WAYPOINT", "show_default": True})
@click.option("--gateway", required=True, metavar="NAMESPACE/NAME", help="The Gateway that asks for this Envoy.")
@click.option("--controller", "hosts", multiple=True, required=True, help="Host of a controller; several are tried in turn.")
@click.option("--token-port", type=click.IntRange(1, 65535), default=wire.XDS_TOKEN_PORT, help="The controller's port for tokens.")
@click.option("--agent-port", type=click.IntRange(1, 65535), default=wire.XDS_MTLS_PORT, help="Its port for certificates.")
@click.option("--server-name", help="Name in the controller's certificate, if it is not the host's.")
@click.option("--roots", type=FILE, required=True, help="Roots of the mesh (PEM): `meshctl root`.")
@click.option("--token", help="Join token, for the first start: `meshctl token create --gateway`.")
@click.option("--token-file", type=FILE, help="File with a token, read whenever one is needed, such as a projected service-account token.")
@click.option("--state", type=DIRECTORY, default="/var/lib/nodemesh-waypoint", help="Private directory for key and certificate.")
@click.option("--run-dir", type=DIRECTORY, default="/run/nodemesh-waypoint", help="Private directory for sockets.")
@click.option("--envoy", type=FILE, default="/usr/local/bin/envoy", help="The Envoy to run.")
@click.option("--address", "addresses", multiple=True, help="Address to listen at; all of the machine, without any.")
@click.option("--trust-domain", default=wire.DEFAULT_TRUST_DOMAIN)
@click.option("--cluster", default=wire.DEFAULT_CLUSTER)
@click.option("--instance", default="", help="Tells several Envoys of one Gateway apart, such as the pod's name.")
@click.option("--certificate-ttl", "ttl_s", type=Duration(), default="24h", help="How long certificates are asked for.")
@click.option("--drain", "drain_s", type=click.IntRange(0, 3600), default=5, help="Seconds that open connections have when this ends.")
@click.option("--concurrency", type=click.IntRange(1, 256), help="Envoy's worker threads; one for each CPU, without it.")
@click.option("--max-connections", type=click.IntRange(1), help="Of clients at once; without it, a third of the files that may be open.")
@click.option("--metrics-listen", default=f"0.0.0.0:{wire.PROXY_METRICS_PORT}", metavar="ADDRESS:PORT", help="For metrics; empty: none.")
@click.option("--envoy-log-level", "log_level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning")
def run(gateway: str, addresses: tuple[str, ...], state: Path, roots: Path, metrics_listen: str, **options: Any) -> None:
    """Run the Envoy of a Gateway until SIGTERM, with its identity and configuration from the controller.

    Its key is made here and never leaves this host. Each option can be given in the environment too, as NODEMESH_WAYPOINT_<OPTION>.
    """
    import asyncio
    from ipaddress import ip_address

    from control.waypoint.envoy_process import EnvoyEndedError
    from control.waypoint.identity import NoProofError
    from control.waypoint.run import run_until_signal
    from control.waypoint.settings import Controllers, Settings
    from meshapi.spiffe import IdentityError
    from systemdapi.journal import log_to

    log_to(sys.stderr, program="meshctl", level="INFO")
    namespace, _, name = gateway.partition("/")
    names = ("hosts", "token_port", "agent_port", "server_name", "cluster")
    controllers = Controllers(**{key: options.pop(key) for key in names})
    try:
        settings = Settings(
            namespace=namespace,
            gateway=name,
            controllers=controllers,
            roots_pem=roots.read_bytes(),
            state_dir=state,
            addresses=tuple(ip_address(one) for one in addresses),
            metrics_listen=address_and_port("--metrics-listen", metrics_listen) if metrics_listen else None,
            **options,
        )
        _ = settings.identity
    except (IdentityError, ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    failures: list[str] = []
    try:
        asyncio.run(run_until_signal(settings))
    except* (NoProofError, EnvoyEndedError, OSError) as group:
        failures = [str(error) for error in leaves(group)]
    for failure in failures:
        click.echo(f"{click.get_current_context().command_path}: {failure}", err=True)
    if failures:
        sys.exit(EXIT_PROBLEM)


# One process runs either: what its Envoy does is the controller's to say.
gateway.add_command(run)
