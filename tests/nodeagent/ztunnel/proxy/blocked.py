"""A pod whose HBONE port answers nothing, as if the pod had vanished, or refuses; or one whose packets are counted only."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.nodeagent.pods import Side

SILENTLY = "drop"
BY_RESET = "reject with tcp reset"
NOT_AT_ALL = "accept"
_TABLE = "inet blocked"


@contextmanager
def blocked(side: Side, how: str, *, port: int = 15008, peer_port: int | None = None) -> Iterator[Callable[[], int]]:
    """All connections, or the one from `peer_port`; yields how many packets have come to the port since."""
    from_peer = f"tcp sport {peer_port}" if peer_port else ""
    to_peer = f"tcp dport {peer_port}" if peer_port else ""
    outward = "drop" if how == SILENTLY else "accept"
    rules = f"""
    table {_TABLE} {{
        chain in {{
            type filter hook input priority -300;
            tcp dport {port} {from_peer} counter {how}
        }}
        chain out {{
            type filter hook output priority -300;
            tcp sport {port} {to_peer} {outward}
        }}
    }}
    """
    side.shell("nft", "-f", "-", stdin=rules)
    try:
        yield lambda: _packets(side)
    finally:
        side.shell("nft", "delete", "table", *_TABLE.split())


def _packets(side: Side) -> int:
    listed = json.loads(side.shell("nft", "-j", "list", "chain", *_TABLE.split(), "in"))
    (rule,) = (entry["rule"] for entry in listed["nftables"] if "rule" in entry)
    return sum(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
