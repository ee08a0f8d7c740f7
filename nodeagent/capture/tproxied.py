"""The rules that redirect what goes out and give what comes in to the proxy's listener as it is (TPROXY).

What must hold, and by which rule:

- *Outbound*: a TCP connection that the pod opens ends in the outbound listener (`outbound`). Exempt: loopback destinations, and
  sockets that carry one of the proxy's marks. A connection to the pod's own address is captured like any other.
- *Inbound*: a TCP packet from another device is the proxy's (`proxy`: its socket carries the mark), or HBONE's, or is given to the
  inbound listener (`inbound`). There is no fourth way but by the workload's terms (`left_alone`): where the listener is gone, handshakes
  are dropped (`closed`), so that the client tries again, and the rest is reset (`reset`). The rule asks for sockets, never for
  conntrack's opinion: an entry that expired, or was picked up in mid-stream, opens nothing. A handshake's last ACK under SYN cookies has
  no socket yet; it is given to the inbound listener, too, and the application's own listener, which might take the cookie, never sees it.
- *Port 15008*: only if the proxy's listener has it (`hbone`): an application that binds it when the proxy is dead gets nothing. The rule is
  written as a refusal because the lookup finds only full sockets: handshakes and TIME_WAIT have none to ask.
- *Staying redirected*: the kernel forgets after a minute how a half-closed connection was redirected; its answer would then be lost. So
  redirected connections are remembered as long as the proxy keeps them. Packets that conntrack can't place are not translated, and
  dropped (`invalid`): a reset would end a live connection for one late segment.
- *Leaving*: what leaves with neither mark belongs to a connection from before; the application is told by a reset (`leftover`).
  Behind all rules stands one that needs none of them to be right: no TCP but the proxy's, or what the terms leave alone, leaves the pod
  (`leak`). Packets marked as the proxy's towards the application do not, either: they carry a client's address. Resets may leave, they
  carry nothing.
- *DNS* goes to the agent (`questions`).
- *Failing open* (`open`, `open-out`), where the terms have it: what comes in passes when no listener is there, or when the agent says that
  the proxy is away; what goes out, when the agent says so. Else redirected connections without a listener end in a reset.
"""

from typing import Final

from meshapi.wire import HBONE_PORT, INBOUND_PLAINTEXT_PORT, MARK_MASK, OUTBOUND_PORT, PROXY_MARK
from nodeagent.capture import left_alone, questions
from nodeagent.capture.ruleset import NOT_TCP, OWN, PROXY, RST, SYN, TO_APPLICATION, TO_LOOPBACK, Mode, away_set, chain, replacement
from nodeagent.capture.terms import Terms


def transaction(mode: Mode, before: str, terms: Terms) -> str:
    """See `ruleset.Rules`."""
    return replacement(
        before,
        enforcing(questions.chains(terms) + _inbound(terms) + questions.redirecting(terms), terms) if mode is Mode.ENFORCE else DRAINING,
    )


def enforcing(inbound: str, terms: Terms) -> str:
    """The rules for what goes out, beside `inbound`."""
    return "".join(
        (
            away_set() if terms.fail_open else "",
            _HELD,
            inbound,
            left_alone.tracked_chains(terms),
            _outbound(terms),
            leaving(left_alone.marked(terms)),
        )
    )


def leaving(*exempt: str) -> str:
    """What stands behind all other rules: only what the proxy sends, and what is `exempt`, leaves the pod."""
    return chain(
        "leaving",
        'oifname "lo" accept',
        NOT_TCP,
        f"meta mark & {PROXY} accept",
        *exempt,
        f"{RST} accept",
        'meta l4proto tcp counter drop comment "leak"',
        base="filter hook postrouting priority 300",
    )


def _inbound(terms: Terms) -> str:
    return chain(
        "inbound",
        *questions.not_redirected(terms),
        'iifname "lo" accept',
        NOT_TCP,
        f'tcp dport {HBONE_PORT} socket mark & {MARK_MASK:#x} != {PROXY_MARK:#x} counter drop comment "hbone"',
        f"tcp dport {HBONE_PORT} accept",
        f'socket mark & {PROXY} counter accept comment "proxy"',
        *left_alone.tracked_inbound(terms),
        f'meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{INBOUND_PLAINTEXT_PORT} counter accept comment "inbound"',
        f'meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{INBOUND_PLAINTEXT_PORT} counter accept comment "inbound6"',
        left_alone.unheard_inbound(terms),
        f'{SYN} counter drop comment "closed"',
        f"{RST} drop",
        'meta l4proto tcp counter reject with tcp reset comment "reset"',
        base="filter hook prerouting priority -150",
    )


def _outbound(terms: Terms) -> str:
    past = left_alone.marked(terms)
    outbound = chain(
        "outbound",
        *OWN,
        past,
        *TO_LOOPBACK,
        f'meta l4proto tcp counter redirect to :{OUTBOUND_PORT} comment "outbound"',
        base="nat hook output priority -100",
    )
    leftovers = chain(
        "leftovers",
        *OWN,
        past,
        f'ip daddr 127.0.0.1 tcp dport {OUTBOUND_PORT} ct state new ct timeout set "held"',
        f'ip6 daddr ::1 tcp dport {OUTBOUND_PORT} ct state new ct timeout set "held6"',
        *TO_LOOPBACK,
        f"{RST} accept",
        'meta l4proto tcp ct state invalid counter drop comment "invalid"',
        'meta l4proto tcp counter reject with tcp reset comment "leftover"',
        base="filter hook output priority 0",
    )
    return outbound + leftovers


# A half-closed connection may wait that long for its answer: the proxy's own bound (an hour) and a margin.
HALF_CLOSED_S: Final = 3700


def _timeouts(name: str, family: str) -> str:
    policy = f"{{ fin_wait : {HALF_CLOSED_S}, close_wait : {HALF_CLOSED_S} }}"
    return f"\tct timeout {name} {{\n\t\tprotocol tcp\n\t\tl3proto {family}\n\t\tpolicy = {policy}\n\t}}\n"


_HELD: Final = _timeouts("held", "ip") + _timeouts("held6", "ip6")

KEEP_TRANSLATING: Final = "ct state new accept"
"""Changes nothing, but keeps the kernel translating the connections that were redirected, which stops at once when no nat chain, or no
rule that asks for conntrack, is left."""

NO_LEAK: Final = chain(
    "leaving",
    f'oifname != "lo" meta l4proto tcp meta mark & {TO_APPLICATION} {RST} accept',
    f'oifname != "lo" meta l4proto tcp meta mark & {TO_APPLICATION} counter drop comment "leak"',
    base="filter hook postrouting priority 300",
)

DRAINING: Final = chain("outbound", KEEP_TRANSLATING, base="nat hook output priority -100") + NO_LEAK
