"""How questions to DNS get to the agent, in nft's words: the same where eBPF captures and where nftables does, and by redirection.

- What goes to port 53, by UDP or TCP, is marked and comes back on the loopback device with its addresses as they are, as what eBPF
  captures does; there it is given to the agent's socket (TPROXY), which by that knows which resolver was asked. Nothing is translated,
  and no entry of connection tracking outlives the rules.
- Exempt are the marks of proxy and agent, resolvers on loopback addresses (they ask others in turn, which is captured), and link-local
  ones, which cannot come back.
- *Nobody there*: DNS opens nothing that the mesh protects, and a pod without it is down. So while the agent is away, questions go to the
  pod's own resolvers (`unanswered`): an agent that ends says so itself; else the first question that finds no socket is lost, or refused
  if it can be (by IPv6), and clients ask again. It is believed for a minute, or until there is an agent that says otherwise. TCP goes on
  to the proxy, as if this were not here.
- Where nft can only *redirect*, both are, and connection tracking is asked which resolver was meant; it forgets datagrams soon
  (`asked`), so that one that asks much does not fill it. That nobody is there is told by the kernel's own refusals, which are heard on
  their way to who asked (`unheard`).
"""

from typing import Final

from meshapi.wire import DNS_PORT, OUTBOUND_PORT
from nodeagent.capture.left_alone import PAST
from nodeagent.capture.marks import LOOP_MARK
from nodeagent.capture.ruleset import FAMILY, NOT_PROXY, PROXY, RST, TABLE, TO_APPLICATION, TO_LOOPBACK, chain
from nodeagent.capture.terms import Terms

_UNANSWERED_S: Final = 60
"""How long it is believed without another look that the agent is away: each look costs a question."""
_NOTE: Final = "unanswered"
"""The set whose one member, the port that was asked, says that the agent is away."""
_DNS: Final = 53
_LOOP: Final = f"{LOOP_MARK:#x}"
_LOOPED: Final = f'iif "lo" meta mark {_LOOP}'
_EXEMPT: Final = (f"meta mark & {PROXY} accept", f"meta mark & {TO_APPLICATION} accept", *TO_LOOPBACK, "ip6 daddr fe80::/10 accept")

_SET: Final = f"\tset {_NOTE} {{\n\t\ttype inet_service\n\t\tsize 4\n\t\tflags dynamic,timeout\n\t\ttimeout {_UNANSWERED_S}s\n\t}}\n"


def _asking(mark: str) -> str:
    return chain(
        "asking",
        *_EXEMPT,
        f'th dport @{_NOTE} counter accept comment "questions-past"',
        'counter comment "questions"',
        f"meta mark set {mark} accept",
    )


def _asked(port: int) -> str:
    return chain(
        "asked",
        f"meta nfproto ipv4 meta l4proto udp tproxy ip to 127.0.0.1:{port} accept",
        f"meta nfproto ipv6 meta l4proto udp tproxy ip6 to [::1]:{port} accept",
        f'update @{_NOTE} {{ udp dport }} counter reject comment "unanswered"',
    )


_UNTRACKED: Final = chain(
    "untracked",
    *TO_LOOPBACK,
    "udp dport 53 notrack",
    f"udp sport 53 meta mark & {PROXY} notrack",
    base="filter hook output priority -300",
)
"""Questions and answers are no connections: one that asks much would fill the table that connections need."""
_GIVEN: Final = (
    f"{_LOOPED} meta nfproto ipv4 tcp dport 53 tproxy ip to 127.0.0.1:{DNS_PORT} accept",
    f"{_LOOPED} meta nfproto ipv6 tcp dport 53 tproxy ip6 to [::1]:{DNS_PORT} accept",
)
_TO_PROXY: Final = (
    f"{_LOOPED} meta nfproto ipv4 tcp dport 53 tproxy ip to 127.0.0.1:{OUTBOUND_PORT} accept",
    f"{_LOOPED} meta nfproto ipv6 tcp dport 53 tproxy ip6 to [::1]:{OUTBOUND_PORT} accept",
)


def away(table: str = TABLE) -> str:
    """The script that says that the agent goes, in rules that give questions to it."""
    return f"add element {FAMILY} {table} {_NOTE} {{ {_DNS} }}\n"


def present(table: str = TABLE) -> str:
    """The script that takes it back."""
    return f"flush set {FAMILY} {table} {_NOTE}\n"


def chains(terms: Terms) -> str:
    """What the other rules here need, ahead of them."""
    return _SET + _asking(_LOOP) + _asked(DNS_PORT) if terms.dns else ""


