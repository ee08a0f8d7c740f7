"""The rules of `redirected` in the words of iptables-restore, for nodes without nftables: a pure function of family, mode and terms.

What differs, since iptables can't do it: what is refused in two of its tables is dropped where it can't be reset; the kernel's memory of
half-closed connections is set for the whole namespace, by sysctls; and that the proxy is away is said by other rules, not by a set.
Each table is replaced in one step, the one behind all others (`leak`) first: what is in between is closed.
"""

from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import Final

from msgspec import Struct

from meshapi.wire import CONNECTION_MARK, DNS_PORT, HBONE_PORT, INBOUND_PLAINTEXT_PORT, MARK_MASK, OUTBOUND_PORT, PROXY_MARK
from nodeagent.capture.marks import PAST_MARK
from nodeagent.capture.ruleset import Mode
from nodeagent.capture.terms import PortRange, Terms

PREFIX: Final = "NODEMESH_"
STATE: Final = f"{PREFIX}STATE"
JUMPS: Final = {
    "mangle": {"PREROUTING": "AHEAD", "OUTPUT": "PASSING", "POSTROUTING": "LEAVING"},
    "filter": {"INPUT": "ENTERING", "OUTPUT": "LEFTOVERS"},
    "nat": {"PREROUTING": "INBOUND", "OUTPUT": "OUTBOUND"},
}
"""By table, from which chain of the kernel's a jump leads to which of ours. In the order in which they are put in force."""

Chains = dict[str, list[str]]


class Wanted(Struct, frozen=True):
    """What is to be in force for one IP version. `away`: the proxy is, and connections may pass it by."""

    version: int
    mode: Mode
    terms: Terms
    away: bool = False
    memory: tuple[str, ...] = ()
    """Comments to keep."""


def tables(wanted: Wanted) -> dict[str, Chains]:
    """By table, the rules of each chain, without its name."""
    made = _enforcing(wanted) if wanted.mode is Mode.ENFORCE else _draining()
    made["mangle"]["STATE"] = _state(wanted.memory)
    return made


def memorial(memory: Iterable[str]) -> str:
    """The script that only writes comments down."""
    return "\n".join(["*mangle", f":{STATE} - [0:0]", *(f"-A {STATE} {rule}" for rule in _state(memory)), "COMMIT", ""])


def _state(memory: Iterable[str]) -> list[str]:
    return [f'-m comment --comment "{comment}"' for comment in memory]


