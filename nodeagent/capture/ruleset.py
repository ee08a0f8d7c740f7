"""What all rules in a captured namespace share, as text in nft's words: the table, what it remembers, how it is replaced, common tests.

The rules themselves are pure functions of the terms, in a module for each way: `tproxied`, `redirected`, `looped`; their outcome is kept
in golden files.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from meshapi.wire import CONNECTION_MARK, MARK_MASK, PROXY_MARK
from nodeagent.capture.terms import Terms

FAMILY: Final = "inet"
TABLE: Final = "nodemesh"
AWAY: Final = "away"
"""The set whose one member says that the proxy is away, where the terms let connections past it then."""


class Mode(StrEnum):
    ENFORCE = "enforce"
    DRAIN = "drain"


Rules = Callable[[Mode, str, Terms], str]
"""The script that replaces the table, whatever it holds. `before`, the second argument, is kept in it: what `remove` puts back."""


def replacement(before: str, body: str) -> str:
    """The script that replaces the table by one with `body`: sets and chains."""
    return f"{deletion()}table {FAMILY} {TABLE} {{\n{_state(before)}{body}}}\n"


def preparation(before: str) -> str:
    """The script that only writes `before` down, ahead of any change that it is about."""
    return replacement(before, "")


def deletion() -> str:
    """The script that removes the table, if there is one."""
    # "destroy table" came with nftables 1.0.7; adding first makes the deletion safe where there is no table.
    return f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"


def opening() -> str:
    """The script that says that the proxy is away, in rules of a workload that fails open."""
    return f"add element {FAMILY} {TABLE} {AWAY} {{ tcp }}\n"


def closing() -> str:
    """The script that takes it back."""
    return f"flush set {FAMILY} {TABLE} {AWAY}\n"


def chain(name: str, *rules: str, base: str = "") -> str:
    """A chain in nft's words; rules that are empty are left out, and a chain without any is none."""
    lines = [f"\t\t{rule}\n" for rule in ((f"type {base}; policy accept;",) if base else ()) + rules if rule]
    return f"\tchain {name} {{\n{''.join(lines)}\t}}\n" if any(rules) else ""


def away_set() -> str:
    """Where the proxy's absence is noted."""
    return f"\tset {AWAY} {{\n\t\ttype inet_proto\n\t\tsize 4\n\t\tflags dynamic,timeout\n\t}}\n"


def _state(before: str) -> str:
    # A chain that nothing jumps to: comments of rules are the one kind that every version lists as JSON.
    return f'\tchain state {{\n\t\tcontinue comment "before {before}"\n\t}}\n'


PROXY: Final = f"{MARK_MASK:#x} == {PROXY_MARK:#x}"
NOT_PROXY: Final = f"{MARK_MASK:#x} != {PROXY_MARK:#x}"
TO_APPLICATION: Final = f"{MARK_MASK:#x} == {CONNECTION_MARK:#x}"
SYN: Final = "tcp flags & (fin | syn | rst | ack) == syn"
LATER: Final = "tcp flags & (fin | syn | rst | ack) != syn"
RST: Final = "tcp flags & rst == rst"
IS_AWAY: Final = f"meta l4proto @{AWAY}"
"""The proxy is away, and connections may pass it by."""

NOT_TCP: Final = "meta l4proto != tcp accept"
TO_LOOPBACK: Final = ("ip daddr 127.0.0.0/8 accept", "ip6 daddr ::1 accept")
OWN: Final = (NOT_TCP, f"meta mark & {PROXY} accept", f"meta mark & {TO_APPLICATION} accept")
"""What the proxy sends; of TCP, only what follows is captured."""