def of_stub(cgroup: str, level: int, port: int) -> str:
    """More chains of a process group, on a host whose resolver is at a loopback address: what is sent there never leaves, and can't loop.

    It is redirected, as where nothing else can be done (see above), and nobody's but this group's.
    """
    match = f'meta l4proto {{ tcp, udp }} th dport {_DNS} socket cgroupv2 level {level} "{cgroup}" goto stub'
    ours = f'ct status dnat ct reply proto-src {port} update @{_NOTE} {{ ct original proto-dst }} counter comment "unanswered-stub"'
    return (
        chain(
            "stub",
            f"meta mark & {PROXY} accept",
            f'th dport @{_NOTE} counter accept comment "stub-past"',
            'counter comment "stub"',
            f"meta l4proto {{ tcp, udp }} redirect to :{port}",
        )
        + chain("stubs", f"ip daddr 127.0.0.0/8 {match}", f"ip6 daddr ::1 {match}", base="nat hook output priority -101")
        + chain(
            "unheard",
            f"meta l4proto {{ icmp, ipv6-icmp }} ct state related {ours}",
            f"tcp sport {port} {RST} meta mark & {NOT_PROXY} {ours}",
            base="filter hook output priority -150",
        )
    )


def of_unit(cgroup: str, level: int, mark: str, port: int) -> str:
    """The chains of a process group, whose datagrams nothing else marks: by the cgroup of their socket, `level` below the root.

    Ahead of those of a host that is captured whole, which leave alone what has a unit's mark.
    """
    questions = chain(
        "questions", f'udp dport {_DNS} socket cgroupv2 level {level} "{cgroup}" goto asking', base="route hook output priority -151"
    )
    return _SET + _asking(mark) + _asked(port) + questions


def sent(terms: Terms) -> str:
    """The rule for what a workload sends by UDP, in a chain that routes anew."""
    return "udp dport 53 goto asking" if terms.dns else ""


def looped(terms: Terms) -> str:
    """The rule for what has come back of that."""
    return f"{_LOOPED} udp dport 53 goto asked" if terms.dns else ""


def given(terms: Terms) -> tuple[str, ...]:
    """The rules for what has come back by TCP, where all of TCP does: ahead of those that give it to the proxy."""
    return _GIVEN if terms.dns else ()


def redirecting(terms: Terms) -> str:
    """The chains for both, where TCP is redirected else. What is past the proxy stays so."""
    if not terms.dns:
        return ""
    return _UNTRACKED + chain(
        "questions",
        sent(terms),
        f"tcp dport 53 meta mark {PAST} accept",
        *(f"tcp dport 53 {rule}" for rule in _EXEMPT),
        f"tcp dport 53 meta mark set {_LOOP}",
        # Behind the chain that marks what goes past.
        base="route hook output priority -149",
    )


def not_redirected(terms: Terms) -> tuple[str, ...]:
    """The rules for what has come back, where TCP is redirected else."""
    return (looped(terms), *_GIVEN, *_TO_PROXY) if terms.dns else ()


_FORGOTTEN_S: Final = 10
"""Longer than the agent takes for any answer."""
_REDIRECTED: Final = f"ct status dnat ct original proto-dst {_DNS}"
_NOTED: Final = f'update @{_NOTE} {{ ct original proto-dst }} counter comment "unanswered"'


def _timeout(name: str, family: str) -> str:
    policy = f"{{ unreplied : {_FORGOTTEN_S}, replied : {_FORGOTTEN_S} }}"
    return f"\tct timeout {name} {{\n\t\tprotocol udp\n\t\tl3proto {family}\n\t\tpolicy = {policy}\n\t}}\n"


def redirected(terms: Terms) -> str:
    """The chains for both, where all that can be done is to redirect."""
    if not terms.dns:
        return ""
    asking = chain(
        "asking",
        f"meta l4proto tcp meta mark {PAST} accept",
        *_EXEMPT,
        f'th dport @{_NOTE} counter accept comment "questions-past"',
        'counter comment "questions"',
        f"meta l4proto {{ tcp, udp }} redirect to :{DNS_PORT}",
    )
    # Ahead of the chain that redirects the rest of TCP.
    questions = chain("questions", f"udp dport {_DNS} goto asking", f"tcp dport {_DNS} goto asking", base="nat hook output priority -101")
    unheard = chain(
        "unheard",
        f'meta nfproto ipv4 udp dport {_DNS} ct state new ct timeout set "asked"',
        f'meta nfproto ipv6 udp dport {_DNS} ct state new ct timeout set "asked6"',
        f"meta l4proto {{ icmp, ipv6-icmp }} ct state related {_REDIRECTED} {_NOTED}",
        f"tcp sport {DNS_PORT} {RST} meta mark & {NOT_PROXY} {_REDIRECTED} {_NOTED}",
        base="filter hook output priority -150",
    )
    return _SET + _timeout("asked", "ip") + _timeout("asked6", "ip6") + asking + questions + unheard
