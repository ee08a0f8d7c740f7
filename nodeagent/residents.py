"""The workloads that run on this node, as the deciding side sees them: who they are, what is asked about them, what the proxy is told."""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from ipaddress import ip_address

from msgspec.structs import replace

from meshapi.spiffe import IdentityError, WorkloadIdentity
from meshapi.workload import TunnelProtocol, Workload, WorkloadUID
from nodeagent.enrolment.entry import Description
from nodeagent.runtime.base import LocalWorkload, Runtime
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.subscriptions import Subscriptions
from nodeagent.telemetry.baggage import baggage
from nodeagent.telemetry.labels import Reporter, flow_attributes

log = logging.getLogger(__name__)


_Ports = dict[WorkloadUID, frozenset[int]]


class Residents:
    """Keeps identities wanted and workload keys subscribed for exactly the workloads of the last `set`."""

    def __init__(
        self,
        *,
        trust_domain: str,
        cluster: str,
        store: SnapshotStore,
        subscriptions: Subscriptions,
        want: Callable[[Iterable[WorkloadIdentity]], None],
        has_identity: Callable[[str], bool],
    ) -> None:
        self._trust_domain = trust_domain
        self._cluster = cluster
        self._store = store
        self._subscriptions = subscriptions
        self._want = want
        self._has_identity = has_identity
        self._present: dict[WorkloadUID, WorkloadIdentity] = {}
        self._networks: dict[str, int] = {}
        self._probe_ports: _Ports = {}
        self._unit_ports: _Ports = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self._present

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(self._present)

    def identity(self, uid: str) -> str | None:
        """The SPIFFE id of a workload of this node."""
        identity = self._present.get(WorkloadUID(uid))
        return None if identity is None else str(identity)

    def network(self, uid: str) -> int | None:
        """The inode of the network namespace of a workload of this node."""
        return self._networks.get(uid)

    def set(self, workloads: Iterable[LocalWorkload]) -> None:
        """Takes the whole set that runs here now."""
        workloads = tuple(workloads)
        self._networks = {workload.uid: workload.network.inode for workload in workloads if workload.network is not None}
        self._set_ports(workloads)
        present = {WorkloadUID(workload.uid): identity for workload in workloads if (identity := self._identity_of(workload)) is not None}
        if present == self._present:
            return
        fresh, gone = present.keys() - self._present.keys(), self._present.keys() - present.keys()
        changed: list[tuple[WorkloadUID, str | None]] = [(uid, str(identity)) for uid, identity in present.items()]
        self._present = present
        self._store.apply(Update(local_identities=(*changed, *((uid, None) for uid in gone))))
        self._want(set(present.values()))
        self._subscriptions.need(sorted(fresh))
        self._subscriptions.drop(sorted(gone))

    def _set_ports(self, workloads: Iterable[LocalWorkload]) -> None:
        probe_ports = {WorkloadUID(one.uid): frozenset(one.probe_ports) for one in workloads if one.probe_ports}
        unit_ports = {WorkloadUID(one.uid): frozenset(one.terms.include_inbound_ports or ()) for one in workloads if one.process_group}
        # Of one that has gone: until its tunnels have, too, they lead nowhere, least of all to other ports of the host.
        unit_ports |= dict.fromkeys(self._unit_ports.keys() - {one.uid for one in workloads}, frozenset())
        update = Update(probe_ports=_changed(self._probe_ports, probe_ports), unit_ports=_changed(self._unit_ports, unit_ports))
        self._probe_ports, self._unit_ports = probe_ports, unit_ports
        if update != Update():
            self._store.apply(update)

    def describe(self, workload: LocalWorkload, addresses: tuple[str, ...]) -> Description | None:
        """What the proxy is told of a workload; None for one that does not run here (any more)."""
        identity = self._present.get(WorkloadUID(workload.uid))
        if identity is None:
            return None
        name = str(identity)
        known = self._store.current.workload(WorkloadUID(workload.uid))
        if not isinstance(known, Workload):
            known = self._as_seen_here(workload, addresses, identity)
        return Description(
            identity=name,
            addresses=addresses,
            inbound_attributes=flow_attributes(Reporter.DESTINATION, destination=known),
            outbound_attributes=flow_attributes(Reporter.SOURCE, source=known, source_principal=name),
            identity_ready=self._has_identity(name),
            baggage=baggage(known),
        )

    def _as_seen_here(self, workload: LocalWorkload, addresses: tuple[str, ...], identity: WorkloadIdentity) -> Workload:
        """Until the controller has told of it."""
        return Workload(
            uid=WorkloadUID(workload.uid),
            name=workload.name,
            namespace=workload.namespace,
            addresses=tuple(ip_address(address) for address in addresses),
            tunnel_protocol=TunnelProtocol.HBONE,
            trust_domain=identity.trust_domain,
            service_account=identity.service_account,
            cluster=self._cluster,
        )

    def _identity_of(self, workload: LocalWorkload) -> WorkloadIdentity | None:
        try:
            return WorkloadIdentity(self._trust_domain, workload.namespace, workload.service_account)
        except IdentityError as error:
            log.warning("workload %s can have no identity: %s", workload.uid, error)
            return None


def _changed(before: _Ports, now: _Ports) -> tuple[tuple[WorkloadUID, frozenset[int] | None], ...]:
    return tuple((uid, now.get(uid)) for uid in before.keys() | now.keys() if before.get(uid) != now.get(uid))


class ObservedRuntime:
    """A runtime that tells `observe` each set before whoever watches it. Without `dns` none of them has its questions captured."""

    def __init__(self, runtime: Runtime, observe: Callable[[tuple[LocalWorkload, ...]], None], *, dns: bool) -> None:
        self._runtime = runtime
        self._dns = dns
        self._observe = observe

    @property
    def problem(self) -> str:
        return self._runtime.problem

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """See `Runtime`."""
        async with aclosing(self._runtime.watch()) as sets:  # type: ignore[type-var]
            async for found in sets:
                workloads = found if self._dns else tuple(replace(one, terms=replace(one.terms, dns=False)) for one in found)
                self._observe(workloads)
                yield workloads
