"""The nftables rules of a workload that eBPF captures: without conntrack and without translation. A pure function, like `tproxied`.

Handshakes from other devices are the steering program's (`nodeagent.bpf.steering`), before any application's listener. These rules do
the rest:

- *Outbound*: what the pod's applications send gets a mark that the routing rule knows, and so comes back on the loopback device with
  its addresses as they were; there it is given to the connection or listener of the proxy (`outbound` counts handshakes). Where
  neither is, it is reset (`leftover`). Exempt are the same as in `tproxied`, and a connection to the pod's own address is none of them.
  What the programs of its cgroup have marked (`nodeagent.capture.marking`) is on this way, or past it, already.
- *Answers* that the kernel gives itself, without a socket or for one in TIME_WAIT, take over the mark of what they answer. So what the
  proxy sends to the application in its peer's name gets the mark that brings the answer back to the proxy, instead of to that peer;
  an answer to a looped packet must lose its mark to reach the application; a reset to the outside is made with the proxy's to leave.
- *Inbound* (`reset`): no packet from another device reaches a connection that is not the proxy's: neither one from before, nor the
  proxy's to the application, whose addresses are those of the client.
- *Probes*: a handshake of the kubelet's finds, here, the listener that stands for probes (see probes.h), whose mark it is given; the
  application's side of the connection inherits that. It is no way out: a handshake with that mark from inside is reset.
- *Denied* (`denied`): a handshake that the steering program refuses by policy is answered with a reset that can leave.
- *Leaving* (`leak`): as in `tproxied`, behind all others: no TCP but the proxy's, or what the terms leave alone, leaves the pod.
- *Left alone*: a handshake to such a port marks the connection's socket, and that its answers. A connection to such a destination is
  known by its addresses; where its answers would reach a socket of the proxy's instead, or a listener, they do not pass by this.
- *Failing open* (`open-out`), where the terms have it: a looped handshake without a listener is dropped, and notes that the proxy is away
  (`unheard`): repeated, and like others for the next seconds, it goes out past the proxy, and the connection is remembered by its
  handshake (`passing`). The agent's word does the same. Who comes in while the proxy is away is the steering program's to say.
- *A whole host* may forward for others (containers, say): that is not its own, and passes both ways.
- *DNS* goes to the agent (`questions`).
- *Draining* needs no memory of what was captured: what is new since then is remembered by its handshake, and goes past the mesh.
"""

from typing import Final

from meshapi.wire import CONNECTION_MARK, HBONE_PORT, INBOUND_PLAINTEXT_PORT, MARK_MASK, OUTBOUND_PORT, PROXY_MARK
from nodeagent.capture import left_alone, questions
from nodeagent.capture.left_alone import PAST
from nodeagent.capture.marks import ADMITTED_MARK, CAPTURED_MARK, LOOP_MARK, PROBE_MARK
from nodeagent.capture.ruleset import (
    AWAY,
    IS_AWAY,
    LATER,
    NOT_TCP,
    PROXY,
    SYN,
    TO_APPLICATION,
    TO_LOOPBACK,
    Mode,
    away_set,
    chain,
    replacement,
)
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.capture.tproxied import NO_LEAK, leaving

_INBOUND: Final = "filter hook prerouting priority -150"
_OUTBOUND: Final = "route hook output priority -150"
_LOOP: Final = f"{LOOP_MARK:#x}"
_CAPTURED: Final = f"{CAPTURED_MARK:#x}"
_ADMITTED: Final = f"{ADMITTED_MARK:#x}"
_ADMIT: Final = f"meta mark set {_ADMITTED} accept"
_MAY_OPEN: Final = f"{SYN} tcp dport != {HBONE_PORT}"
_LET: Final = f"meta mark set {PAST} accept"
_UNHEARD_S: Final = 5
"""How long the absence of a listener is believed without another look."""


def transaction(mode: Mode, before: str, terms: Terms) -> str:
    """See `ruleset.Rules`."""
    return replacement(before, _enforcing(terms) if mode is Mode.ENFORCE else _draining(terms))


_PROBE: Final = f"{MARK_MASK:#x} == {PROBE_MARK:#x}"
# A socket keeps its mark when its application connects it anew: the kubelet's connections only ever answer.
_ANSWERS_PROBE: Final = f"meta mark & {_PROBE} tcp flags & (syn | ack) != syn accept"

# The one port of the mesh's own that is open on any address.
_NO_PROBE: Final = f"tcp dport {INBOUND_PLAINTEXT_PORT} meta mark set {PROXY_MARK:#x} reject with tcp reset"
_PROBED: Final = chain("probe", _NO_PROBE, f"meta mark set {PROBE_MARK:#x} accept")

