"""A view that notes what was looked up, so that an answer can be made again when that, and only that, changes."""

from collections.abc import Iterable

from meshapi.workload import IPAddress, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.policy.compiled import CompiledPolicy
from nodeagent.snapshot.places import BLOCKS_TOUCHED
from nodeagent.snapshot.rules import ALL_POLICIES, namespace_dependency, policy_dependency
from nodeagent.snapshot.view import PROBE_SOURCES, Missing, NodeProbes, View, address_dependency


class TrackedView:
    """Implements `View` over another. `depends_on` fills as things are looked up; `needs` are those that a subscription must bring."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.depends_on: set[str] = set()
        self.needs: set[str] = set()

    def workload(self, uid: WorkloadUID) -> Workload | Missing:
        self._needed(uid)
        return self._view.workload(uid)

    def local_identity(self, uid: WorkloadUID) -> str | None:
        self.depends_on.add(uid)
        return self._view.local_identity(uid)

    def probes(self, uid: WorkloadUID) -> NodeProbes:
        self.depends_on |= {uid, PROBE_SOURCES}
        return self._view.probes(uid)

    def unit_ports_of(self, uid: WorkloadUID) -> frozenset[int] | None:
        self.depends_on.add(uid)
        return self._view.unit_ports_of(uid)

    def address(self, network: str, address: IPAddress) -> Workload | tuple[Service, ...] | Missing:
        self._needed(address_dependency(network, address))
        self.depends_on.add(BLOCKS_TOUCHED)
        found = self._view.address(network, address)
        if isinstance(found, Workload):
            self.depends_on.add(found.uid)
        elif isinstance(found, tuple):
            self.depends_on.update(service.key for service in found)
        return found

    def workload_at(self, network: str, address: IPAddress) -> Workload | Missing:
        self._needed(address_dependency(network, address))
        found = self._view.workload_at(network, address)
        if isinstance(found, Workload):
            self.depends_on.add(found.uid)
        return found

    def service(self, key: ServiceKey) -> Service | None:
        self.depends_on.add(key)
        return self._view.service(key)

    def find_service(self, key: ServiceKey) -> Service | Missing:
        self._needed(key)
        return self._view.find_service(key)

    def members(self, key: ServiceKey) -> Iterable[Workload]:
        self.depends_on.add(key)  # touched by each change of a member, too
        return self._view.members(key)

    def policies_known(self) -> bool:
        self.depends_on.add(ALL_POLICIES)
        return self._view.policies_known()

    def policies(self, namespace: str) -> tuple[CompiledPolicy, ...]:
        self.depends_on |= {ALL_POLICIES, namespace_dependency(namespace)}
        return self._view.policies(namespace)

    def policy(self, key: str) -> CompiledPolicy | None:
        self.depends_on.add(policy_dependency(key))
        return self._view.policy(key)

    def rejected_policies(self, namespace: str) -> tuple[str, ...]:
        self.depends_on |= {ALL_POLICIES, namespace_dependency(namespace)}
        return self._view.rejected_policies(namespace)

    def _needed(self, key: str) -> None:
        self.needs.add(key)
        self.depends_on.add(key)
