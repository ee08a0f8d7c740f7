"""What the terms leave alone, in nft's words: which ports, which destinations, and how the connections there are known again.

Rules that track connections know them by a mark on the connection, which is given with its handshake and never later: a connection from
before, or one that is picked up in mid-stream, gets none. Each packet is judged anew by the terms of now, so that connections end that
they no longer leave alone.
"""

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final

from meshapi.wire import HBONE_PORT
from nodeagent.capture.marks import PAST_MARK
from nodeagent.capture.ruleset import IS_AWAY, LATER, OWN, SYN, TO_LOOPBACK, chain
from nodeagent.capture.terms import Terms

PAST: Final = f"{PAST_MARK:#x}"
_BEGINS: Final = f"{SYN} ct state new"
"""Also repeated, until it is answered. What has the addresses of another connection, or of one to the application, begins none."""
_THERE: Final = f"ct mark {PAST} ct direction original"
_BACK: Final = f"{LATER} ct mark {PAST} ct direction reply"
_LET: Final = f"ct mark set {PAST} meta mark set {PAST} accept"


def ports(terms: Terms) -> str:
    """The ports whose connections are the applications', as a set; empty if there are none."""
    return _set(str(first) if first == last else f"{first}-{last}" for first, last in terms.open_inbound())


def destinations(name: str, terms: Terms, verdict: str, *, side: str = "d") -> str:
    """A chain that ends in `verdict` for what goes where the terms leave connections alone; the rest returns.

    `side` "s" makes it judge the sender, for the answers. None if nothing is left alone.
    """
    if not terms.leaves_outbound_alone:
        return ""
    return chain(
        name, *_matching(terms.exclude_outbound_ports, terms.exclude_outbound_ranges, verdict, side), *_not_included(terms, verdict, side)
    )


def _not_included(terms: Terms, verdict: str, side: str) -> list[str]:
    if terms.include_outbound_ranges is None:
        return []
    return [*_matching(terms.include_outbound_ports, terms.include_outbound_ranges, "return", side), verdict]


def _matching(of_ports: Iterable[int], ranges: tuple[str, ...], verdict: str, side: str) -> list[str]:
    words = [("tcp", "port", _set(str(port) for port in of_ports))]
    words += [
        (word, "addr", _set(one for one in ranges if ip_network(one).version == version)) for word, version in (("ip", 4), ("ip6", 6))
    ]
    return [f"{protocol} {side}{field} {members} {verdict}" for protocol, field, members in words if members]


def _set(members: Iterable[str]) -> str:
    listed = ", ".join(members)
    return f"{{ {listed} }}" if listed else ""


def tracked_inbound(terms: Terms) -> tuple[str, ...]:
    """Rules for what comes from other devices, ahead of those that capture it (prerouting)."""
    open_ports = ports(terms)
    return (
        f"{_BEGINS} {IS_AWAY} tcp dport != {HBONE_PORT} goto open" if terms.fail_open else "",
        f'{_BEGINS} tcp dport {open_ports} ct mark set {PAST} counter accept comment "past"' if open_ports else "",
        *tracked_open(terms),
    )


def unheard_inbound(terms: Terms) -> str:
    """The rule for a handshake that found no listener of the proxy's."""
    return f"{_BEGINS} goto open" if terms.fail_open else ""


def tracked_open(terms: Terms) -> tuple[str, ...]:
    """Rules for what comes from other devices on a connection that was left alone from its handshake on."""
    if terms.fail_open:
        return (f"{_THERE} accept", f"{_BACK} accept")
    open_ports = ports(terms)
    return (
        f"{_THERE} tcp dport {open_ports} accept" if open_ports else "",
        f"{_BACK} accept" if terms.leaves_outbound_alone else "",
    )


def tracked_chains(terms: Terms) -> str:
    """The chain that marks what goes out past the proxy, ahead of those that capture it, and those that it needs."""
    if terms.total and not terms.fail_open:
        return ""
    open_ports, let = ports(terms), f"meta mark set {PAST} accept"
    return "".join(
        (
            chain("open", 'counter comment "open"', f"ct mark set {PAST} accept") if terms.fail_open else "",
            chain("open-out", 'counter comment "open-out"', _LET) if terms.fail_open else "",
            chain("past-out", f'{SYN} counter comment "past-out"', _LET) if terms.leaves_outbound_alone else "",
            destinations("left-alone", terms, "goto past-out"),
            chain(
                "passing",
                *OWN,
                *TO_LOOPBACK,
                f"{_BEGINS} {IS_AWAY} goto open-out" if terms.fail_open else "",
                *((f"{_THERE} {let}", f"{_BACK} {let}") if terms.fail_open else ()),
                f"{_BACK} tcp sport {open_ports} {let}" if open_ports else "",
                # Between the pod's own applications: their answers, too, go by the loopback device.
                f'{_BACK} oifname "lo" {let}' if terms.leaves_outbound_alone else "",
                f"{_BEGINS} jump left-alone" if terms.leaves_outbound_alone else "",
                f"{_THERE} jump left-alone" if terms.leaves_outbound_alone else "",
                base="filter hook output priority -150",
            ),
        )
    )


def marked(terms: Terms) -> str:
    """The rule that lets go what was marked as past the proxy; empty if nothing is."""
    return "" if terms.total and not terms.fail_open else f"meta mark {PAST} accept"
