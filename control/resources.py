"""What the model offers to those who serve it: named resources by type, look-up by the keys that agents ask for, and news of changes."""

from collections.abc import Callable, Collection, Mapping
from typing import NewType, Protocol

from msgspec import Struct

from meshapi.spiffe import WorkloadIdentity

TypeURL = NewType("TypeURL", str)
Changes = Mapping[TypeURL, Collection[str]]
"""Names of resources, by type, that were added, changed or removed."""


class Resource(Struct, frozen=True):
    """A resource ready to send: `version` is a hash of `body`, which is serialized once and shared by all streams."""

    name: str
    version: str
    body: bytes


class ResourceView(Protocol):
    """Read by the discovery server. All calls come from the event loop's thread and answer from memory."""

    def names(self, type_url: TypeURL) -> Collection[str]:
        """Every resource of a type."""

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        """A resource by its name."""

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        """The names that an on-demand key stands for: `uid`, `namespace/hostname` or `network/ip` to workload and service names."""

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:
        """The resources that a subscriber of `name` needs with it: of a service its workloads, else nothing."""

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        """Calls `on_change` after each change, in order; returns what ends it."""


class PlacedPod(Struct, frozen=True):
    """A pod as it is now. `live`: Pending or Running, and not about to be deleted."""

    uid: str
    node: str
    service_account: str
    live: bool
    addresses: tuple[str, ...]


class PlacedNode(Struct, frozen=True):
    """A node; `networks` are its addresses, and the blocks that its pods have theirs from."""

    uid: str
    networks: tuple[str, ...]


class Placement(Protocol):
    """Read by the certificate authority."""

    def has_node(self, node: str) -> bool:
        """Whether the mesh knows this node."""

    def runs_on(self, identity: WorkloadIdentity, node: str) -> bool:
        """Whether a live workload (Pending or Running) with this identity is placed on this node."""

    def pod(self, namespace: str, name: str) -> PlacedPod | None:
        """A pod, where it is."""

    def has_gateway(self, namespace: str, name: str) -> bool:
        """Whether there is a Gateway whose Envoys this controller configures."""

    def node(self, name: str) -> PlacedNode | None:
        """A node, by its name."""
