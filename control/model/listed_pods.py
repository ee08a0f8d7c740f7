"""Pods that an EndpointSlice lists by address without naming them: calls to its service reach them, so what guards it guards them."""

from ipaddress import ip_address

from control.kinds import EndpointSlice, MeshObject, ObjectKey, Pod
from control.model.labels import refile

Place = tuple[str, str]
"""A namespace and an address in it: a slice speaks for pods of its own namespace only."""


class ListedPods:
    """`put` follows each object that was replaced."""

    def __init__(self) -> None:
        self._pods: dict[Place, set[ObjectKey]] = {}
        self._slices: dict[Place, set[ObjectKey]] = {}

    def put(self, key: ObjectKey, old: MeshObject | None, new: MeshObject | None) -> None:
        refile(self._pods, key, _addresses(old), _addresses(new))
        refile(self._slices, key, _listed(old), _listed(new))

    def pods(self, endpoints: EndpointSlice) -> set[ObjectKey]:
        """The pods at the addresses that a slice lists."""
        return {pod for place in _listed(endpoints) for pod in self._pods.get(place, ())}

    def slices(self, pod: Pod) -> set[ObjectKey]:
        """The slices that list a pod's address."""
        return {one for place in _addresses(pod) for one in self._slices.get(place, ())}


def _addresses(item: MeshObject | None) -> frozenset[Place]:
    if not isinstance(item, Pod) or item.spec.host_network:
        return frozenset()
    return frozenset((item.metadata.namespace, str(ip_address(text))) for text in item.addresses)


def _listed(item: MeshObject | None) -> frozenset[Place]:
    if not isinstance(item, EndpointSlice) or item.address_type == "FQDN":
        return frozenset()
    unnamed = (one for one in item.endpoints if one.target_ref is None or one.target_ref.kind != "Pod")
    return frozenset((item.metadata.namespace, str(ip_address(text))) for one in unnamed for text in one.addresses)
