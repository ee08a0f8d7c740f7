"""What the xds client delivers, into the snapshot, to those who keep trust, and into what is kept on the node."""

from collections.abc import Mapping
from typing import Final, Protocol

from meshapi.authorization import Policy
from meshapi.discovery import Resource
from meshapi.names import Names
from meshapi.trust import TrustBundle
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, NAMES_TYPE, TRUST_TYPE
from meshapi.workload import Service, Workload
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.snapshot.view import Missing
from nodeagent.state.kept import Kept
from nodeagent.xds.events import Rejected
from nodeagent.xds.events import Update as Delivery
from nodeagent.xds.kinds import Value

MAX_KEPT_ABSENT: Final = 65536


class TrustSink(Protocol):
    """Who keeps trust."""

    def apply(self, bundle: TrustBundle) -> None:
        """The whole truth of a trust domain."""

    def forget(self, trust_domain: str) -> None:
        """The controller has no bundle of it any more."""


class NamesSink(Protocol):
    """Who keeps what DNS is to know."""

    def put(self, names: Names) -> None:
        """All names of a namespace."""

    def remove(self, namespace: str) -> None:
        """The namespace has none any more."""


class OnChange(Protocol):
    """Called after each change of what is to be kept."""

    def __call__(self, *, urgent: bool) -> None:
        """`urgent`: it decides who is let in."""


class Feed:
    """Implements `xds.client.Handler`."""

    def __init__(self, store: SnapshotStore, trust: TrustSink, names: NamesSink, on_change: OnChange) -> None:
        self._store = store
        self._names = names
        self._trust = trust
        self._on_change = on_change
        self._resources: dict[str, dict[str, Resource]] = {url: {} for url in (ADDRESS_TYPE, AUTHORIZATION_TYPE, TRUST_TYPE, NAMES_TYPE)}
        self.ready = False

    def apply(self, update: Delivery) -> None:
        """Takes resources that came or went."""
        held = self._resources[update.type_url]
        for name in update.removed:
            held.pop(name, None)
        for accepted in update.upserts:
            held[accepted.resource.name] = accepted.resource
        values = [accepted.value for accepted in update.upserts]
        urgent = update.type_url in {AUTHORIZATION_TYPE, TRUST_TYPE} or self._rules_differ(values)
        if update.type_url == TRUST_TYPE:
            self._apply_trust([value for value in values if isinstance(value, TrustBundle)], update.removed)
        elif update.type_url == NAMES_TYPE:
            self._apply_names([value for value in values if isinstance(value, Names)], update.removed)
        elif update.type_url == AUTHORIZATION_TYPE:
            policies = tuple(value for value in values if isinstance(value, Policy))
            self._store.apply(Update(policies=policies, removed_policies=update.removed))
        else:
            workloads = tuple(value for value in values if isinstance(value, Workload))
            services = tuple(value for value in values if isinstance(value, Service))
            self._store.apply(
                Update(workloads=workloads, services=services, removed=update.removed, absent=update.absent, answered=update.answered)
            )
        self._on_change(urgent=urgent)

    def on_rejected(self, rejected: Rejected) -> None:
        """A policy that can't be understood denies where it may hold; what is at an address, but not understood, is not reached."""
        if rejected.type_url == AUTHORIZATION_TYPE:
            self._store.apply(Update(rejected_policies=((rejected.name, rejected.error),)))
            self._on_change(urgent=True)
        elif rejected.keys and not rejected.has_last_good:
            self._store.apply(Update(unreadable=rejected.keys))
            self._on_change(urgent=False)

    def on_ready(self) -> None:
        """The whole of the policies is here."""
        self.ready = True
        self._store.apply(Update(policies_arrived=True))
        self._on_change(urgent=True)

    def restore(self, kept: Kept) -> None:
        """Takes what was kept beside the resources themselves; call it after the client's `restore` brought those."""
        self._store.apply(Update(absent=kept.absent, answered=kept.answered, policies_arrived=kept.policies_arrived))

    def collect(self, wanted: frozenset[str], rejected: Mapping[str, Mapping[str, str]]) -> Kept:
        """What is to be kept now; `wanted` and `rejected` are the client's."""
        snapshot = self._store.current
        return Kept(
            resources={url: tuple(held.values()) for url, held in self._resources.items() if held},
            wanted=tuple(sorted(wanted)),
            absent=tuple(key for key, why in snapshot.absent.items() if why is Missing.ABSENT and key in wanted)[:MAX_KEPT_ABSENT],
            rejected={url: dict(names) for url, names in rejected.items() if names},
            policies_arrived=snapshot.policies_arrived,
            answered=tuple(key for key in snapshot.answered if key in wanted),
        )

    def _rules_differ(self, values: list[Value]) -> bool:
        """Whether other policies hold for a workload than before: they are named there, not found by their selectors."""
        known = self._store.current.workloads
        return any(
            isinstance(value, Workload)
            and (before := known.get(value.uid)) is not None
            and before.authorization_policies != value.authorization_policies
            for value in values
        )

    def _apply_names(self, tables: list[Names], removed: tuple[str, ...]) -> None:
        for namespace in removed:
            self._names.remove(namespace)
        for names in tables:
            self._names.put(names)

    def _apply_trust(self, bundles: list[TrustBundle], removed: tuple[str, ...]) -> None:
        for name in removed:
            self._trust.forget(name)
        for bundle in bundles:
            self._trust.apply(bundle)
