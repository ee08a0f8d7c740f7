"""What a controller stands on: a directory of files and join tokens, or Kubernetes."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from control.ca.private_files import make_private_directory
from control.ca.service_accounts import Accounts, TrustedAccounts
from control.ca.shared import Shared
from control.ca.token_review import TokenReviewer
from control.cluster.certificate_presence import CertificatePresence
from control.cluster.duties import do_duties
from control.cluster.election import Terms
from control.cluster.elector import Elector
from control.cluster.gateway_deployments import GatewayDeployments
from control.cluster.gateway_objects import Image
from control.cluster.gateway_status import GatewayStatus, Known
from control.cluster.root_configmaps import RootConfigMaps
from control.cluster.root_secret import RootSecret
from control.cluster.shared_findings import SharedFindings
from control.cluster.shared_revocations import SharedRevocations
from control.cluster.shared_tokens import SharedTokens
from control.cluster.status_writer import StatusWriter
from control.cluster.waypoint_status import WaypointStatus
from control.controller import REVOCATIONS_FILE, Controller
from control.kinds import Kind
from control.metrics import Metrics
from control.model.mesh import Mesh
from control.source import Source
from control.source.directory import DirectorySource
from control.source.kubernetes.secrets import ClusterSecrets, Kept
from control.source.kubernetes.source import KubernetesSource
from control.source.secret_files import Name, SecretFiles
from control.vm.cluster_entries import ClusterEntries
from control.vm.kept_entries import KeptEntries
from control.vm.plan import Terms as MachineTerms
from control.vm.registrar import Registrar
from control.xds.proxies import Proxies
from kubeapi.access import from_kubeconfig, in_cluster
from kubeapi.client import KubeClient

GRACE_S = 60.0
"""Long enough for a machine that starts again, or a controller that does."""
ENTRIES_FILE = "workload-entries.json"
Work = Callable[[Mesh, Controller, Proxies], Awaitable[None]]
"""Goes on beside serving, once the mesh is whole."""


FollowSecrets = Callable[[Proxies], Coroutine[None, None, None]]
"""Brings the certificates that gateways need, for ever."""


async def no_secrets(_proxies: Proxies) -> None:
    """For a backing that has none."""


async def no_work(_mesh: Mesh, _controller: Controller, _proxies: Proxies) -> None:
    """For a backing that nothing is written to."""


@dataclass(frozen=True)
class Backing:
    """Where configuration comes from, and whose word counts about who calls; without `accounts` only join tokens do.

    `authority_dir`: an authority that is not the controller's own. `shared`: what is not its alone.
    """

    source: Source
    accounts: Accounts | None = None
    authority_dir: Path | None = None
    shared: Shared | None = None
    work: Work = no_work
    secrets: FollowSecrets = no_secrets


OpenBacking = Callable[[Metrics], AbstractAsyncContextManager[Backing]]


@dataclass(frozen=True)
class KubernetesSettings:
    """`kubeconfig` None = as the service account of our own pod. `namespace` is where our lease and the root are; None = our own.

    `state_dir` is the controller's; with `authority_dir` the root is not in the cluster. `grace_s`: how long a machine that is gone keeps
    its WorkloadEntry. `image`: what runs Gateways, for which Deployments are made; without it none are.
    """

    root_namespace: str
    trusted: TrustedAccounts
    state_dir: Path
    trust_domain: str
    authority_dir: Path | None = None
    kubeconfig: Path | None = None
    namespace: str | None = None
    terms: Terms = field(default_factory=Terms)
    grace_s: float = GRACE_S
    image: Image | None = None


@dataclass(frozen=True)
class DirectorySettings:
    """`config` is the user's directory, which is only read, and so is `secrets`. `grace_s`: see `KubernetesSettings`."""

    config: Path
    root_namespace: str
    state_dir: Path
    authority_dir: Path | None = None
    grace_s: float = GRACE_S
    secrets: Path | None = None


def directory(settings: DirectorySettings) -> OpenBacking:
    """Files, and what this controller keeps beside them."""

    @asynccontextmanager
    async def opened(_metrics: Metrics) -> AsyncIterator[Backing]:
        make_private_directory(settings.state_dir)
        files = DirectorySource(settings.config, settings.root_namespace)
        entries = KeptEntries(files, settings.state_dir / ENTRIES_FILE, settings.root_namespace)
        terms = MachineTerms(controller="nodemesh-controller", grace_s=settings.grace_s)

        async def work(mesh: Mesh, controller: Controller, _proxies: Proxies) -> None:
            await Registrar(mesh, controller.machines, entries, lambda: terms, time.time).run()

        async def secrets(proxies: Proxies) -> None:
            if settings.secrets is not None:
                stores = proxies.stores

                def put(changed: Mapping[Name, Mapping[str, bytes] | None]) -> None:
                    stores.secrets.put(changed)
                    # There is no difference between the two in a directory.
                    stores.config_maps.put(changed)

                await SecretFiles(settings.secrets).run(put)

        yield Backing(entries, authority_dir=settings.authority_dir, work=work, secrets=secrets)

    return opened


