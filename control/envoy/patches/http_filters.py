"""Patches of HTTP_FILTER: into the row of filters that a request passes, but never ahead of what secures, nor in its place."""

from enum import IntEnum

from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.messages import Message
from control.envoy.patches.allowed import LIMITING, PatchError, type_name
from control.envoy.patches.applied import Applied
from control.envoy.patches.holding import Bound, patches_at
from control.envoy.patches.matching import at_chain
from control.envoy.patches.merging import merge, unnamed
from control.envoy.patches.spot import Spot
from control.envoy.rbac.filters import HTTP_RBAC, SEATS
from control.envoy.world import World
from control.kinds import ObjectKey
from control.kinds.envoy_filter import ApplyTo, FilterClass, Operation


class Rank(IntEnum):
    """What a filter is in the row. Behind the last that secures, those that are added may do as they like."""

    PREFLIGHT = 0
    AUTHENTICATES = 1
    AUTHORIZES = 2
    OPEN = 3
    FIXED = 4
    COUNTS = 5
    ROUTER = 6


class Entry(Struct):
    """A filter in the row. `added`: by which object, None for the mesh's own."""

    message: Message
    rank: Rank
    added: ObjectKey | None = None

    @property
    def name(self) -> str:
        """By which patches know it: the filters that judge are one to whoever writes a patch."""
        name = str(self.message.name)
        return HTTP_RBAC if name in SEATS.values() else name


class Patched(Struct, frozen=True):
    """The row as it became, the objects that shaped it, and what they ask for in vain."""

    filters: tuple[Message, ...]
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


def patch_http_filters(world: World, spot: Spot, entries: list[Entry]) -> Patched:
    """The filters of a chain, patched. `entries` are the mesh's own, the router last."""
    held = [one for one in patches_at(world, spot, ApplyTo.HTTP_FILTER) if at_chain(one.patch, spot)]
    row = _Row(list(entries), world.settings.root_namespace)
    # As Istio has it: merges come last, whatever the order in which they are written.
    for last in (False, True):
        for bound in held:
            if (bound.patch.operation is Operation.MERGE) is last:
                row.apply(bound)
    return Patched(tuple(one.message for one in row.entries), tuple(row.applied.sources), tuple(row.applied.problems))


class _Row:
    def __init__(self, entries: list[Entry], root_namespace: str) -> None:
        self.entries = entries
        self.applied = Applied(root_namespace)

    def apply(self, bound: Bound) -> None:
        """One patch; what can't be becomes a problem."""
        try:
            if self._applied(bound):
                self.applied.did(bound)
        except PatchError as error:
            self.applied.refused(bound, error)

    def _applied(self, bound: Bound) -> bool:
        patch = bound.patch
        match patch.operation:
            case Operation.MERGE:
                return self._merge(bound)
            case Operation.REMOVE:
                found = self._changeable(bound)
                self.entries = [one for one in self.entries if one not in found]
                return bool(found)
            case Operation.REPLACE:
                found = self._changeable(bound)
                for one in found:
                    self._check_ahead(bound, self.entries.index(one))
                    one.message, one.added = patch.message, bound.object
                return bool(found)
        at = self._position(bound)
        self._check_ahead(bound, at)
        self.entries.insert(at, Entry(patch.message, Rank.OPEN, bound.object))
        return True

    def _merge(self, bound: Bound) -> bool:
        found = self._changeable(bound, merged=True)
        for one in found:
            message = type(one.message).FromString(one.message.SerializeToString())
            merge(message, unnamed(bound.patch.message))
            one.message = message
        return bool(found)

    def _position(self, bound: Bound) -> int:
        patch, end = bound.patch, len(self.entries) - 1
        match patch.operation:
            case Operation.INSERT_FIRST:
                if patch.sub_filter:
                    self._found(bound)
                return 0
            case Operation.INSERT_BEFORE:
                return self._found(bound) if patch.sub_filter else 0
            case Operation.INSERT_AFTER:
                at = self._found(bound) if patch.sub_filter else end
                # Several filters decide together who may: behind one of them is behind all.
                return self._secured if at < end and self.entries[at].rank is Rank.AUTHORIZES else min(at + 1, end)
        match patch.filter_class:
            case FilterClass.AUTHN:
                return next((at for at, one in enumerate(self.entries) if one.rank > Rank.AUTHENTICATES and not one.added), end)
            case FilterClass.AUTHZ:
                return self._after_added(self._secured)
            case FilterClass.STATS:
                return next((at for at, one in enumerate(self.entries) if one.rank is Rank.COUNTS), end)
        # Filters that the mesh needs right ahead of the router stay there.
        return end

    @property
    def _secured(self) -> int:
        """Behind all that secures, and what answers browsers ahead of it."""
        return 1 + max((at for at, one in enumerate(self.entries) if one.rank <= Rank.AUTHORIZES), default=-1)

    def _after_added(self, at: int) -> int:
        """Those of one class stand in the order in which they came."""
        while at < len(self.entries) and self.entries[at].added is not None:
            at += 1
        return at

    def _found(self, bound: Bound) -> int:
        name = bound.patch.sub_filter
        for at, one in enumerate(self.entries):
            if one.name == name:
                return at
        raise PatchError(f"there is no HTTP filter {name[:100]} here")

    def _check_ahead(self, bound: Bound, at: int) -> None:
        kind = type_name(bound.patch.message.typed_config)
        if at < self._secured and kind not in LIMITING:
            raise PatchError(f"a {kind.rpartition('.')[2]} can't stand ahead of what secures requests")

    def _changeable(self, bound: Bound, *, merged: bool = False) -> list[Entry]:
        named = [one for one in self.entries if one.name == bound.patch.sub_filter]
        for one in named:
            open_to_all = one.added is None and (
                one.rank in {Rank.PREFLIGHT, Rank.OPEN, Rank.COUNTS} or (merged and one.rank is Rank.ROUTER)
            )
            if not open_to_all and not self.applied.may_change(bound, one.added):
                raise PatchError(f"the filter {one.name[:100]} is not to be changed")
        return named