def script(table: str, chains: Chains, jumps: Iterable[str]) -> str:
    """Replaces our chains of a table, and puts the jumps to them first. `jumps`: those that are there, each a rule as it is listed."""
    lines = [f"*{table}", *(f":{PREFIX}{name} - [0:0]" for name in chains)]
    lines += [f"-D {rule.removeprefix('-A ')}" for rule in jumps]
    lines += [f"-I {chain} 1 {_jump(target)}" for chain, target in JUMPS[table].items()]
    lines += [f"-A {PREFIX}{name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join([*lines, "COMMIT", ""])


def removal(table: str, chains: Iterable[str], jumps: Iterable[str]) -> str:
    """Takes off what of ours is there: chains by their whole names, jumps as they are listed."""
    names = list(chains)
    lines = [f"*{table}", *(f"-D {rule.removeprefix('-A ')}" for rule in jumps)]
    return "\n".join([*lines, *(f"-F {name}" for name in names), *(f"-X {name}" for name in names), "COMMIT", ""])


def _jump(target: str) -> str:
    return f"{'' if target in _OF_ALL else '-p tcp '}-j {PREFIX}{target}"


_OF_ALL: Final = {"PASSING", "OUTBOUND"}
"""Chains that see what is not TCP, too: questions to DNS, and refusals of them."""


_OWN: Final = f"-m mark --mark {PROXY_MARK:#x}/{MARK_MASK:#x}"
_TO_APPLICATION: Final = f"-m mark --mark {CONNECTION_MARK:#x}/{MARK_MASK:#x}"
_PAST: Final = f"-m mark --mark {PAST_MARK:#x}"
_TCP: Final = "-p tcp -m tcp"
_SYN: Final = f"{_TCP} --syn"
_LATER: Final = f"{_TCP} ! --syn"
_RST: Final = f"{_TCP} --tcp-flags RST RST"
_BEGINS: Final = f"{_SYN} -m conntrack --ctstate NEW"
_THERE: Final = f"{_TCP} -m connmark --mark {PAST_MARK:#x} -m conntrack --ctdir ORIGINAL"
_BACK: Final = f"{_LATER} -m connmark --mark {PAST_MARK:#x} -m conntrack --ctdir REPLY"
_ADMIT: Final = f"-j CONNMARK --set-xmark {PAST_MARK:#x}/0xffffffff"
_LET: Final = f"-j MARK --set-xmark {PAST_MARK:#x}/0xffffffff"
_LOOPBACK: Final = {4: "127.0.0.0/8", 6: "::1/128"}


RECENT: Final = "nodemesh"
"""The list (xt_recent) of addresses from which the agent was asked when it was not there."""
_UNANSWERED: Final = f"-m recent --rcheck --seconds 60 --name {RECENT} --rsource"
_NOTE: Final = f"-m recent --set --name {RECENT} --rdest"
_DNS: Final = 53


def _comment(name: str) -> str:
    return f"-m comment --comment {name}"


def _enforcing(wanted: Wanted) -> dict[str, Chains]:
    terms, loopback = wanted.terms, f"-d {_LOOPBACK[wanted.version]} -j RETURN"
    own = [f"{_OWN} -j RETURN", f"{_TO_APPLICATION} -j RETURN"]
    past = [f"{_PAST} -j RETURN"] if not terms.total or terms.fail_open else []
    return {
        "mangle": {
            "AHEAD": ["-i lo -j RETURN", *_ahead(wanted)],
            "ADMIT": [_ADMIT],
            "LET": [_LET],
            "PASTOUT": [f"{_SYN} {_comment('past-out')} {_ADMIT}", _LET],
            "LEFT": _left_alone(terms, wanted.version),
            "PASSING": [
                *_unheard(wanted),
                f"{_SYN} {_OWN} -j CONNMARK --set-xmark {PROXY_MARK:#x}/0xffffffff",
                *own,
                loopback,
                *_passing(wanted),
            ],
            "LEAVING": ["-o lo -j RETURN", f"{_OWN} -j RETURN", *past, f"{_RST} -j RETURN", f"{_comment('leak')} -j DROP"],
        },
        "filter": {
            "ENTERING": ["-i lo -j RETURN", *_entering(terms)],
            "LEFTOVERS": [
                *own,
                *past,
                loopback,
                f"{_RST} -j RETURN",
                f"-m conntrack --ctstate INVALID {_comment('invalid')} -j DROP",
                f"-p tcp {_comment('leftover')} -j REJECT --reject-with tcp-reset",
            ],
        },
        "nat": {
            "INBOUND": [
                "-i lo -j RETURN",
                f"-m connmark --mark {PAST_MARK:#x} -j RETURN",
                f"{_TCP} --dport {HBONE_PORT} -j RETURN",
                f"-p tcp {_comment('inbound')} -j REDIRECT --to-ports {INBOUND_PLAINTEXT_PORT}",
            ],
            "OUTBOUND": [*own, *past, loopback, *_asking(wanted), f"-p tcp {_comment('outbound')} -j REDIRECT --to-ports {OUTBOUND_PORT}"],
        },
    }


def _asking(wanted: Wanted) -> Iterator[str]:
    """Questions to DNS, redirected to the agent unless it is away: then they go on, those by TCP to the proxy."""
    if wanted.terms.dns:
        if wanted.version == 6:
            yield f"-d fe80::/10 -p udp -m udp --dport {_DNS} -j RETURN"
        asked = [f"-p {protocol} -m {protocol} --dport {_DNS}" for protocol in ("udp", "tcp")]
        yield f"{asked[0]} {_UNANSWERED} {_comment('questions-past')} -j RETURN"
        there = _UNANSWERED.replace("--rcheck", "! --rcheck")
        yield from (f"{one} {there} {_comment('questions')} -j REDIRECT --to-ports {DNS_PORT}" for one in asked)
    yield "! -p tcp -j RETURN"


def _unheard(wanted: Wanted) -> Iterator[str]:
    """What the kernel says to who asks while nobody is there."""
    if wanted.terms.dns:
        redirected = f"-m conntrack --ctstate DNAT --ctorigdstport {_DNS}"
        refusal = "icmp" if wanted.version == 4 else "ipv6-icmp"
        yield f"-p {refusal} -m conntrack --ctstate RELATED {redirected} {_comment('unanswered')} {_NOTE}"
        yield f"{_RST} --sport {DNS_PORT} -m mark ! --mark {PROXY_MARK:#x}/{MARK_MASK:#x} {redirected} {_comment('unanswered')} {_NOTE}"
    yield "! -p tcp -j RETURN"


def _ahead(wanted: Wanted) -> list[str]:
    opened = [f"{_BEGINS} ! --dport {HBONE_PORT} {_comment('open')} -g {PREFIX}ADMIT"] if wanted.away else []
    return [*opened, *(f"{_BEGINS} --dport {one} {_comment('past')} -g {PREFIX}ADMIT" for one in _ports(wanted.terms.open_inbound()))]


def _passing(wanted: Wanted) -> Iterator[str]:
    terms, let = wanted.terms, f"-g {PREFIX}LET"
    if terms.fail_open:
        yield from (f"{_THERE} {let}", f"{_BACK} {let}")
    for one in _ports(terms.open_inbound()):
        yield f"{_BACK} --sport {one} {let}"
    if wanted.away:
        yield f"{_BEGINS} {_comment('open-out')} -g {PREFIX}PASTOUT"
    if terms.leaves_outbound_alone:
        yield from (f"{_BACK} -o lo {let}", f"{_THERE} -j {PREFIX}LEFT", f"{_BEGINS} -j {PREFIX}LEFT")


def _left_alone(terms: Terms, version: int) -> list[str]:
    if not terms.leaves_outbound_alone:
        return []
    goto = f"-g {PREFIX}PASTOUT"
    rules = _matching(terms.exclude_outbound_ports, terms.exclude_outbound_ranges, version, goto)
    if terms.include_outbound_ranges is not None:
        rules += [*_matching(terms.include_outbound_ports, terms.include_outbound_ranges, version, "-j RETURN"), goto]
    return rules


def _matching(ports: Iterable[int], ranges: Iterable[str], version: int, verdict: str) -> list[str]:
    by_port = [f"{_TCP} --dport {port} {verdict}" for port in ports]
    return by_port + [f"-d {one} {verdict}" for one in ranges if ip_network(one).version == version]


def _entering(terms: Terms) -> Iterator[str]:
    original = f"{_TCP} -m conntrack --ctdir ORIGINAL"
    yield f"{_LATER} -m connmark --mark {PROXY_MARK:#x} -m conntrack --ctdir REPLY -j RETURN"
    yield f"{_TCP} --dport {INBOUND_PLAINTEXT_PORT} -m conntrack --ctstate DNAT --ctdir ORIGINAL {_comment('proxy')} -j RETURN"
    yield f"{original} --dport {HBONE_PORT} -j RETURN"
    if terms.fail_open:
        yield from (f"{_THERE} -j RETURN", f"{_BACK} -j RETURN")
    for one in _ports(terms.open_inbound()):
        yield f"{_THERE} --dport {one} -j RETURN"
    if terms.leaves_outbound_alone:
        yield f"{_BACK} -j RETURN"
    yield f"{_RST} -j DROP"
    yield f"-m conntrack --ctstate INVALID {_comment('invalid-in')} -j DROP"
    yield f"-p tcp {_comment('reset')} -j REJECT --reject-with tcp-reset"


def _ports(ranges: Iterable[PortRange]) -> list[str]:
    return [str(first) if first == last else f"{first}:{last}" for first, last in ranges]


def _draining() -> dict[str, Chains]:
    keep_translating = ["-m conntrack --ctstate NEW -j RETURN"]
    no_leak = [f"! -o lo {_TO_APPLICATION} {_RST} -j RETURN", f"! -o lo {_TO_APPLICATION} {_comment('leak')} -j DROP"]
    return {
        "mangle": {"AHEAD": [], "PASSING": [], "LEAVING": no_leak},
        "filter": {"ENTERING": [], "LEFTOVERS": []},
        "nat": {"INBOUND": list(keep_translating), "OUTBOUND": list(keep_translating)},
    }
