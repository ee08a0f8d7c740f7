"""The nftables rules of a workload that eBPF captures: without conntrack and without translation. A pure function, like `ruleset`.

Handshakes from other devices are the steering program's (`nodeagent.bpf.steering`), before any application's listener. These rules do
the rest:

- *Outbound*: what the pod's applications send gets a mark that the routing rule knows, and so comes back on the loopback device with
  its addresses as they were; there it is given to the connection or listener of the proxy (`outbound` counts handshakes). Where
  neither is, it is reset (`leftover`). Exempt are the same as in `ruleset`, and a connection to the pod's own address is none of them.
  What the programs of its cgroup have marked (`nodeagent.capture.marking`) is on this way, or past it, already.
- *Answers* that the kernel gives itself, without a socket or for one in TIME_WAIT, take over the mark of what they answer. So what the
  proxy sends to the application in its peer's name gets the mark that brings the answer back to the proxy, instead of to that peer;
  an answer to a looped packet must lose its mark to reach the application; a reset to the outside is made with the proxy's to leave.
- *Inbound* (`reset`): no packet from another device reaches a connection that is not the proxy's: neither one from before, nor the
  proxy's to the application, whose addresses are those of the client.
- *Probes*: a handshake of the kubelet's finds, here, the listener that stands for probes (see probes.h), whose mark it is given; the
  application's side of the connection inherits that. It is no way out: a handshake with that mark from inside is reset.
- *Leaving* (`leak`): as in `ruleset`, behind all others: no TCP but the proxy's leaves the pod.
- *Draining* needs no memory of what was captured: what is new since then is remembered by its handshake, and goes past the mesh.
"""

from typing import Final

from meshapi.wire import CONNECTION_MARK, MARK_MASK, OUTBOUND_PORT, PROXY_MARK
from nodeagent.capture.marks import CAPTURED_MARK, LOOP_MARK, PAST_MARK, PROBE_MARK
from nodeagent.capture.ruleset import PROXY, RST, SYN, TO_APPLICATION, Mode, replacement


def transaction(mode: Mode, before: str) -> str:
    """See `ruleset.transaction`."""
    return replacement(before, _ENFORCE if mode is Mode.ENFORCE else _DRAIN)


_PROBE: Final = f"{MARK_MASK:#x} == {PROBE_MARK:#x}"
# A socket keeps its mark when its application connects it anew: the kubelet's connections only ever answer.
_ANSWERS_PROBE: Final = f"meta mark & {_PROBE} tcp flags & (syn | ack) != syn accept"

# How many connections may begin while others are drained.
_PASSING: Final = 1 << 18

_LOOPED: Final = f"""\
		meta l4proto != tcp accept
		iifname "lo" meta mark & {PROXY} meta mark set {CONNECTION_MARK:#x} accept
		iifname "lo" meta mark {CAPTURED_MARK:#x} meta mark set {LOOP_MARK:#x}
		iifname "lo" meta mark != {LOOP_MARK:#x} accept
		iifname "lo" meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{OUTBOUND_PORT} accept
		iifname "lo" meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{OUTBOUND_PORT} accept
		iifname "lo" meta l4proto tcp counter reject with tcp reset comment "leftover"
"""

_EXEMPT: Final = f"""\
		meta l4proto != tcp accept
		meta mark & {PROXY} accept
		{_ANSWERS_PROBE}
		meta mark & {_PROBE} counter reject with tcp reset comment "misused"
		meta mark {LOOP_MARK:#x} meta mark set {CONNECTION_MARK:#x} accept
		meta mark & {TO_APPLICATION} accept
		meta mark {PAST_MARK:#x} accept
		ip daddr 127.0.0.0/8 accept
		ip6 daddr ::1 accept
"""

_ENFORCE: Final = f"""\
	chain probe {{
		meta mark set {PROBE_MARK:#x} accept
	}}
	chain inbound {{
		type filter hook prerouting priority -150; policy accept;
{_LOOPED}\
		socket mark & {MARK_MASK:#x} vmap {{ {PROXY_MARK:#x} : accept, {PROBE_MARK:#x} : goto probe }}
		socket mark {PAST_MARK:#x} accept
		socket mark & {MARK_MASK:#x} != {PROXY_MARK:#x} counter meta mark set {PROXY_MARK:#x} \
reject with tcp reset comment "reset"
	}}
	chain outbound {{
		type route hook output priority -150; policy accept;
{_EXEMPT}\
		{SYN} counter comment "outbound"
		meta mark set {LOOP_MARK:#x}
	}}
	chain leaving {{
		type filter hook postrouting priority 300; policy accept;
		oifname "lo" accept
		meta l4proto != tcp accept
		meta mark & {PROXY} accept
		meta mark {PAST_MARK:#x} accept
		{_ANSWERS_PROBE}
		{RST} accept
		meta l4proto tcp counter drop comment "leak"
	}}
"""

_DRAIN: Final = f"""\
	set passing {{
		type ipv4_addr . inet_service . ipv4_addr . inet_service
		size {_PASSING}
		flags dynamic
	}}
	set passing6 {{
		type ipv6_addr . inet_service . ipv6_addr . inet_service
		size {_PASSING}
		flags dynamic
	}}
	chain inbound {{
		type filter hook prerouting priority -150; policy accept;
{_LOOPED}\
		socket mark & {TO_APPLICATION} counter drop comment "reset"
	}}
	chain outbound {{
		type route hook output priority -150; policy accept;
{_EXEMPT}\
		tcp flags & syn == syn add @passing {{ ip saddr . tcp sport . ip daddr . tcp dport }} accept
		tcp flags & syn == syn add @passing6 {{ ip6 saddr . tcp sport . ip6 daddr . tcp dport }} accept
		ip saddr . tcp sport . ip daddr . tcp dport @passing accept
		ip6 saddr . tcp sport . ip6 daddr . tcp dport @passing6 accept
		meta mark set {LOOP_MARK:#x}
	}}
	chain leaving {{
		type filter hook postrouting priority 300; policy accept;
		oifname != "lo" meta l4proto tcp meta mark & {TO_APPLICATION} {RST} accept
		oifname != "lo" meta l4proto tcp meta mark & {TO_APPLICATION} counter drop comment "leak"
	}}
"""
