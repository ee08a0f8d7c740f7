"""The marks of packets and sockets in a captured namespace that are the rules' own; `meshapi.wire` has those that peers share.

The lower twelve bits are the proxy's (`PROXY_MARK`, `CONNECTION_MARK`) and the kubelet's; the others use the bits above.
"""

from typing import Final

from meshapi.wire import CONNECTION_MARK

LOOP_MARK: Final = 0x10000 | CONNECTION_MARK
"""Of a packet that comes back by `lo` to the proxy: to the routing rule, which looks at the lower bits, the same as the mark towards
the application; to the rules another."""

PROBE_MARK: Final = 0x222
"""Under the same mask as the proxy's: of the listener that stands for the kubelet's connections, and of their ends in the pod."""

PAST_MARK: Final = 0x20000
"""Of a packet, a socket or a connection that goes past the proxy, as the workload's terms have it."""

ADMITTED_MARK: Final = 0x80000
"""Of a handshake that came in and was left to the application, as the terms have it; so of the connection's socket, and its answers."""

CAPTURED_MARK: Final = 0x40000 | CONNECTION_MARK
"""Of a socket whose connection is the proxy's: its packets take the same way as looped ones, and become such on `lo`. It is not theirs,
which the kernel's own answers to them take over."""