# How many connections may be remembered, each by its handshake.
_PASSING: Final = 1 << 18
_PASSING_IDLE: Final = "1h"


def _passing(name: str, address: str, *, timeout: str = "") -> str:
    forgotten = f"\t\tflags dynamic,timeout\n\t\ttimeout {timeout}\n" if timeout else "\t\tflags dynamic\n"
    return f"\tset {name} {{\n\t\ttype {address} . inet_service . {address} . inet_service\n\t\tsize {_PASSING}\n{forgotten}\t}}\n"


_SETS: Final = (("passing", "ip"), ("passing6", "ip6"))
_ADDRESS: Final = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}


def _tuple(family: str, *, answer: bool = False) -> str:
    """The connection's ends, the pod's first."""
    near, far = ("d", "s") if answer else ("s", "d")
    return f"{family} {near}addr . tcp {near}port . {family} {far}addr . tcp {far}port"


# First, here and below, what most packets are, so that they meet no other rule: the proxy's connections to the application.
def _looped(terms: Terms) -> tuple[str, ...]:
    return (
        f'iif "lo" meta mark {CONNECTION_MARK:#x} accept',
        questions.looped(terms),
        NOT_TCP,
        f'iif "lo" meta mark & {PROXY} meta mark set {CONNECTION_MARK:#x} accept',
        f'iif "lo" meta mark {_CAPTURED} meta mark set {_LOOP}',
        f'iif "lo" meta mark != {_LOOP} accept',
        *questions.given(terms),
        f'iif "lo" meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{OUTBOUND_PORT} accept',
        f'iif "lo" meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{OUTBOUND_PORT} accept',
    )


_LEFTOVER: Final = 'iif "lo" meta l4proto tcp counter reject with tcp reset comment "leftover"'


def _not_the_applications(terms: Terms) -> tuple[str, ...]:
    return (
        f"meta mark {CONNECTION_MARK:#x} accept",
        questions.sent(terms),
        NOT_TCP,
        f"meta mark & {PROXY} accept",
        _ANSWERS_PROBE,
        f'meta mark & {_PROBE} counter reject with tcp reset comment "misused"',
        f"meta mark {_LOOP} meta mark set {CONNECTION_MARK:#x} accept",
    )


_EXEMPT: Final = (f"meta mark & {TO_APPLICATION} accept", f"meta mark {PAST} accept", *TO_LOOPBACK)

_FORWARDED: Final = "fib daddr type != local accept"
_FORWARDING: Final = "iif != 0 accept"
"""Ahead of the route, and behind it: only what a host forwards has come by a device."""

_DENY: Final = f"counter meta mark set {PROXY_MARK:#x} reject with tcp reset"
_DENIED: Final = (
    f"{SYN} socket transparent <= 1 accept",
    f'{SYN} meta nfproto ipv4 tproxy ip to 127.0.0.1:{INBOUND_PLAINTEXT_PORT} {_DENY} comment "denied"',
    f'{SYN} meta nfproto ipv6 tproxy ip6 to [::1]:{INBOUND_PLAINTEXT_PORT} {_DENY} comment "denied6"',
)
"""For whom the steering program has no socket while the proxy listens, who is denied, that is: told so. TPROXY is how to ask for a
listener; what is still somebody's, a connection in TIME_WAIT say, is transparent or is not. While the proxy is away handshakes get no
answer, so that clients try again."""


def _enforcing(terms: Terms) -> str:
    return "".join(
        (
            _PROBED,
            _failing_open() if terms.fail_open else "",
            questions.chains(terms),
            _known(terms),
            _inbound(terms),
            _outbound(terms),
            leaving(
                _FORWARDING if terms.whole_host else "",
                f"meta mark {PAST} accept",
                f"meta mark {_ADMITTED} accept" if _open_ports(terms) else "",
                _ANSWERS_PROBE,
            ),
        )
    )


def _failing_open() -> str:
    sets = "".join(_passing(name, _ADDRESS[family], timeout=_PASSING_IDLE) for name, family in _SETS)
    # Without room to remember it, it returns, and is captured.
    remembering = (f"{SYN} update @{name} {{ {_tuple(family)} }} {_LET}" for name, family in _SETS)
    passing = (f"{_tuple(family)} @{name} update @{name} {{ {_tuple(family)} }} {_LET}" for name, family in _SETS)
    open_out = chain("open-out", 'counter comment "open-out"', *remembering)
    return away_set() + sets + open_out + chain("failing-open", f"{SYN} {IS_AWAY} jump open-out", *passing)


