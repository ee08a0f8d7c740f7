"""Patches of filter chains and their network filters, and of a gateway's listeners."""

from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.messages import Message
from control.envoy.patches.allowed import PatchError
from control.envoy.patches.applied import Applied
from control.envoy.patches.holding import Bound, patches_at
from control.envoy.patches.matching import at_chain, at_listener, names_filter
from control.envoy.patches.merging import merge, unnamed
from control.envoy.patches.spot import Spot
from control.envoy.world import World
from control.kinds import ObjectKey
from control.kinds.envoy_filter import ApplyTo, Operation


class PatchedMessage(Struct, frozen=True):
    """A chain or listener as it became, the objects that had a say, and what they asked for in vain."""

    message: Message
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


def patch_chain(world: World, spot: Spot | None, chain: Message) -> PatchedMessage:
    """A filter chain with its patches. Its last filter ends it, and stays the last."""
    held = patches_at(world, spot, ApplyTo.FILTER_CHAIN, ApplyTo.NETWORK_FILTER) if spot is not None else ()
    meant = [one for one in held if spot is not None and at_chain(one.patch, spot)]
    if not meant:
        return PatchedMessage(chain)
    row = _Row(_copied(chain), world.settings.root_namespace)
    for last in (False, True):
        for bound in meant:
            if (bound.patch.operation is Operation.MERGE) is last:
                row.apply(bound)
    return PatchedMessage(row.chain, tuple(row.applied.sources), tuple(row.applied.problems))


def patch_listener(world: World, spot: Spot | None, listener: Message) -> PatchedMessage:
    """A gateway's listener with its patches."""
    held = patches_at(world, spot, ApplyTo.LISTENER) if spot is not None else ()
    meant = [one for one in held if spot is not None and at_listener(one.patch, spot)]
    if not meant:
        return PatchedMessage(listener)
    found, applied = _copied(listener), Applied(world.settings.root_namespace)
    for bound in meant:
        try:
            merge(found, unnamed(bound.patch.message))
            applied.did(bound)
        except PatchError as error:
            applied.refused(bound, error)
    return PatchedMessage(found, tuple(applied.sources), tuple(applied.problems))


class _Row:
    """The network filters of a chain. Those that patches added, and by which object, are known by their place."""

    def __init__(self, chain: Message, root_namespace: str) -> None:
        self.chain = chain
        self.applied = Applied(root_namespace)
        self._added: list[ObjectKey | None] = [None] * len(chain.filters)

    def apply(self, bound: Bound) -> None:
        try:
            if self._done(bound):
                self.applied.did(bound)
        except PatchError as error:
            self.applied.refused(bound, error)

    def _done(self, bound: Bound) -> bool:
        patch = bound.patch
        if patch.apply_to is ApplyTo.FILTER_CHAIN:
            merge(self.chain, unnamed(patch.message))
            return True
        if patch.operation in {Operation.MERGE, Operation.REPLACE, Operation.REMOVE}:
            places = [at for at, one in enumerate(self.chain.filters) if names_filter(patch.filter, one)]
            for at in reversed(places):
                self._change(bound, at)
            return bool(places)
        at = self._position(bound)
        self.chain.filters.insert(at, patch.message)
        self._added.insert(at, bound.object)
        return True

    def _change(self, bound: Bound, at: int) -> None:
        operation, end = bound.patch.operation, len(self._added) - 1
        if not self.applied.may_change(bound, self._added[at]) and not (at == end and operation is Operation.MERGE):
            raise PatchError(f"the filter {self.chain.filters[at].name[:100]} is not to be changed")
        if operation is Operation.MERGE:
            merge(self.chain.filters[at], unnamed(bound.patch.message))
        elif operation is Operation.REPLACE:
            self.chain.filters[at].CopyFrom(bound.patch.message)
            self._added[at] = bound.object
        else:
            del self.chain.filters[at], self._added[at]

    def _position(self, bound: Bound) -> int:
        patch, end = bound.patch, len(self._added) - 1
        named = [at for at, one in enumerate(self.chain.filters) if patch.filter and names_filter(patch.filter, one)]
        if patch.filter and not named:
            raise PatchError(f"there is no network filter {patch.filter[:100]} here")
        match patch.operation:
            case Operation.INSERT_FIRST:
                return 0
            case Operation.INSERT_BEFORE:
                return named[0] if named else 0
            case Operation.INSERT_AFTER if named:
                return min(named[0] + 1, end)
        return end


def _copied(message: Message) -> Message:
    found = type(message)()
    found.CopyFrom(message)
    return found
