"""Values that are computed when they are asked for, kept, and computed again only when something that they looked at has changed.

A *query* is a pure function; what it asks while it runs is noted as what it depends on. `touch` says that the world outside may have
another answer for one query (an *input*) now. If it has, that marks whatever stands on it, however far, and nothing else; the next
`ask` looks at what is marked, from below, and stops where an answer came out equal to what it was: an endpoint that changed computes
the one load assignment that has it, and not the cluster, listener or routes beside it.

Answers are shared: who asks must not change them.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Key = tuple[Callable[..., Any], tuple[Hashable, ...]]


class CycleError(RuntimeError):
    """A query that asks itself: an error of ours."""


class Held(Protocol):
    """An answer that is kept."""

    @property
    def fresh(self) -> bool:
        """Whether it is surely as of now; otherwise the next `ask` may give another."""

    @property
    def changed(self) -> int:
        """The revision in which it last became another; 0 before there was one."""


class _Node:
    """One query with its arguments. Revisions count `touch`: an answer that is newer than the look of its user is news to it.

    Nodes stand on each other by themselves, not by their keys: to find a key costs a hash of its arguments.
    """

    __slots__ = ("changed", "dependencies", "fresh", "held", "key", "looked", "running", "touched", "users", "value")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.value: Any = None
        self.dependencies: dict[_Node, None] = {}
        self.users: set[_Node] = set()
        self.held = 0
        self.fresh = False
        self.touched = True
        self.running = False
        self.changed = 0
        self.looked = 0


class Computation:
    """The answers, and who stands on whom. One thread."""

    def __init__(self) -> None:
        self._nodes: dict[Key, _Node] = {}
        self._running: _Node | None = None
        self._revision = 1
        self._unused: dict[_Node, None] = {}
        """Perhaps: looked at when nothing runs. No set: to pop from one that was big once costs a walk through all of it."""
        self.computed = 0
        """How many queries ran: what a change costs."""

    def ask(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """The answer of `function(*args)` as of now; noted as looked at by the query that is running."""
        node, user = self._node((function, args)), self._running
        if user is None:
            self._unused[node] = None
        elif node.running:
            raise CycleError(f"{function.__name__}{args} asks itself")
        else:
            user.dependencies[node] = None
            node.users.add(user)
        if not node.fresh:
            self._refresh(node)
        if user is None:
            self._drop_unused()
        value: T = node.value
        return value

    def touch(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """The world has another answer for an input now, perhaps: it is looked at at once, since most that is touched is as it was."""
        node = self._nodes.get((function, args))
        if node is None or node.touched:
            return
        try:
            if node.fresh and not node.dependencies and function(*args) == node.value:
                return
        except Exception:  # noqa: BLE001 -- it fails again, and is dealt with, when it is asked for
            node.touched = True
        self._revision += 1
        node.touched = True
        _mark(node)

    def hold(self, function: Callable[[*Ts], object], *args: *Ts) -> Held:
        """Keeps an answer although no query uses it; as often as `release` takes it back."""
        node = self._node((function, args))
        node.held += 1
        return node

    def release(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        node = self._nodes[function, args]
        node.held -= 1
        self._unused[node] = None
        self._drop_unused()

    @property
    def size(self) -> int:
        """How many answers are kept."""
        return len(self._nodes)

    def _node(self, key: Key) -> _Node:
        node = self._nodes.get(key)
        if node is None:
            node = self._nodes[key] = _Node(key)
        return node

    def _refresh(self, node: _Node) -> None:
        if node.touched or self._news_below(node):
            self._compute(node)
        node.looked = self._revision
        node.fresh = True

    def _news_below(self, node: _Node) -> bool:
        # In the order in which they were asked: an answer may decide what is asked next, which then may not even be possible any more.
        for below in tuple(node.dependencies):
            if not below.fresh:
                self._refresh(below)
            if below.changed > node.looked:
                return True
        return False

    def _compute(self, node: _Node) -> None:
        before, node.dependencies = node.dependencies, {}
        above, self._running = self._running, node
        node.running = True
        function, args = node.key
        try:
            value = function(*args)
        except BaseException:
            # Asked again, it is tried again; who stood under it may be under it still.
            node.dependencies = {**before, **node.dependencies}
            raise
        finally:
            self._running = above
            node.running = False
        self.computed += 1
        for below in before:
            if below not in node.dependencies:
                below.users.discard(node)
                self._unused[below] = None
        if node.changed == 0 or value != node.value:
            node.value = value
            node.changed = self._revision
        node.touched = False

    def _drop_unused(self) -> None:
        """Not while something runs: what it asks next may stand on what is not used just now."""
        while self._unused and self._running is None:
            node, _ = self._unused.popitem()
            if node.users or node.held or self._nodes.get(node.key) is not node:
                continue
            del self._nodes[node.key]
            for below in node.dependencies:
                below.users.discard(node)
                self._unused[below] = None
            node.dependencies = {}


def _mark(node: _Node) -> None:
    """Whatever stands on it, however far, has to look again."""
    marked = [node]
    while marked:
        one = marked.pop()
        one.fresh = False
        marked += [above for above in one.users if above.fresh]
