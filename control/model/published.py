"""The resources as they are served, with the look-ups that agents ask for."""

from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Final

from control.model.derivation import ADDRESS, ALIAS, AUTHORIZATION, Candidate
from control.model.name_tables import NameTables
from control.resources import Changes, Resource, TypeURL
from meshapi import wire
from meshapi.workload import Service, ServiceKey, Workload

NAMES: Final = TypeURL(wire.NAMES_TYPE)


class Published:
    """Implements ResourceView; `commit` tells watchers what a batch of changes really changed."""

    def __init__(self, domain: str) -> None:
        """`domain`: the cluster's, in DNS."""
        self._resources: dict[TypeURL, dict[str, Resource]] = {}
        self._candidates: dict[tuple[TypeURL, str], Candidate] = {}
        self._by_alias: dict[str, set[str]] = {}
        self._members: dict[str, set[str]] = {}
        self._names = NameTables(domain)
        self._before: dict[tuple[TypeURL, str], Resource | None] = {}
        """What was there for each name that the running batch touched."""
        self._watchers: list[Callable[[Changes], None]] = []

    def names(self, type_url: TypeURL) -> Collection[str]:
        """Every resource of a type."""
        return self._resources.get(type_url, {}).keys()

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        """A resource by its name."""
        return self._resources.get(type_url, {}).get(name)

    def value(self, name: str) -> Workload | Service | None:
        """The workload or service that is served under a name."""
        candidate = self._candidates.get((ADDRESS, name))
        return candidate.value if candidate else None

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        """The names that a key stands for: a name, or an address of workloads and services."""
        if self.get(type_url, key) is not None:
            return (key,)
        return tuple(sorted(self._by_alias.get(key, ()))) if type_url == ADDRESS else ()

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:
        """The workloads of a service."""
        return tuple(sorted(self._members.get(name, ()))) if type_url == ADDRESS else ()

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        """Calls `on_change` after each batch that changed something; returns what ends it."""

        # A function of its own for each call: ending one watch must not end an equal other one.
        def call(changes: Changes) -> None:
            on_change(changes)

        self._watchers.append(call)
        return lambda: self._watchers.remove(call) if call in self._watchers else None

    def put(self, candidate: Candidate) -> None:
        """Serves a resource, within a batch."""
        self.remove(candidate.type_url, candidate.name)
        if candidate.type_url != ALIAS:
            self._set(candidate.type_url, candidate.name, candidate.encode())
        self._candidates[(candidate.type_url, candidate.name)] = candidate
        for alias in candidate.aliases:
            self._by_alias.setdefault(alias, set()).add(candidate.name)
        for service in candidate.services:
            self._members.setdefault(service, set()).add(candidate.name)
        if candidate.host is not None:
            self._names.put(ServiceKey(candidate.name), candidate.host)

    def remove(self, type_url: TypeURL, name: str) -> None:
        """Serves a resource no more, within a batch."""
        self._before.setdefault((type_url, name), self.get(type_url, name))
        if (candidate := self._candidates.pop((type_url, name), None)) is None:
            return
        self._resources.get(type_url, {}).pop(name, None)
        if candidate.host is not None:
            self._names.remove(ServiceKey(name))
        for index, places in ((self._by_alias, candidate.aliases), (self._members, candidate.services)):
            for place in places:
                index[place].discard(name)
                if not index[place]:
                    del index[place]

    def commit(self) -> Changes:
        """Ends a batch, and returns what it changed."""
        for namespace, body in self._names.changed():
            self._before.setdefault((NAMES, namespace), self.get(NAMES, namespace))
            if body is not None:
                self._set(NAMES, namespace, body)
            else:
                self._resources.get(NAMES, {}).pop(namespace, None)
        changes: dict[TypeURL, set[str]] = {}
        for (type_url, name), before in self._before.items():
            if self.get(type_url, name) != before:
                changes.setdefault(type_url, set()).add(name)
        self._before.clear()
        ordered = self._in_order(changes)
        if ordered:
            for watcher in tuple(self._watchers):
                watcher(ordered)
        return ordered

    def _set(self, type_url: TypeURL, name: str, body: bytes) -> None:
        resource = Resource(name, blake2b(body, digest_size=8).hexdigest(), body)
        self._resources.setdefault(type_url, {})[name] = resource

    def _in_order(self, changes: Changes) -> Changes:
        """Policies before the workloads that name them, but where policies only go, after: agents deny at a name without its policy."""
        policies_come = any(self.get(AUTHORIZATION, name) is not None for name in changes.get(AUTHORIZATION, ()))
        return dict(sorted(changes.items(), key=lambda entry: (entry[0] == AUTHORIZATION) != policies_come))
