"""iptables of this namespace through its own programs: a table replaced in one step, and a listing of what is there.

Two backends may be on a node: one that makes nftables rules, and the older one with tables of its own. Neither shows what the other holds.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from shutil import which
from typing import Final

from msgspec import Struct

from nodeagent.linux import nftables, programs
from nodeagent.linux.errors import KernelError
from nodeagent.linux.nftables import Counter

_LOCK_S: Final = 5
_COUNTED: Final = re.compile(r"\[(\d+):(\d+)\] (.*)")
_COMMENT: Final = re.compile(r' --comment (?:"([^"]*)"|(\S+))')


class Backend(Struct, frozen=True):
    """Its programs, those for IPv4 first."""

    name: str
    programs: tuple[tuple[int, str, str], ...]
    """For an IP version, what restores and what saves."""

    def restoring(self, version: int) -> str:
        return next(restore for number, restore, _ in self.programs if number == version)

    def saving(self, version: int) -> str:
        return next(save for number, _, save in self.programs if number == version)


class Rules(Struct, frozen=True):
    """What a listing says of a table's chains: the rules in their order, as the program writes them, without what was counted."""

    chains: dict[str, tuple[str, ...]]


def backends() -> tuple[Backend, ...]:
    """Those that this node has programs of, the better first."""
    found = (_backend(name) for name in ("nft", "legacy"))
    return tuple(one for one in found if one is not None)


def _backend(name: str) -> Backend | None:
    """None if a program is missing, also of those for IPv6: a version without rules would be open."""
    found = [
        (version, which(f"{word}-{name}-restore"), which(f"{word}-{name}-save")) for version, word in ((4, "iptables"), (6, "ip6tables"))
    ]
    programs = tuple((version, restore, save) for version, restore, save in found if restore and save)
    return Backend(name, programs) if len(programs) == len(found) else None


def restore(backend: Backend, version: int, script: str) -> None:
    """Applies the script of a table whole or not at all; the rest of what is there stays. Blocks; raises KernelError."""
    programs.run([backend.restoring(version), "--noflush", "--wait", str(_LOCK_S)], stdin=script)


def listing(backend: Backend, version: int) -> tuple[Mapping[str, Rules], dict[str, Counter]]:
    """By table, its rules; and what rules with a comment have counted, by that. Blocks; raises KernelError."""
    return read_listing(programs.run([backend.saving(version), "-c"]))


def read_listing(text: str) -> tuple[dict[str, Rules], dict[str, Counter]]:
    """Reads what `iptables-save -c` writes."""
    tables: dict[str, dict[str, list[str]]] = {}
    counters: dict[str, Counter] = {}
    chains: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif line.startswith(":"):
            chains[line[1:].split()[0]] = []
        elif counted := _COUNTED.fullmatch(line):
            packets, size, rule = counted.groups()
            chains.setdefault(rule.split()[1], []).append(rule)
            for comment in comments(rule):
                before = counters.get(comment, Counter(0, 0))
                counters[comment] = Counter(before.packets + int(packets), before.bytes + int(size))
    return {name: Rules({chain: tuple(rules) for chain, rules in made.items()}) for name, made in tables.items()}, counters


def comments(rule: str) -> list[str]:
    """Those of a rule as it is listed."""
    return [quoted or bare for quoted, bare in _COMMENT.findall(rule)]


def may_hold(backend: Backend, version: int, table: str, chain: str) -> bool:
    """Whether the namespace can have this chain, as far as that is told without starting a program, which would make tables, too."""
    if backend.name == "nft":
        try:
            return nftables.has_chain("ip" if version == 4 else "ip6", table, chain)
        except KernelError:
            return nftables.is_there()
    names = Path(f"/proc/thread-self/net/{'ip' if version == 4 else 'ip6'}_tables_names")
    return names.exists() and bool(names.read_text())
