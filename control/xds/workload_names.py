"""Of the mesh's workloads what they are called and who they are, by address: for the labels of what an Envoy reports.

Who runs an Envoy knows the address and the identity of its clients, and is told nothing of them but their names: it learns no policies,
no ports, no nodes, and has no list of all workloads.
"""

from collections.abc import Callable, Collection
from functools import lru_cache
from hashlib import blake2b

from control.model.derivation import ADDRESS
from control.resources import Changes, Resource, ResourceView, TypeURL
from meshapi import wire
from meshapi.workload import Workload, decode_address, encode_alone

WORKLOAD = TypeURL(wire.WORKLOAD_TYPE)


class WorkloadNames:
    """A ResourceView on a model of addresses."""

    def __init__(self, model: ResourceView) -> None:
        self._model = model

    def names(self, type_url: TypeURL) -> Collection[str]:  # noqa: ARG002 -- the interface's
        """There is no list of them."""
        return ()

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        """A workload by its uid."""
        found = self._model.get(ADDRESS, name) if type_url == WORKLOAD else None
        return _named(found) if found is not None else None

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        """The workload at an address, `network/ip`."""
        return tuple(name for name in self._model.resolve(ADDRESS, key) if self.get(type_url, name) is not None)

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:  # noqa: ARG002 -- the interface's
        return ()

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        """Calls `on_change` when addresses have changed."""

        def call(changes: Changes) -> None:
            if ADDRESS in changes:
                on_change({WORKLOAD: changes[ADDRESS]})

        return self._model.watch(call)


@lru_cache(maxsize=8192)
def _named(resource: Resource) -> Resource | None:
    """The same workload with nothing but what names it; None for what is none."""
    found = decode_address(resource.body)
    if not isinstance(found, Workload):
        return None
    told = Workload(
        uid=found.uid,
        name=found.name,
        namespace=found.namespace,
        addresses=found.addresses,
        network=found.network,
        trust_domain=found.trust_domain,
        service_account=found.service_account,
        canonical_name=found.canonical_name,
        canonical_revision=found.canonical_revision,
        workload_type=found.workload_type,
        workload_name=found.workload_name,
        cluster=found.cluster,
        network_mode=found.network_mode,
    )
    body = encode_alone(told)
    return Resource(resource.name, blake2b(body, digest_size=8).hexdigest(), body)
