"""`meshctl serve`: run the controller."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from control.admin import DEFAULT_SOCKET
from control.cli.options import EXIT_PROBLEM, leaves
from control.cli.token import Duration
from meshapi import wire

if TYPE_CHECKING:
    from control.backing import OpenBacking
    from control.cluster.gateway_objects import Image
    from control.controller import Settings

DIRECTORY = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
DEFAULT_AGENT_ACCOUNT = f"{wire.DEFAULT_ROOT_NAMESPACE}/ztunnel"
BACKING = (
    "grace_s",
    "source",
    "config",
    "secrets",
    "kubeconfig",
    "namespace",
    "agent_accounts",
    "token_audience",
    "token_source",
    "gateway_image",
)
ACCOUNT_HELP = "Service account (namespace/name) whose tokens prove a node's agent, with --source kubernetes."
SOURCE_HELP = "From where a token may be shown: from its own node only, or from anywhere where node addresses are hidden."


@click.command(context_settings={"auto_envvar_prefix": "NODEMESH", "show_default": True})
@click.option("--source", type=click.Choice(["directory", "kubernetes"]), default="directory", help="Where the mesh's objects are.")
@click.option("--config", type=DIRECTORY, help="Directory of Kubernetes and Istio YAML, watched for changes.")
@click.option("--secrets", type=DIRECTORY, help="Private directory with certificates of gateways: NAMESPACE/NAME/tls.crt, tls.key, ca.crt.")
@click.option("--kubeconfig", type=FILE, help="How to reach the Kubernetes API; as the service account of this pod, without it.")
@click.option("--namespace", help="Where the lease and the root of the mesh are in the cluster; our own namespace, without it.")
@click.option("--agent-account", "agent_accounts", multiple=True, default=[DEFAULT_AGENT_ACCOUNT], help=ACCOUNT_HELP)
@click.option("--gateway-image", help="With --source kubernetes: what runs Gateways, for which Deployments are made; none, without it.")
@click.option("--token-audience", default="istio-ca", help="What the agents' service-account tokens must be made for.")
@click.option("--token-source", type=click.Choice(["node", "any"]), default="node", help=SOURCE_HELP)
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
@click.option("--jwks-host", "key_hosts", multiple=True, help="Host from which waypoints may fetch keys of tokens; *.suffix for any below.")
@click.option(
    "--wasm-source", "wasm_sources", multiple=True, help="Host (*.suffix for any below) or /directory that modules may come from."
)
@click.option("--scope-gateways/--no-scope-gateways", help="Istio's Gateways choose gateways of their own namespace alone.")
@click.option("--max-certificate-ttl", "max_ttl_s", type=Duration(), default="24h", help="Longest life of a workload's certificate.")
@click.option("--vm-grace", "grace_s", type=Duration(), default="60s", help="How long a virtual machine that is gone stays registered.")
@click.option("--admin-socket", type=click.Path(path_type=Path), default=DEFAULT_SOCKET)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def serve(state: Path, ca_dir: Path | None, root_namespace: str, log_level: str, **options: Any) -> None:
    """Run the controller until SIGTERM.

    Each option can be given in the environment too, as NODEMESH_<OPTION>.
    """
    import asyncio

    from control.ca.issuer import IssuerError
    from control.ca.records import RecordsError
    from control.ca.server_certificate import names
    from control.cluster.shared_revocations import SharedRevocationsError
    from control.controller import Settings, StateInUseError
    from control.model.settings import MeshSettings
    from control.serve import SourceEndedError, run_until_signal
    from kubeapi.access import AccessError
    from meshapi.spiffe import check_trust_domain
    from systemdapi.journal import log_to

    log_to(sys.stderr, program="meshctl", level=log_level.upper())
    about_backing = {name: options.pop(name) for name in BACKING}
    key_hosts, scope_gateways = frozenset(options.pop("key_hosts")), options.pop("scope_gateways")
    wasm_sources = frozenset(options.pop("wasm_sources"))
    settings = Settings(state_dir=state, authority_dir=ca_dir, root_namespace=root_namespace, **options)
    backing = _backing(about_backing, settings, root_namespace)
    try:
        check_trust_domain(settings.trust_domain)
        names(settings.hostnames)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    mesh = MeshSettings(
        trust_domain=settings.trust_domain,
        cluster=settings.cluster,
        root_namespace=root_namespace,
        key_hosts=key_hosts,
        wasm_sources=wasm_sources,
        scope_gateways=scope_gateways,
    )
    failures: list[str] = []
    try:
        asyncio.run(run_until_signal(settings, mesh, backing))
    # What an operator can mend is told in a line; anything else is a fault of ours, and keeps its traceback.
    except* (AccessError, IssuerError, SharedRevocationsError, RecordsError, StateInUseError, SourceEndedError, OSError) as group:
        failures = [str(error) for error in leaves(group)]
    for failure in failures:
        click.echo(f"meshctl serve: {failure}", err=True)
    if failures:
        sys.exit(EXIT_PROBLEM)


def _backing(options: dict[str, Any], settings: "Settings", root_namespace: str) -> "OpenBacking":
    """From the options that are about it."""
    from control.backing import DirectorySettings, KubernetesSettings, directory, kubernetes
    from control.ca.service_accounts import TrustedAccounts

    in_files, config, accounts = options["source"] == "directory", options["config"], options["agent_accounts"]
    shown_from = options["token_source"]
    if (config is not None) != in_files:
        raise click.UsageError("--config is needed with --source directory, and only there")
    if options["secrets"] is not None and not in_files:
        raise click.UsageError("--secrets goes with --source directory: in a cluster they are Secrets")
    if options["gateway_image"] and (in_files or not settings.hostnames):
        raise click.UsageError("--gateway-image goes with --source kubernetes, and needs --hostname, where its Envoys find the controller")
    if in_files:
        return directory(
            DirectorySettings(
                config=config,
                root_namespace=root_namespace,
                state_dir=settings.state_dir,
                authority_dir=settings.authority_dir,
                grace_s=options["grace_s"],
                secrets=options["secrets"],
            )
        )
    if any(len(account.split("/")) != 2 or not all(account.split("/")) for account in accounts):
        raise click.UsageError("--agent-account is namespace/name")
    return kubernetes(
        KubernetesSettings(
            root_namespace=root_namespace,
            trusted=TrustedAccounts(frozenset(accounts), options["token_audience"], any_source=shown_from == "any"),
            state_dir=settings.state_dir,
            trust_domain=settings.trust_domain,
            authority_dir=settings.authority_dir,
            kubeconfig=options["kubeconfig"],
            namespace=options["namespace"],
            grace_s=options["grace_s"],
            image=_image(options, settings),
        )
    )


def _image(options: dict[str, Any], settings: "Settings") -> "Image | None":
    from control.cluster.gateway_objects import Image

    if not options["gateway_image"]:
        return None
    return Image(
        options["gateway_image"],
        controller=settings.hostnames[0],
        trust_domain=settings.trust_domain,
        cluster=settings.cluster,
        audience=options["token_audience"],
    )
