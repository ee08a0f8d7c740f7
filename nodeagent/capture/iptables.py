"""Capture by iptables rules, for nodes without nftables. What it stands on is the same: `groundwork`."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from nodeagent.capture import chains, groundwork
from nodeagent.capture.base import CaptureState, Former, Inspection, Way
from nodeagent.capture.chains import JUMPS, PREFIX, STATE, Wanted
from nodeagent.capture.listeners import Listener
from nodeagent.capture.ruleset import Mode
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.capture.tproxied import HALF_CLOSED_S
from nodeagent.linux import iptables, sysctl
from nodeagent.linux.iptables import Backend, Rules
from nodeagent.linux.namespaces import Namespace, run_in_empty
from nodeagent.linux.nftables import Counter

_HELD: Final = ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "net.netfilter.nf_conntrack_tcp_timeout_fin_wait")
"""A half-closed connection must not be forgotten while the proxy keeps it."""
_HELD_MEMORY: Final = "held "
_REMEMBERED_RULES: Final = 256
_Content = dict[str, dict[str, tuple[str, ...]]]


class IptablesCapture:
    """See `Capture`."""

    name = Way.IPTABLES

    def __init__(self, backend: Backend, former: Sequence[Former] = ()) -> None:
        """`former`: other ways, whose rules are replaced where they are found."""
        self.backend = backend
        self._former = former

    def apply(self, namespace: Namespace, listeners: Sequence[Listener] = (), terms: Terms = TOTAL) -> None:  # noqa: ARG002 - the rules know the ports
        formerly = next((before for one in self._former if (before := one.memory(namespace)) is not None), None)
        namespace.run(_put, self.backend, Wanted(4, Mode.ENFORCE, terms), formerly)
        for one in self._former:
            one.clear(namespace)

    def open(self, namespace: Namespace, terms: Terms) -> None:
        if terms.fail_open:
            namespace.run(_put, self.backend, Wanted(4, Mode.ENFORCE, terms, away=True), None)

    def drain(self, namespace: Namespace, terms: Terms = TOTAL) -> None:
        if ChainsOf(self.backend).memory(namespace) is not None:
            namespace.run(_put, self.backend, Wanted(4, Mode.DRAIN, terms), None)

    def remove(self, namespace: Namespace) -> None:
        namespace.run(_remove, self.backend)
        for one in self._former:
            if (before := one.memory(namespace)) is not None:
                namespace.run(groundwork.lift, before)
                one.clear(namespace)

    def inspect(self, namespace: Namespace, terms: Terms = TOTAL) -> Inspection:
        return namespace.run(_inspect, self.backend, terms)


class ChainsOf:
    """The chains of a backend, as what another way finds of this one. See `Former`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def memory(self, namespace: Namespace) -> str | None:
        return namespace.run(_memory, self._backend)

    def clear(self, namespace: Namespace) -> None:
        namespace.run(_clear, self._backend)


def _versions() -> list[int]:
    # Of the kernel, not of what is in use now: IPv6 may be switched on later.
    return [4, 6] if sysctl.read("net.ipv6.conf.lo.disable_ipv6") is not None else [4]


def _put(backend: Backend, wanted: Wanted, formerly: str | None) -> None:
    there = _there(backend)
    memory = _remembered(there.get(4, {}))
    if not memory:
        memory = _remember(formerly)
        # Written down ahead of any change that it is about.
        iptables.restore(backend, 4, chains.memorial(memory))
    groundwork.lay()
    for version in _versions():
        made = chains.tables(_for(wanted, version, memory))
        found = there.get(version, {})
        # Replacing a table resets its counters: not without need.
        if _ours(found) == _reference(backend, _for(wanted, version, memory)):
            continue
        for table in JUMPS:
            iptables.restore(backend, version, chains.script(table, made[table], _jumps(found.get(table))))
            _delete(backend, version, table, _chains(found.get(table)) - {PREFIX + name for name in made[table]})
    for name in _HELD:
        if sysctl.read(name) not in {str(HALF_CLOSED_S), None}:
            sysctl.write(name, str(HALF_CLOSED_S))


def _for(wanted: Wanted, version: int, memory: tuple[str, ...]) -> Wanted:
    return Wanted(version, wanted.mode, wanted.terms, wanted.away, memory if version == 4 else ())


def _remember(formerly: str | None) -> tuple[str, ...]:
    held = " ".join(sysctl.read(name) or "-" for name in _HELD)
    return f"before {formerly or groundwork.as_it_is()}", f"{_HELD_MEMORY}{held}"


def _remembered(tables: dict[str, Rules]) -> tuple[str, ...]:
    """What our state remembers, if all of it can be: who is root in the namespace can write there what he likes."""
    mangle = tables.get("mangle")
    found = [comment for rule in (mangle.chains.get(STATE, ()) if mangle else ()) for comment in iptables.comments(rule)]
    before = [one for one in found if groundwork.remembered(one) is not None]
    held = [one for one in found if _held(one) is not None]
    return (before[0], held[0]) if before and held else ()


def _held(comment: str) -> list[str] | None:
    words = comment.removeprefix(_HELD_MEMORY).split(" ")
    good = (
        comment.startswith(_HELD_MEMORY)
        and len(words) == len(_HELD)
        and all(one == "-" or (one.isascii() and one.isdigit()) for one in words)
    )
    return words if good else None


