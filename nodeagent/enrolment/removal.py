"""Captures on their way out: those of released workloads, until the proxy's connections are done, and those that a former agent left."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from nodeagent.capture.base import Capture
from nodeagent.enrolment.records import Record
from nodeagent.linux.namespaces import Namespace, NamespaceKey, key_at
from nodeagent.runtime.base import LocalWorkload

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Leaving:
    """`namespace` None: a former agent's, opened by its path when its time has come."""

    workload: LocalWorkload
    key: NamespaceKey
    namespace: Namespace | None
    until_s: float
    problem: str = ""


class Removals:
    """Owns the namespaces that it was given. Times are of the monotonic clock."""

    def __init__(self, capture: Capture, *, retry_s: float) -> None:
        self._capture = capture
        self._retry_s = retry_s
        self._leaving: dict[NamespaceKey, _Leaving] = {}

    def add(self, workload: LocalWorkload, namespace: Namespace, *, until_s: float) -> None:
        """Takes over a namespace whose capture is to be removed at `until_s`."""
        self.forget(namespace.key)
        self._leaving[namespace.key] = _Leaving(workload, namespace.key, namespace, until_s)

    def add_former(self, workload: LocalWorkload, key: NamespaceKey) -> None:
        """What a former agent had released already."""
        self._leaving[key] = _Leaving(workload, key, None, 0.0)

    def forget(self, key: NamespaceKey) -> None:
        """The namespace is enrolled again: it is not to be cleared when its former workload's time is up."""
        if (one := self._leaving.pop(key, None)) and one.namespace:
            one.namespace.close()

    def hasten(self, until_s: float) -> None:
        """Nothing waits longer than that."""
        for one in self._leaving.values():
            one.until_s = min(one.until_s, until_s)

    def __iter__(self) -> Iterator[tuple[LocalWorkload, str]]:
        """What is still there, each with what hinders its removal."""
        return ((one.workload, one.problem) for one in self._leaving.values())

    def __len__(self) -> int:
        return len(self._leaving)

    @property
    def times_s(self) -> list[float]:
        return [one.until_s for one in self._leaving.values()]

    def records(self) -> list[Record]:
        return [Record(one.workload, leaving=True) for one in self._leaving.values()]

    def finish(self, now_s: float) -> None:
        """Removes the captures whose time has come; one that fails is tried again later. Blocks."""
        for one in [one for one in self._leaving.values() if one.until_s <= now_s]:
            try:
                self._remove(one)
            except OSError as error:
                one.problem = f"its capture is not removed yet: {error}"
                one.until_s = now_s + self._retry_s
                log.warning("workload %s: %s", one.workload.uid, one.problem)
            else:
                log.info("workload %s: its namespace is as it was before", one.workload.uid)
                self.forget(one.key)

    def close(self) -> None:
        for one in self._leaving.values():
            if one.namespace:
                one.namespace.close()

    def _remove(self, one: _Leaving) -> None:
        if one.namespace:
            self._capture.remove(one.namespace)
        elif key_at(one.workload.netns) == one.key:
            with Namespace.open(one.workload.netns) as namespace:
                self._capture.remove(namespace)
