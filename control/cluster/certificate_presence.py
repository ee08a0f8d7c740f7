"""Whether what the listeners of Gateways name is there: Secrets and ConfigMaps, of which nothing is read but that they are."""

import logging
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from control.envoy.credentials import Credential, parse
from control.envoy.gateways.servers import servers_of
from control.envoy.proxies import ProxyKey, all_proxies
from control.envoy.world import World
from control.kinds import Kind
from control.model.mesh import Mesh
from kubeapi.client import APIError, KubeClient

AGAIN_S: Final = 10.0
A_ROUND: Final = 50
"""What is more waits for the next round."""
_NAMES_ALONE: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
log = logging.getLogger(__name__)


class _List(Struct, frozen=True):
    items: tuple[msgspec.Raw, ...] | None = None


class CertificatePresence:
    """Implements Duty; looks from time to time, since what is not needed is not watched."""

    def __init__(self, client: KubeClient, mesh: Mesh, world: Callable[[], World], clock: Callable[[], float]) -> None:
        self._client = client
        self._mesh = mesh
        self._world = world
        self._clock = clock
        self._seen_batches = -1
        self._due_s: dict[Credential, float] = {}
        self._missing: dict[Credential, str] = {}

    @property
    def missing(self) -> Mapping[Credential, str]:
        """Why there is nothing to be had of some."""
        return self._missing

    async def round(self) -> None:
        """Looks for those whose turn it is."""
        if self._mesh.batches != self._seen_batches:
            self._seen_batches = self._mesh.batches
            self._follow(self._named() if self._has_gateways() else frozenset())
        now_s = self._clock()
        due = sorted((one for one, due_s in self._due_s.items() if due_s <= now_s), key=self._due_s.__getitem__)
        for one in due[:A_ROUND]:
            try:
                why = await self._look(one)
            except APIError as error:
                log.info("whether %s/%s is there is not known: %s", one.namespace, one.name, error)
                return
            self._due_s[one] = now_s + AGAIN_S
            if why:
                self._missing[one] = why
            else:
                self._missing.pop(one, None)

    def _named(self) -> frozenset[Credential]:
        try:
            return named(self._world())
        except Exception:
            # A fault of ours: what was looked for before still is.
            log.exception("which certificates Gateways name can't be told")
            return frozenset(self._due_s)

    def _has_gateways(self) -> bool:
        return any(key.kind is Kind.GATEWAY for key in self._mesh.records)

    def _follow(self, wanted: frozenset[Credential]) -> None:
        self._due_s = {one: self._due_s.get(one, 0.0) for one in wanted}
        self._missing = {one: why for one, why in self._missing.items() if one in wanted}

    async def _look(self, one: Credential) -> str:
        """Why it is not to be had; empty if it is. Raises APIError where that can't be told."""
        kind, plural = ("ConfigMap", "configmaps") if one.config_map else ("Secret", "secrets")
        path, query = f"/api/v1/namespaces/{one.namespace}/{plural}", {"fieldSelector": f"metadata.name={one.name}"}
        try:
            found = msgspec.json.decode(await self._client.request("GET", path, query, accept=_NAMES_ALONE), type=_List)
        except APIError as error:
            if error.status == 403:
                return f"the controller may not read {kind} {one.namespace}/{one.name}: gatewayNamespaces of the chart says where it may"
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise APIError(0, "Unreadable", str(error)) from error
        return "" if found.items else f"there is no {kind} {one.namespace}/{one.name}"


def named(world: World) -> frozenset[Credential]:
    """What the listeners of all Gateways name."""
    return frozenset(one for proxy in world.ask(all_proxies) for one in _of_listeners(world, proxy))


def _of_listeners(world: World, proxy: ProxyKey) -> frozenset[Credential]:
    own = (one for one in world.ask(servers_of, proxy) if one.owner.kind is Kind.GATEWAY and one.terms is not None and not one.problem)
    return frozenset(found for one in own for name in one.named if (found := parse(name)) is not None)
