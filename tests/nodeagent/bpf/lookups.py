"""Lookups that are made up, and the steering program run on them by the kernel.

The kernel takes no device for such a lookup; what comes by the loopback device is tested with traffic.
"""

import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nodeagent.bpf import libbpf
from nodeagent.bpf.kubelet import PROBES
from nodeagent.bpf.libbpf import Loaded
from nodeagent.bpf.steering import MAPS, OBJECT, PROGRAM, REASONS, SLOTS, TERMS, Reason, Slot, encode
from nodeagent.capture.terms import TOTAL, Terms

DROP, PASS = 0, 1
SO_COOKIE = 57


@dataclass(frozen=True)
class Lookup:
    """`struct bpf_sk_lookup` of <linux/bpf.h>."""

    remote: str = "192.0.2.1"
    local: str = "192.0.2.2"
    port: int = 8080
    protocol: int = socket.IPPROTO_TCP
    source_port: int = 40000

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.local else socket.AF_INET

    def packed(self) -> bytes:
        def halves(address: str) -> tuple[bytes, bytes]:
            raw = ipaddress.ip_address(address).packed
            return (raw, b"\0" * 16) if len(raw) == 4 else (b"\0" * 4, raw)

        remote4, remote6 = halves(self.remote)
        local4, local6 = halves(self.local)
        source_port = self.source_port.to_bytes(2, "big")
        return struct.pack("=QII4s16s2s2x4s16sI8x", 0, self.family, self.protocol, remote4, remote6, source_port, local4, local6, self.port)

    def flow(self) -> bytes:
        """`struct flow` of flow.h."""

        def mapped(address: str) -> bytes:
            raw = ipaddress.ip_address(address).packed
            return raw if len(raw) == 16 else ipaddress.ip_address(f"::ffff:{address}").packed

        return mapped(self.remote) + mapped(self.local) + struct.pack("=HH", self.source_port, self.port)

    def expected(self) -> Reason:
        if self.protocol != socket.IPPROTO_TCP:
            return Reason.NOT_TCP
        if self.remote == self.local:
            return Reason.OWN
        return Reason.HBONE if self.port == 15008 else Reason.INBOUND

    def slot(self) -> Slot:
        if self.port == 15008:
            return Slot.HBONE
        return Slot.INBOUND6 if self.family == socket.AF_INET6 else Slot.INBOUND


@dataclass
class Program:
    loaded: Loaded
    listeners: dict[Slot, socket.socket] = field(default_factory=dict)

    def fill(self) -> None:
        for slot in Slot:
            listener = socket.create_server(
                ("::1" if slot in {Slot.INBOUND6, Slot.PROBE6} else "", 0), family=family_of(slot), dualstack_ipv6=slot is Slot.HBONE
            )
            self.listeners[slot] = listener
            libbpf.write(self.loaded.maps[SLOTS], slot, struct.pack("=Q", listener.fileno()))

    @contextmanager
    def on(self, terms: Terms, *, away: bool = False) -> Iterator[None]:
        """On other terms for the length of the block."""
        libbpf.write(self.loaded.maps[TERMS], 0, encode(terms, away=away))
        yield
        libbpf.write(self.loaded.maps[TERMS], 0, encode(TOTAL))

    def run(self, lookup: Lookup) -> tuple[int, Slot | None, Reason]:
        """Verdict, whose listener was chosen, and the reason that was counted."""
        before = self.counted()
        verdict, context = libbpf.run_once(self.loaded.program, lookup.packed())
        cookies = {listener.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8): slot for slot, listener in self.listeners.items()}
        chosen = context[:8]
        [reason] = [reason for reason, count in self.counted().items() if count != before[reason]]
        assert self.counted()[reason] == before[reason] + 1
        return verdict, cookies[chosen] if any(chosen) else None, reason

    def record(self, lookup: Lookup, *, age_s: float = 0.0) -> None:
        """As if the kubelet had begun it so long ago."""
        began_ns = time.monotonic_ns() - int(age_s * 1e9)
        libbpf.write(self.loaded.maps[PROBES], lookup.flow(), struct.pack("=QQ", began_ns, 0))

    def counted(self) -> dict[Reason, int]:
        cpus = libbpf.possible_cpus()
        values = {reason: libbpf.read(self.loaded.maps[REASONS], reason, 8 * cpus) for reason in Reason}
        return {reason: sum(struct.unpack(f"={cpus}Q", value or b"")) for reason, value in values.items()}


def family_of(slot: Slot) -> int:
    return socket.AF_INET if slot in {Slot.INBOUND, Slot.PROBE} else socket.AF_INET6


@contextmanager
def program(*, fill: bool = True) -> Iterator[Program]:
    """The program as it was built, with a listener in each slot or in none."""
    with libbpf.load(OBJECT, PROGRAM, (*MAPS, PROBES)) as loaded:
        made = Program(loaded)
        if fill:
            made.fill()
        yield made
        for listener in made.listeners.values():
            listener.close()
