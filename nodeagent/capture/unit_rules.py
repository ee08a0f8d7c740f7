"""The nftables rules for a process group in the node's own network namespace, as text: a pure function, its outcome kept in golden files.

One table for each unit. They touch nothing but packets with the unit's own mark, which the programs of its cgroup have given to its
sockets, and what is sent to the unit's listener by somebody else:

- What has the mark comes back by the loopback device (a rule of policy routing for exactly this mark) and is given to the proxy's
  connection or listener (`outbound` counts handshakes); where neither is, it is reset (`leftover`).
- What would leave the node with the mark is dropped (`leak`), as of a socket that is bound to a device.
- Questions to DNS go to the agent (`questions`), on a port of the unit's own: datagrams by the cgroup of their socket. Nobody else's come
  there (`stranger-dns`): they would use up what the unit may ask.
- Who connects to the listener itself is refused (`stranger`): it is there for what loops, and has the unit's identity.
"""

import re
from typing import Final, NamedTuple

from meshapi.wire import CONNECTION_MARK
from nodeagent.capture import questions
from nodeagent.capture.ruleset import FAMILY, SYN
from nodeagent.linux.netlink import LocalDelivery

PORTS: Final = range(15100, 16000)
"""For listeners of units, each its own."""
PREFIX: Final = "nodemesh_"
_TABLES: Final = 0x6D000000
_REMEMBERED: Final = re.compile(r"(unit|draining) ([0-9]{5})")


class Asking(NamedTuple):
    """A cgroup whose questions to DNS go to the agent: as nft names it, and how far below the root it is.

    `stub`: those to loopback addresses, too, where the host has its resolver. Only then is conntrack needed.
    """

    cgroup: str
    level: int
    stub: bool = False


class Remembered(NamedTuple):
    """What a unit's table says of itself."""

    port: int
    draining: bool


def table_of(unit: int) -> str:
    """The name of the table of the unit whose cgroup has this id."""
    return f"{PREFIX}{unit}"


def mark_of(port: int) -> int:
    """The mark of sockets whose connections are for the listener on `port`: none of a pod's, and no other unit's."""
    return port << 16 | CONNECTION_MARK


def delivery_of(port: int) -> LocalDelivery:
    """What brings packets with the mark back: by a rule and in a table of the unit's own."""
    return LocalDelivery(mark=mark_of(port), mask=0xFFFFFFFF, table=_TABLES | port, priority=20001, protocol=0x6D)


def dns_port_of(port: int) -> int:
    """Where the agent answers the questions of the unit whose listener is on `port`."""
    return port + 3 * len(PORTS)


def script(unit: int, port: int, *, asking: Asking | None = None, draining: bool = False) -> str:
    """The script that replaces the unit's table. While it is drained, the same rules serve what is open."""
    mark, dns_port = f"meta mark {mark_of(port):#x}", dns_port_of(port)
    chains, asked, given = "", "", ""
    if asking:
        chains = questions.of_unit(asking.cgroup, asking.level, f"{mark_of(port):#x}", dns_port)
        if asking.stub:
            chains += questions.of_stub(asking.cgroup, asking.level, dns_port)
        redirected = f"\t\tct status dnat meta l4proto {{ tcp, udp }} th dport {dns_port} accept\n" if asking.stub else ""
        asked = f"""\
		{mark} udp dport 53 goto asked
{redirected}\
		ip daddr 127.0.0.1 meta l4proto {{ tcp, udp }} th dport {dns_port} counter drop comment "stranger-dns"
		ip6 daddr ::1 meta l4proto {{ tcp, udp }} th dport {dns_port} counter drop comment "stranger-dns6"
"""
        given = f"""\
		{mark} meta nfproto ipv4 tcp dport 53 tproxy ip to 127.0.0.1:{dns_port} accept
		{mark} meta nfproto ipv6 tcp dport 53 tproxy ip6 to [::1]:{dns_port} accept
"""
    return f"""\
{deletion(unit)}table {FAMILY} {table_of(unit)} {{
	chain state {{
		continue comment "{"draining" if draining else "unit"} {port}"
	}}
{chains}	chain inbound {{
		type filter hook prerouting priority -150; policy accept;
		iifname != "lo" accept
{asked}		meta l4proto != tcp accept
{given}		{mark} {SYN} counter comment "outbound"
		{mark} meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{port} accept
		{mark} meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{port} accept
		{mark} meta l4proto tcp counter reject with tcp reset comment "leftover"
		ip daddr 127.0.0.1 tcp dport {port} counter reject with tcp reset comment "stranger"
		ip6 daddr ::1 tcp dport {port} counter reject with tcp reset comment "stranger6"
	}}
	chain leaving {{
		type filter hook postrouting priority 300; policy accept;
		oifname != "lo" {mark} counter drop comment "leak"
	}}
}}
"""


def deletion(unit: int) -> str:
    """The script that removes the unit's table, if there is one."""
    return f"add table {FAMILY} {table_of(unit)}\ndelete table {FAMILY} {table_of(unit)}\n"


def remembered(comments: tuple[str, ...]) -> Remembered | None:
    """What the comments of a unit's table say; None if it is not as we make one."""
    for comment in comments:
        if (found := _REMEMBERED.fullmatch(comment)) and int(found[2]) in PORTS:
            return Remembered(int(found[2]), draining=found[1] == "draining")
    return None