def _known(terms: Terms) -> str:
    """The chains that know a connection that is left alone by its destination."""
    past_out = chain("past-out", f'{SYN} counter comment "past-out"', _LET) if terms.leaves_outbound_alone else ""
    to, answers = (
        left_alone.destinations("left-alone", terms, "goto past-out"),
        left_alone.destinations("answers", terms, "accept", side="s"),
    )
    return past_out + to + answers


def _inbound(terms: Terms) -> str:
    return chain(
        "inbound",
        *_looped(terms),
        f'iif "lo" {SYN} update @{AWAY} {{ meta l4proto timeout {_UNHEARD_S}s }} counter drop comment "unheard"' if terms.fail_open else "",
        _LEFTOVER,
        _FORWARDED if terms.whole_host else "",
        f"socket mark & {MARK_MASK:#x} vmap {{ {PROXY_MARK:#x} : accept, {PROBE_MARK:#x} : goto probe }}",
        f"socket mark {PAST} accept",
        *_past_inbound(terms),
        f'socket mark & {MARK_MASK:#x} != {PROXY_MARK:#x} counter meta mark set {PROXY_MARK:#x} reject with tcp reset comment "reset"',
        *_DENIED,
        f"{_MAY_OPEN} {_ADMIT}" if terms.fail_open else "",
        base=_INBOUND,
    )


def _past_inbound(terms: Terms) -> tuple[str, ...]:
    """From other devices, what is the applications' own, of what has no mark that says so."""
    if terms.total and not terms.fail_open:
        return ()
    open_ports = _open_ports(terms)
    return (
        *((f"{LATER} {_tuple(family, answer=True)} @{name} accept" for name, family in _SETS) if terms.fail_open else ()),
        f'socket mark & {TO_APPLICATION} counter meta mark set {PROXY_MARK:#x} reject with tcp reset comment "forged"',
        f"socket mark {_ADMITTED} tcp dport {open_ports} accept" if open_ports else "",
        f'{SYN} tcp dport {left_alone.ports(terms)} counter {_ADMIT} comment "past"' if left_alone.ports(terms) else "",
        # Where the proxy has a listener, the handshake was found to be for that; where policy denies it, for nobody.
        f'{_MAY_OPEN} socket transparent <= 1 counter {_ADMIT} comment "open"' if terms.fail_open else "",
        # A listener bound to any address: the last packet of a handshake under SYN cookies belongs to no connection yet.
        f"tcp dport {open_ports} socket wildcard 1 {_ADMIT}" if open_ports else "",
        f"{LATER} socket wildcard 0 jump answers" if terms.leaves_outbound_alone else "",
    )


def _open_ports(terms: Terms) -> str:
    """As an expression of nft's: whose connections may be the applications' own."""
    return f"!= {HBONE_PORT}" if terms.fail_open else left_alone.ports(terms)


def _answers(terms: Terms) -> tuple[str, ...]:
    """Of connections that were admitted. Their sockets keep the mark when the application connects them anew: that is no way out."""
    if not (open_ports := _open_ports(terms)):
        return ()
    return (
        f'{SYN} meta mark {_ADMITTED} counter reject with tcp reset comment "reused"',
        f"meta mark {_ADMITTED} tcp sport {open_ports} accept",
    )


def _outbound(terms: Terms) -> str:
    return chain(
        "outbound",
        *_not_the_applications(terms),
        f"meta mark {_CAPTURED} jump failing-open" if terms.fail_open else "",
        *_EXEMPT,
        *_answers(terms),
        "jump failing-open" if terms.fail_open else "",
        "jump left-alone" if terms.leaves_outbound_alone else "",
        f'{SYN} counter comment "outbound"',
        f"meta mark set {_LOOP}",
        base=_OUTBOUND,
    )


def _draining(terms: Terms) -> str:
    sets = "".join(_passing(name, _ADDRESS[family]) for name, family in _SETS)
    inbound = chain("inbound", *_looped(TOTAL), _LEFTOVER, f'socket mark & {TO_APPLICATION} counter drop comment "reset"', base=_INBOUND)
    outbound = chain(
        "outbound",
        *_not_the_applications(TOTAL),
        *_EXEMPT,
        f"meta mark {_ADMITTED} accept" if _open_ports(terms) else "",
        *(f"tcp flags & syn == syn add @{name} {{ {_tuple(family)} }} accept" for name, family in _SETS),
        *(f"{_tuple(family)} @{name} accept" for name, family in _SETS),
        "jump left-alone" if terms.leaves_outbound_alone else "",
        f"meta mark set {_LOOP}",
        base=_OUTBOUND,
    )
    return sets + _known(terms) + inbound + outbound + NO_LEAK
