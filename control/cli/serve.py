"""`meshctl serve`: run the controller."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from control.admin import DEFAULT_SOCKET
from control.cli.options import EXIT_PROBLEM
from control.cli.token import Duration
from meshapi import wire

DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.command(context_settings={"auto_envvar_prefix": "NODEMESH", "show_default": True})
@click.option("--config", type=DIRECTORY, required=True, help="Directory of Kubernetes and Istio YAML, watched for changes.")
@click.option("--state", type=DIRECTORY, default="/var/lib/nodemesh-controller", help="Private directory for keys, tokens, audit log.")
@click.option("--ca-dir", type=DIRECTORY, help="Use this authority (root-cert.pem, ca-cert.pem, ca-key.pem, cert-chain.pem).")
@click.option("--listen", default="[::]", help="Address that agents connect to, IPv6 in brackets.")
@click.option("--token-port", type=click.IntRange(0, 65535), default=wire.XDS_TOKEN_PORT, help="Port for join tokens.")
@click.option("--agent-port", type=click.IntRange(0, 65535), default=wire.XDS_MTLS_PORT, help="Port for agents with a certificate.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=15014, help="Port of /metrics and /ready.")
@click.option("--metrics-listen", help="Address of /metrics and /ready; all, without it.")
@click.option("--hostname", "hostnames", multiple=True, type=str, help="Further DNS name or address of the controller's certificate.")
@click.option("--trust-domain", default=wire.DEFAULT_TRUST_DOMAIN)
@click.option("--cluster", default=wire.DEFAULT_CLUSTER, help="Name of the cluster; agents must claim the same.")
@click.option("--root-namespace", default=wire.DEFAULT_ROOT_NAMESPACE, help="Policies here hold for the whole mesh.")
@click.option("--max-certificate-ttl", "max_ttl_s", type=Duration(), default="24h", help="Longest life of a workload's certificate.")
@click.option("--admin-socket", type=click.Path(path_type=Path), default=DEFAULT_SOCKET)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def serve(config: Path, state: Path, ca_dir: Path | None, root_namespace: str, log_level: str, **options: Any) -> None:
    """Run the controller until SIGTERM.

    Each option can be given in the environment too, as NODEMESH_<OPTION>.
    """
    import asyncio
    import logging

    from control.ca.issuer import IssuerError
    from control.ca.records import RecordsError
    from control.ca.server_certificate import names
    from control.controller import Settings, StateInUseError
    from control.model.settings import MeshSettings
    from control.serve import SourceEndedError, run_until_signal
    from control.source.directory import DirectorySource
    from meshapi.spiffe import check_trust_domain

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=log_level.upper())
    settings = Settings(state_dir=state, authority_dir=ca_dir, **options)
    try:
        check_trust_domain(settings.trust_domain)
        names(settings.hostnames)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    mesh = MeshSettings(trust_domain=settings.trust_domain, cluster=settings.cluster, root_namespace=root_namespace)
    failures: list[str] = []
    try:
        asyncio.run(run_until_signal(settings, mesh, DirectorySource(config, root_namespace)))
    # What an operator can mend is told in a line; anything else is a fault of ours, and keeps its traceback.
    except* (IssuerError, RecordsError, StateInUseError, SourceEndedError, OSError) as group:
        failures = [str(error) for error in _leaves(group)]
    for failure in failures:
        click.echo(f"meshctl serve: {failure}", err=True)
    if failures:
        sys.exit(EXIT_PROBLEM)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
