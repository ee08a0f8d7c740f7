"""What a controller stands on: a directory of files and join tokens, or Kubernetes."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from control.ca.service_accounts import Accounts, TrustedAccounts
from control.ca.token_review import TokenReviewer
from control.kube.access import from_kubeconfig, in_cluster
from control.kube.client import KubeClient
from control.metrics import Metrics
from control.source import Source
from control.source.directory import DirectorySource
from control.source.kubernetes.source import KubernetesSource


@dataclass(frozen=True)
class Backing:
    """Where configuration comes from, and whose word counts about who calls; without `accounts` only join tokens do."""

    source: Source
    accounts: Accounts | None = None


OpenBacking = Callable[[Metrics], AbstractAsyncContextManager[Backing]]


@dataclass(frozen=True)
class KubernetesSettings:
    """`kubeconfig` None = as the service account of our own pod."""

    root_namespace: str
    trusted: TrustedAccounts
    kubeconfig: Path | None = None


def directory(config: Path, root_namespace: str) -> OpenBacking:
    """Files, read from `config`."""

    @asynccontextmanager
    async def opened(_metrics: Metrics) -> AsyncIterator[Backing]:
        yield Backing(DirectorySource(config, root_namespace))

    return opened


def kubernetes(settings: KubernetesSettings) -> OpenBacking:
    """The Kubernetes API; opening raises AccessError where it can't be found."""

    @asynccontextmanager
    async def opened(metrics: Metrics) -> AsyncIterator[Backing]:
        access = from_kubeconfig(settings.kubeconfig) if settings.kubeconfig else in_cluster()
        async with KubeClient(access) as client:
            source = KubernetesSource(client, settings.root_namespace, metrics)
            yield Backing(source, Accounts(settings.trusted, TokenReviewer(client, time.monotonic)))

    return opened
