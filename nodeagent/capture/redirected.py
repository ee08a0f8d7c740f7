"""The rules that redirect in both directions, for kernels whose nftables can neither look for sockets nor give packets to them.

As in `tproxied`, but for what comes in: connections are redirected to the inbound listener, with their source kept (`inbound`), and what
reaches the pod's sockets is judged by connection tracking alone (`entering`):

- An answer belongs to a connection that the proxy opened: the connection is marked when its handshake leaves, and only then.
- Else it is a redirected connection (`proxy`), one to HBONE's port, or one that the terms leave alone. What conntrack can't place is
  dropped (`invalid`), the rest reset (`reset`): neither reaches an application.
- Whose listener HBONE's port is can't be asked; but no answer leaves the pod without the proxy's mark (`leak`), so that an application
  that binds the port can complete no handshake.
- Without a listener the kernel refuses the redirected connection with a reset.
"""

from typing import Final

from meshapi.wire import HBONE_PORT, INBOUND_PLAINTEXT_PORT, PROXY_MARK
from nodeagent.capture import left_alone, questions
from nodeagent.capture.left_alone import PAST
from nodeagent.capture.ruleset import LATER, NOT_TCP, PROXY, RST, SYN, Mode, chain, replacement
from nodeagent.capture.terms import Terms
from nodeagent.capture.tproxied import KEEP_TRANSLATING, NO_LEAK, enforcing

_HOLD: Final = (f'meta nfproto ipv4 {SYN} ct timeout set "held"', f'meta nfproto ipv6 {SYN} ct timeout set "held6"')
"""Connections that are judged by connection tracking must not be forgotten while they are half-closed."""
_INBOUND_NAT: Final = "nat hook prerouting priority -100"


def transaction(mode: Mode, before: str, terms: Terms) -> str:
    """See `ruleset.Rules`."""
    return replacement(before, enforcing(questions.redirected(terms) + _inbound(terms), terms) if mode is Mode.ENFORCE else _DRAINING)


def _inbound(terms: Terms) -> str:
    past = left_alone.tracked_inbound(terms)
    ahead = chain("ahead", 'iifname "lo" accept', NOT_TCP, *_HOLD, *past, base="filter hook prerouting priority -150")
    redirecting = chain(
        "inbound",
        'iifname "lo" accept',
        NOT_TCP,
        f"ct mark {PAST} accept" if any(past) else "",
        f"tcp dport {HBONE_PORT} accept",
        f'meta l4proto tcp counter redirect to :{INBOUND_PLAINTEXT_PORT} comment "inbound"',
        base=_INBOUND_NAT,
    )
    entering = chain(
        "entering",
        'iifname "lo" accept',
        NOT_TCP,
        f"{LATER} ct direction reply ct mark {PROXY_MARK:#x} accept",
        f'ct direction original ct status dnat tcp dport {INBOUND_PLAINTEXT_PORT} counter accept comment "proxy"',
        f"ct direction original tcp dport {HBONE_PORT} accept",
        *left_alone.tracked_open(terms),
        f"{RST} drop",
        'meta l4proto tcp ct state invalid counter drop comment "invalid-in"',
        'meta l4proto tcp counter reject with tcp reset comment "reset"',
        base="filter hook input priority 0",
    )
    own = chain(
        "own",
        f"meta mark & {PROXY} {SYN} ct mark set {PROXY_MARK:#x}",
        *(f"meta mark & {PROXY} {rule}" for rule in _HOLD),
        base="filter hook output priority -150",
    )
    return ahead + redirecting + entering + own


_DRAINING: Final = (
    chain("inbound", KEEP_TRANSLATING, base=_INBOUND_NAT)
    + chain("outbound", KEEP_TRANSLATING, base="nat hook output priority -100")
    + NO_LEAK
)