def kubernetes(settings: KubernetesSettings) -> OpenBacking:
    """The Kubernetes API; opening raises AccessError where it can't be found, and waits for the mesh's root."""

    @asynccontextmanager
    async def opened(metrics: Metrics) -> AsyncIterator[Backing]:
        access = from_kubeconfig(settings.kubeconfig) if settings.kubeconfig else in_cluster()
        async with KubeClient(access) as client:
            namespace = settings.namespace or client.namespace or settings.root_namespace
            make_private_directory(settings.state_dir)
            root = None
            if settings.authority_dir is None:
                root = RootSecret(client, namespace, settings.state_dir / "ca", settings.trust_domain, time.time)
                await root.prepare()
            revocations = SharedRevocations(client, namespace, metrics)
            await revocations.prepare(settings.state_dir / REVOCATIONS_FILE)
            tokens = SharedTokens(client, namespace, metrics)

            async def secrets(proxies: Proxies) -> None:
                async with asyncio.TaskGroup() as tasks:
                    for kept, store in ((Kept.SECRETS, proxies.stores.secrets), (Kept.CONFIG_MAPS, proxies.stores.config_maps)):
                        wanted = partial(proxies.wanted_secrets, config_maps=kept is Kept.CONFIG_MAPS)
                        following = ClusterSecrets(client, metrics, kept).run(wanted, store.put, store.complain)
                        tasks.create_task(following, name=f"{kept} of gateways")

            yield Backing(
                source=KubernetesSource(client, settings.root_namespace, metrics),
                accounts=Accounts(settings.trusted, TokenReviewer(client, time.monotonic)),
                authority_dir=settings.state_dir / "ca" if root is not None and root.given else settings.authority_dir,
                shared=Shared(tokens, None if root is None or root.given else root),
                work=_work(_Parts(client, namespace, settings.terms, settings.grace_s, metrics, settings.image), root, revocations, tokens),
                secrets=secrets,
            )

    return opened


@dataclass(frozen=True)
class _Parts:
    client: KubeClient
    namespace: str
    terms: Terms
    grace_s: float
    metrics: Metrics
    image: Image | None


def _work(parts: _Parts, root: RootSecret | None, revocations: SharedRevocations, tokens: SharedTokens) -> Work:
    async def work(mesh: Mesh, controller: Controller, proxies: Proxies) -> None:
        # A container that is started again in its pod is another candidate, too.
        identity = f"{socket.gethostname()}_{os.urandom(4).hex()}"
        elector = Elector(parts.client, parts.namespace, identity, time.monotonic, parts.terms)
        parts.metrics.leading.set_function(lambda: float(elector.leading))
        published = RootConfigMaps(parts.client, lambda: _namespaces(mesh), controller.roots, parts.metrics)

        def terms() -> MachineTerms:
            return MachineTerms(controller=identity, grace_s=parts.grace_s, leading=elector.leading, alone=False)

        registrar = Registrar(mesh, controller.machines, ClusterEntries(parts.client), terms, time.time)
        made = GatewayDeployments(parts.client, mesh, parts.image, time.monotonic) if parts.image is not None else None
        present = CertificatePresence(parts.client, mesh, lambda: proxies.world, time.monotonic)

        def known() -> Known:
            return Known(dict(made.problems) if made is not None else {}, dict(present.missing))

        statuses = (
            StatusWriter(parts.client, mesh),
            WaypointStatus(parts.client, mesh),
            present,
            GatewayStatus(parts.client, mesh, lambda: proxies.world, known),
        )
        duties = do_duties(elector, *((made,) if made is not None else ()), *statuses, published)
        findings = SharedFindings(parts.client, parts.namespace, identity, mesh, time.monotonic)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(findings.run(), name="shared findings")
            tasks.create_task(tokens.follow(), name="follow join tokens")
            tasks.create_task(elector.run(), name="leader election")
            tasks.create_task(published.follow(), name="follow root ConfigMaps")
            tasks.create_task(duties, name="leader's duties")
            tasks.create_task(registrar.run(), name="registrar of machines")
            tasks.create_task(revocations.run(controller.revocations), name="shared revocations")
            if root is not None:
                tasks.create_task(root.follow(), name="follow root secret")

    return work


def _namespaces(mesh: Mesh) -> Collection[str]:
    """Those that take new objects."""
    found = ((key, record.object) for key, record in mesh.records.items() if key.kind is Kind.NAMESPACE)
    return [key.name for key, item in found if item is not None and not item.metadata.deletion_timestamp]
