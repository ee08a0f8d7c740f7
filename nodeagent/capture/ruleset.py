"""The nftables rules of a captured workload, as text: a pure function, its outcome kept in golden files.

What must hold, and by which rule:

- *Outbound*: a TCP connection that the pod opens ends in the outbound listener (`outbound`). Exempt: loopback destinations, and
  sockets that carry one of the proxy's marks. A connection to the pod's own address is captured like any other.
- *Inbound*: a TCP packet from another device is the proxy's (`proxy`: its socket carries the mark), or HBONE's, or is given to the
  inbound listener (`inbound`). There is no fourth way: where the listener is gone, handshakes are dropped (`closed`), so that the
  client tries again, and the rest is reset (`reset`). The rule asks for sockets, never for conntrack's opinion: an entry that expired,
  or was picked up in mid-stream, opens nothing. A handshake's last ACK under SYN cookies has no socket yet; it is
  given to the inbound listener, too, and the application's own listener, which might take the cookie, never sees it.
- *Port 15008*: only if the proxy's listener has it (`hbone`): an application that binds it when the proxy is dead gets nothing. The rule is
  written as a refusal because the lookup finds only full sockets: handshakes and TIME_WAIT have none to ask.
- *Staying redirected*: the kernel forgets after a minute how a half-closed connection was redirected; its answer would then be lost. So
  redirected connections are remembered as long as the proxy keeps them. Packets that conntrack can't place are not translated, and
  dropped (`invalid`): a reset would end a live connection for one late segment.
- *Leaving*: what leaves with neither mark belongs to a connection from before; the application is told by a reset (`leftover`).
  Behind all rules stands one that needs none of them to be right: no TCP but the proxy's leaves the pod (`leak`). Packets marked as the
  proxy's towards the application do not, either: they carry a client's address. Resets may leave, they carry nothing.
"""

from enum import StrEnum
from typing import Final

from meshapi.wire import CONNECTION_MARK, HBONE_PORT, INBOUND_PLAINTEXT_PORT, MARK_MASK, OUTBOUND_PORT, PROXY_MARK

FAMILY: Final = "inet"
TABLE: Final = "nodemesh"


class Mode(StrEnum):
    ENFORCE = "enforce"
    DRAIN = "drain"


def transaction(mode: Mode, before: str) -> str:
    """The script that replaces the table, whatever it holds. `before` is kept in it: what `remove` puts back."""
    return replacement(before, _ENFORCE if mode is Mode.ENFORCE else _DRAIN)


def replacement(before: str, chains: str) -> str:
    """The script that replaces the table by one with `chains`, in nft's words."""
    return f"{deletion()}table {FAMILY} {TABLE} {{\n{_state(before)}{chains}}}\n"


def preparation(before: str) -> str:
    """The script that only writes `before` down, ahead of any change that it is about."""
    return replacement(before, "")


def deletion() -> str:
    """The script that removes the table, if there is one."""
    # "destroy table" came with nftables 1.0.7; adding first makes the deletion safe where there is no table.
    return f"add table {FAMILY} {TABLE}\ndelete table {FAMILY} {TABLE}\n"


def _state(before: str) -> str:
    # A chain that nothing jumps to: comments of rules are the one kind that every version lists as JSON.
    return f'\tchain state {{\n\t\tcontinue comment "before {before}"\n\t}}\n'


PROXY: Final = f"{MARK_MASK:#x} == {PROXY_MARK:#x}"
TO_APPLICATION: Final = f"{MARK_MASK:#x} == {CONNECTION_MARK:#x}"
SYN: Final = "tcp flags & (fin | syn | rst | ack) == syn"
RST: Final = "tcp flags & rst == rst"

# A half-closed connection may wait that long for its answer: the proxy's own bound (an hour) and a margin.
_HALF_CLOSED_S: Final = 3700

_ENFORCE: Final = f"""\
	ct timeout held {{
		protocol tcp
		l3proto ip
		policy = {{ fin_wait : {_HALF_CLOSED_S}, close_wait : {_HALF_CLOSED_S} }}
	}}
	ct timeout held6 {{
		protocol tcp
		l3proto ip6
		policy = {{ fin_wait : {_HALF_CLOSED_S}, close_wait : {_HALF_CLOSED_S} }}
	}}
	chain inbound {{
		type filter hook prerouting priority -150; policy accept;
		iifname "lo" accept
		meta l4proto != tcp accept
		tcp dport {HBONE_PORT} socket mark & {MARK_MASK:#x} != {PROXY_MARK:#x} counter drop comment "hbone"
		tcp dport {HBONE_PORT} accept
		socket mark & {PROXY} counter accept comment "proxy"
		meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{INBOUND_PLAINTEXT_PORT} counter accept comment "inbound"
		meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{INBOUND_PLAINTEXT_PORT} counter accept comment "inbound6"
		{SYN} counter drop comment "closed"
		{RST} drop
		meta l4proto tcp counter reject with tcp reset comment "reset"
	}}
	chain outbound {{
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp accept
		meta mark & {PROXY} accept
		meta mark & {TO_APPLICATION} accept
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		meta l4proto tcp counter redirect to :{OUTBOUND_PORT} comment "outbound"
	}}
	chain leftovers {{
		type filter hook output priority 0; policy accept;
		meta l4proto != tcp accept
		meta mark & {PROXY} accept
		meta mark & {TO_APPLICATION} accept
		ip daddr 127.0.0.1 tcp dport {OUTBOUND_PORT} ct state new ct timeout set "held"
		ip6 daddr ::1 tcp dport {OUTBOUND_PORT} ct state new ct timeout set "held6"
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
		{RST} accept
		meta l4proto tcp ct state invalid counter drop comment "invalid"
		meta l4proto tcp counter reject with tcp reset comment "leftover"
	}}
	chain leaving {{
		type filter hook postrouting priority 300; policy accept;
		oifname "lo" accept
		meta l4proto != tcp accept
		meta mark & {PROXY} accept
		{RST} accept
		meta l4proto tcp counter drop comment "leak"
	}}
"""

# The outbound chain changes nothing; it keeps the kernel translating the connections that were redirected, which stops at once
# when no nat chain, or no rule that asks for conntrack, is left.
_DRAIN: Final = f"""\
	chain outbound {{
		type nat hook output priority -100; policy accept;
		ct state new accept
	}}
	chain leaving {{
		type filter hook postrouting priority 300; policy accept;
		oifname != "lo" meta l4proto tcp meta mark & {TO_APPLICATION} {RST} accept
		oifname != "lo" meta l4proto tcp meta mark & {TO_APPLICATION} counter drop comment "leak"
	}}
"""
