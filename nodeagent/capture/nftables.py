"""Capture by nftables rules, policy routing and three sysctls in the workload's network namespace."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from nodeagent.capture import groundwork
from nodeagent.capture.base import CaptureState, Former, Inspection, Way
from nodeagent.capture.listeners import Listener
from nodeagent.capture.ruleset import AWAY, FAMILY, TABLE, Mode, Rules, closing, deletion, opening, preparation
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.capture.tproxied import transaction
from nodeagent.linux import nftables
from nodeagent.linux.namespaces import Namespace, run_in_empty

# Of the terms that are in use on a node, in both modes.
_REMEMBERED_SCRIPTS: Final = 256


class NftablesCapture:
    """See `Capture`."""

    def __init__(self, rules: Rules = transaction, name: str = Way.NFTABLES, former: Sequence[Former] = ()) -> None:
        """`former`: other ways, whose rules are replaced where they are found."""
        self._rules = rules
        self._former = former
        self.name = name

    def prepare(self, namespace: Namespace) -> None:
        """Makes what the proxy needs to reach the application; captures nothing yet, and takes nothing off."""
        namespace.run(_prepare, self._formerly(namespace))

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:  # noqa: ARG002 - the rules know the ports
        self.prepare(namespace)
        namespace.run(_apply, self._rules, terms)
        self._clear_former(namespace)

    def open(self, namespace: Namespace, terms: Terms) -> None:
        if terms.fail_open:
            namespace.run(_open)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        namespace.run(_drain, self._rules, terms, self._formerly(namespace))
        self._clear_former(namespace)

    def remove(self, namespace: Namespace) -> None:
        namespace.run(_remove, self._formerly(namespace))
        self._clear_former(namespace)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        return namespace.run(_inspect, self._rules, terms)

    def _formerly(self, namespace: Namespace) -> str | None:
        return next((before for one in self._former if (before := one.memory(namespace)) is not None), None)

    def _clear_former(self, namespace: Namespace) -> None:
        for one in self._former:
            one.clear(namespace)


class NftablesTable:
    """Our table, as what another way finds of this one. See `Former`."""

    def memory(self, namespace: Namespace) -> str | None:
        return _before(namespace.run(nftables.table, FAMILY, TABLE))

    def clear(self, namespace: Namespace) -> None:
        if namespace.run(nftables.table, FAMILY, TABLE) is not None:
            namespace.run(nftables.transact, deletion())


def refusal(rules: Rules, terms: Terms) -> str:
    """Why this kernel does not take the rules for `terms`; empty if it does. Blocks."""
    try:
        _reference(rules(Mode.ENFORCE, "0 0 -", terms))
    except OSError as error:
        return str(error)
    return ""


def _prepare(formerly: str | None) -> None:
    if _before(nftables.table(FAMILY, TABLE)) is None:
        nftables.transact(preparation(formerly or groundwork.as_it_is()))
    groundwork.lay()


def _apply(rules: Rules, terms: Terms) -> None:
    found = nftables.table(FAMILY, TABLE)
    script = rules(Mode.ENFORCE, _before(found) or groundwork.as_it_is(), terms)
    # Replacing the table resets its counters, and forgets connections that went past: not without need.
    if not _is(found, script):
        nftables.transact(script)
    elif _is_away(found):
        nftables.transact(closing())


def _open() -> None:
    if not _is_away(nftables.table(FAMILY, TABLE)):
        nftables.transact(opening())


def _drain(rules: Rules, terms: Terms, formerly: str | None) -> None:
    found = nftables.table(FAMILY, TABLE)
    if (before := _before(found) or formerly) is not None and not _is(found, script := rules(Mode.DRAIN, before, terms)):
        nftables.transact(script)


def _remove(formerly: str | None) -> None:
    found = nftables.table(FAMILY, TABLE)
    if found is None and formerly is None:
        return
    groundwork.lift(_before(found) or formerly)
    # Last: it holds what to put back.
    nftables.transact(deletion())


def _inspect(rules: Rules, terms: Terms) -> Inspection:
    found = nftables.table(FAMILY, TABLE)
    if found is None:
        return Inspection(CaptureState.ABSENT)
    before = _before(found)
    if before is not None and _is(found, rules(Mode.DRAIN, before, terms)):
        return Inspection(CaptureState.DRAINING, found.counters)
    if before is None or not _is(found, rules(Mode.ENFORCE, before, terms)):
        return Inspection(CaptureState.BROKEN, found.counters, "the rules are incomplete, were changed, or are of another version")
    if missing := groundwork.missing():
        return Inspection(CaptureState.BROKEN, found.counters, missing)
    return Inspection(CaptureState.OPEN if _is_away(found) else CaptureState.CAPTURED, found.counters)


def _is(found: nftables.Table | None, script: str) -> bool:
    return found is not None and found.content == _reference(script)


def _is_away(found: nftables.Table | None) -> bool:
    return found is not None and AWAY in found.sets and nftables.has_members(FAMILY, TABLE, AWAY)


@lru_cache(_REMEMBERED_SCRIPTS)
def _reference(script: str) -> bytes:
    """How this kernel and this library show our rules: asked once, in an empty namespace, so that we need not know their words."""
    return run_in_empty(_make, script)


def _make(script: str) -> bytes:
    nftables.transact(script)
    made = nftables.table(FAMILY, TABLE)
    return made.content if made else b""


def _before(found: nftables.Table | None) -> str | None:
    """The sysctls as they were before us, as our table remembers them."""
    comments = found.comments if found else ()
    return next((before for one in comments if (before := groundwork.remembered(one)) is not None), None)
