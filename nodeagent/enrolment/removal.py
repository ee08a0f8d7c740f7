"""Captures on their way out: those of released workloads, until the proxy's connections are done, and those that a former agent left."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

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
    drained: bool = True
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

    def add_former(self, workload: LocalWorkload, key: NamespaceKey, *, until_s: float) -> None:
        """What a former agent left in the namespace `key`."""
        self._leaving[key] = _Leaving(workload, key, None, until_s, drained=False)

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

    @property
    def draining(self) -> bool:
        """Whether any has time left, which ends early where its namespace goes: nothing tells, it must be looked at."""
        return any(not one.problem for one in self._leaving.values())

    def finish(self, now_s: float) -> list[str]:
        """Drains what is not draining yet and removes what has had its time; what fails is tried again later. Blocks.

        Returns the uids of the workloads whose time ended early, since their namespaces are gone.
        """
        cut_short: list[str] = []
        for one in list(self._leaving.values()):
            # Where the namespace is gone there is nobody to drain for, and what is kept open of it would keep its address in use.
            gone = key_at(one.workload.netns) != one.key
            if gone and one.until_s > now_s:
                cut_short.append(one.workload.uid)
            due = gone or one.until_s <= now_s
            try:
                if due:
                    self._do(self._capture.remove, one)
                elif not one.drained:
                    self._do(partial(self._capture.drain, terms=one.workload.terms), one)
                    one.drained = True
            except OSError as error:
                one.problem = f"its capture is not removed yet: {error}"
                one.until_s = max(one.until_s, now_s + self._retry_s)
                log.warning("workload %s: %s", one.workload.uid, one.problem)
                continue
            if due:
                log.info("workload %s: its namespace is %s", one.workload.uid, "gone" if gone else "as it was before")
                self.forget(one.key)
        return cut_short

    def close(self) -> None:
        for one in self._leaving.values():
            if one.namespace:
                one.namespace.close()

    def _do(self, action: Callable[[Namespace], None], one: _Leaving) -> None:
        if one.namespace:
            action(one.namespace)
        elif key_at(one.workload.netns) == one.key:
            with one.workload.open() as namespace:
                action(namespace)