def _memory(backend: Backend) -> str | None:
    memory = _remembered(_there(backend).get(4, {}))
    return groundwork.remembered(memory[0]) if memory else None


def _there(backend: Backend) -> dict[int, dict[str, Rules]]:
    """By IP version and table."""
    versions = (version for version in _versions() if iptables.may_hold(backend, version, "mangle", STATE))
    return {version: dict(iptables.listing(backend, version)[0]) for version in versions}


def _remove(backend: Backend) -> None:
    there = _there(backend)
    if not any(_chains(rules) for tables in there.values() for rules in tables.values()):
        return
    memory = _remembered(there.get(4, {}))
    groundwork.lift(groundwork.remembered(memory[0]) if memory else None)
    _clear(backend)


def _clear(backend: Backend) -> None:
    there = _there(backend)
    memory = _remembered(there.get(4, {}))
    for name, value in zip(_HELD, _held(memory[1]) or () if memory else (), strict=False):
        if value not in {"-", sysctl.read(name)}:
            sysctl.write(name, value)
    # The one that remembers goes last.
    for version in sorted(there, reverse=True):
        for table in reversed(JUMPS):
            found = there[version].get(table)
            if _chains(found) or _jumps(found):
                iptables.restore(backend, version, chains.removal(table, sorted(_chains(found)), _jumps(found)))


def _delete(backend: Backend, version: int, table: str, names: Iterable[str]) -> None:
    """Of chains that are not needed any more: nothing leads there."""
    if unused := sorted(names):
        iptables.restore(backend, version, chains.removal(table, unused, ()))


def _inspect(backend: Backend, terms: Terms) -> Inspection:
    versions = _versions()
    listings = {version: iptables.listing(backend, version) for version in versions if iptables.may_hold(backend, version, "mangle", STATE)}
    counters = _sum([counted for _, counted in listings.values()])
    tables = {version: dict(found) for version, (found, _) in listings.items()}
    if not any(_chains(rules) for by_table in tables.values() for rules in by_table.values()):
        return Inspection(CaptureState.ABSENT)
    memory = _remembered(tables.get(4, {}))

    def are(mode: Mode, *, away: bool = False) -> bool:
        wanted = Wanted(4, mode, terms, away)
        return all(_ours(tables.get(version, {})) == _reference(backend, _for(wanted, version, memory)) for version in versions)

    if memory and are(Mode.DRAIN):
        return Inspection(CaptureState.DRAINING, counters)
    is_open = bool(memory) and terms.fail_open and are(Mode.ENFORCE, away=True)
    if not memory or not (is_open or are(Mode.ENFORCE)):
        return Inspection(CaptureState.BROKEN, counters, "the rules are incomplete, were changed, or are of another version")
    if missing := groundwork.missing() or _not_held():
        return Inspection(CaptureState.BROKEN, counters, missing)
    return Inspection(CaptureState.OPEN if is_open else CaptureState.CAPTURED, counters)


def _not_held() -> str:
    wrong = (f"{name} is {found}" for name in _HELD if (found := sysctl.read(name)) not in {str(HALF_CLOSED_S), None})
    return next(wrong, "")


def _sum(counted: Iterable[dict[str, Counter]]) -> dict[str, Counter]:
    made: dict[str, Counter] = {}
    for one in counted:
        for name, counter in one.items():
            if not name.startswith(("before ", _HELD_MEMORY)):
                before = made.get(name, Counter(0, 0))
                made[name] = Counter(before.packets + counter.packets, before.bytes + counter.bytes)
    return made


def _chains(rules: Rules | None) -> set[str]:
    return {name for name in rules.chains if name.startswith(PREFIX)} if rules else set()


def _jumps(rules: Rules | None) -> list[str]:
    """Each rule of a chain that is not ours, and leads to one that is."""
    others = (found for name, found in rules.chains.items() if not name.startswith(PREFIX)) if rules else ()
    return [rule for found in others for rule in found if f" {PREFIX}" in rule]


def _ours(tables: dict[str, Rules]) -> _Content:
    """What must be as we made it: our chains, and that the first rule of each of the kernel's leads to ours."""
    made: _Content = {}
    for table, jumps in JUMPS.items():
        rules = tables.get(table, Rules({}))
        made[table] = {name: found for name, found in rules.chains.items() if name.startswith(PREFIX)}
        made[table] |= {chain: rules.chains.get(chain, ())[:1] for chain in jumps}
    return made


@lru_cache(_REMEMBERED_RULES)
def _reference(backend: Backend, wanted: Wanted) -> _Content:
    """How this kernel and these programs show our rules: asked once, in an empty namespace, so that we need not know their words."""
    return run_in_empty(_make, backend, wanted)


def refusal(backend: Backend, terms: Terms) -> str:
    """Why this kernel, or these programs, do not take the rules for `terms`; empty if they do. Blocks."""
    try:
        _reference(backend, Wanted(4, Mode.ENFORCE, terms))
    except OSError as error:
        return str(error)
    return ""


def _make(backend: Backend, wanted: Wanted) -> _Content:
    for table, made in chains.tables(wanted).items():
        iptables.restore(backend, wanted.version, chains.script(table, made, ()))
    return _ours(dict(iptables.listing(backend, wanted.version)[0]))
