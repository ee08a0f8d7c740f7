"""Values that are computed when they are asked for, kept, and computed again only when something that they looked at has changed.

A *query* is a pure function; what it asks while it runs is noted as what it depends on. `touch` says that the world outside may have
another answer for one query (an *input*) now. If it has, that marks whatever stands on it, however far, and nothing else; the next
`ask` looks at what is marked, from below, and stops where an answer came out equal to what it was: an endpoint that changed computes
the one load assignment that has it, and not the cluster, listener or routes beside it.

Answers are shared: who asks must not change them.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Key = tuple[Callable[..., Any], tuple[Hashable, ...]]


class CycleError(RuntimeError):
    """A query that asks itself: an error of ours."""


class _Node:
    """One query with its arguments. Revisions count `touch`: an answer that is newer than the look of its user is news to it."""

    __slots__ = ("changed", "dependencies", "fresh", "held", "looked", "touched", "users", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.dependencies: dict[Key, None] = {}
        self.users: set[Key] = set()
        self.held = 0
        self.fresh = False
        self.touched = True
        self.changed = 0
        self.looked = 0


class Computation:
    """The answers, and who stands on whom. One thread."""

    def __init__(self) -> None:
        self._nodes: dict[Key, _Node] = {}
        self._running: list[Key] = []
        self._revision = 1
        self._unused: set[Key] = set()
        self.computed = 0
        """How many queries ran: what a change costs."""

    def ask(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """The answer of `function(*args)` as of now; noted as looked at by the query that is running."""
        key: Key = (function, args)
        if self._running:
            self._depend(self._running[-1], key)
        node = self._refresh(key)
        if not self._running:
            self._drop_unused()
        value: T = node.value
        return value

    def touch(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """The world has another answer for an input now, perhaps: it is looked at at once, since most that is touched is as it was."""
        key: Key = (function, args)
        node = self._nodes.get(key)
        if node is None or node.touched:
            return
        try:
            if node.fresh and not node.dependencies and function(*args) == node.value:
                return
        except Exception:  # noqa: BLE001 -- it fails again, and is dealt with, when it is asked for
            node.touched = True
        self._revision += 1
        node.touched = True
        self._mark(node)

    def hold(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Keeps an answer although no query uses it; as often as `release` takes it back."""
        self._node((function, args)).held += 1

    def release(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        key: Key = (function, args)
        node = self._nodes[key]
        node.held -= 1
        self._unused.add(key)
        self._drop_unused()

    @property
    def size(self) -> int:
        """How many answers are kept."""
        return len(self._nodes)

    def _node(self, key: Key) -> _Node:
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node()
            self._unused.add(key)
        return node

    def _depend(self, user: Key, key: Key) -> None:
        if key in self._running:
            raise CycleError(f"{key[0].__name__}{key[1]} asks itself")
        self._nodes[user].dependencies[key] = None
        self._node(key).users.add(user)

    def _mark(self, node: _Node) -> None:
        marked = [node]
        while marked:
            one = marked.pop()
            one.fresh = False
            marked += [above for user in one.users if (above := self._nodes[user]).fresh]

    def _refresh(self, key: Key) -> _Node:
        node = self._node(key)
        if node.fresh:
            return node
        if node.touched or self._news_below(node):
            self._compute(key, node)
        node.looked = self._revision
        node.fresh = True
        return node

    def _news_below(self, node: _Node) -> bool:
        # In the order in which they were asked: an answer may decide what is asked next, which then may not even be possible any more.
        return any(self._refresh(key).changed > node.looked for key in tuple(node.dependencies))

    def _compute(self, key: Key, node: _Node) -> None:
        before, node.dependencies = node.dependencies, {}
        try:
            with self._while_running(key):
                value = key[0](*key[1])
        except BaseException:
            # Asked again, it is tried again; who stood under it may be under it still.
            node.dependencies = {**before, **node.dependencies}
            raise
        self.computed += 1
        for gone in before.keys() - node.dependencies.keys():
            self._nodes[gone].users.discard(key)
            self._unused.add(gone)
        if node.changed == 0 or value != node.value:
            node.value = value
            node.changed = self._revision
        node.touched = False

    @contextmanager
    def _while_running(self, key: Key) -> Iterator[None]:
        self._running.append(key)
        try:
            yield
        finally:
            self._running.pop()

    def _drop_unused(self) -> None:
        while self._unused:
            key = self._unused.pop()
            node = self._nodes.get(key)
            if node is None or node.users or node.held or self._running:
                continue
            del self._nodes[key]
            for below in node.dependencies:
                self._nodes[below].users.discard(key)
                self._unused.add(below)
