"""`meshctl install`, `uninstall`, `check` and `version`: the mesh in a cluster, without Helm."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from control.cli.options import EXIT_PROBLEM

if TYPE_CHECKING:
    from kubeapi.client import KubeClient

T = TypeVar("T")
_OPTIONS = {"trust_domain": "--trust-domain", "cluster": "--cluster", "root_namespace": "--root-namespace", "capture": "--capture"}
kubeconfig_option = click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="KUBECONFIG",
    show_envvar=True,
    default=Path("~/.kube/config"),
    show_default=True,
    help="How to reach the cluster; inside of one, as the pod's own account, if there is no such file.",
)
wait_option = click.option("--wait", "wait_s", type=click.FloatRange(0, 3600), default=300.0, show_default=True, metavar="SECONDS")


@click.command()
@kubeconfig_option
@wait_option
@click.option("--registry", default="", help="Where the images are: `registry.example/mesh`.")
@click.option("--tag", default="", help="Of the images; this version's without it.")
@click.option("--trust-domain", help="As certificates and policies name it.")
@click.option("--cluster", help="The name of this cluster.")
@click.option("--root-namespace", help="Policies there hold for the whole mesh.")
@click.option("--capture", type=click.Choice(["auto", "ebpf", "nftables", "redirect", "iptables"]), help="How the agents capture.")
@click.option("--print", "only_print", is_flag=True, help="Print what would be applied, and apply nothing.")
def install(kubeconfig: Path, wait_s: float, registry: str, tag: str, only_print: bool, **options: Any) -> None:
    """Install the mesh in a cluster, or bring it to this version; done when everything runs. Applications change nothing until labelled."""
    from control.install import cluster, manifests

    chosen = tuple((_OPTIONS[name], value) for name, value in options.items() if value is not None)
    items = manifests.documents(manifests.Choices(registry, tag, chosen))
    if only_print:
        import yaml

        click.echo(yaml.safe_dump_all(items, sort_keys=False), nl=False)
        return
    _do(kubeconfig, lambda client: cluster.install(client, items, click.echo, wait_s=wait_s))
    click.echo("done: enrol a namespace with `kubectl label namespace NAME istio.io/dataplane-mode=ambient`")


@click.command()
@kubeconfig_option
@wait_option
@click.option("--namespace", default="nodemesh-system", show_default=True, help="Where it is installed.")
@click.option("--agents-only", is_flag=True, help="Remove the agents, wait until no pod is captured, and delete nothing else.")
def uninstall(kubeconfig: Path, wait_s: float, namespace: str, agents_only: bool) -> None:
    """Take every pod out of the mesh, then delete what was installed. Policies and labels stay."""
    from control.install import cluster, manifests

    if agents_only:
        _do(kubeconfig, lambda client: cluster.remove_agents(client, namespace, click.echo, wait_s=wait_s))
        return
    if namespace != manifests.NAMESPACE:
        raise click.UsageError(f"what is in {namespace} was installed by Helm or Kustomize: delete it with that, after --agents-only")
    items = manifests.documents(manifests.Choices())
    _do(kubeconfig, lambda client: cluster.uninstall(client, items, click.echo, wait_s=wait_s))


@click.command()
@kubeconfig_option
def check(kubeconfig: Path) -> None:
    """Say whether the mesh can be installed in a cluster; exit code 1 if something stands in the way."""
    from control.install import cluster

    async def show(client: "KubeClient") -> bool:
        well = True
        async for finding in cluster.check(client):
            click.echo(f"{'ok' if finding.ok else 'PROBLEM':8} {finding.what}: {finding.words}")
            well = well and finding.ok
        return well

    if not _do(kubeconfig, show):
        sys.exit(EXIT_PROBLEM)


@click.command()
def version() -> None:
    """Say which version this is."""
    from importlib import metadata

    click.echo(metadata.version("nodemesh"))


def _do(kubeconfig: Path, action: Callable[["KubeClient"], Awaitable[T]]) -> T:
    """Ends the command with a message where the cluster refuses or is not there."""
    from control.install.cluster import InstallError
    from kubeapi.access import Access, AccessError, from_kubeconfig, in_cluster
    from kubeapi.client import APIError, KubeClient

    async def act(access: Access) -> T:
        async with KubeClient(access) as client:
            return await action(client)

    file = kubeconfig.expanduser()
    try:
        return asyncio.run(act(from_kubeconfig(file) if file.exists() else in_cluster()))
    except (AccessError, APIError, InstallError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_PROBLEM)
