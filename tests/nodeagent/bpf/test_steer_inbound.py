"""The program itself, run by the kernel on lookups that are made up, against a model of what it is to do.

The kernel takes no device for such a lookup; what comes by the loopback device is tested with traffic.
"""

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.bpf import libbpf
from nodeagent.bpf.libbpf import Loaded
from nodeagent.bpf.steering import OBJECT, PROGRAM, REASONS, SLOTS, Reason, Slot

DROP, PASS = 0, 1
SO_COOKIE = 57
BUDGET_INSTRUCTIONS = 250


@dataclass(frozen=True)
class Lookup:
    """`struct bpf_sk_lookup` of <linux/bpf.h>."""

    remote: str = "192.0.2.1"
    local: str = "192.0.2.2"
    port: int = 8080
    protocol: int = socket.IPPROTO_TCP

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.local else socket.AF_INET

    def packed(self) -> bytes:
        def halves(address: str) -> tuple[bytes, bytes]:
            raw = ipaddress.ip_address(address).packed
            return (raw, b"\0" * 16) if len(raw) == 4 else (b"\0" * 4, raw)

        remote4, remote6 = halves(self.remote)
        local4, local6 = halves(self.local)
        return struct.pack("=QII4s16s2s2x4s16sI8x", 0, self.family, self.protocol, remote4, remote6, b"\x9c\x40", local4, local6, self.port)

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
                ("::1" if slot is Slot.INBOUND6 else "", 0), family=family_of(slot), dualstack_ipv6=slot is Slot.HBONE
            )
            self.listeners[slot] = listener
            libbpf.write(self.loaded.maps[SLOTS], slot, struct.pack("=Q", listener.fileno()))

    def run(self, lookup: Lookup) -> tuple[int, Slot | None, Reason]:
        """Verdict, whose listener was chosen, and the reason that was counted."""
        before = self.counted()
        verdict, context = libbpf.run_once(self.loaded.program, lookup.packed())
        cookies = {listener.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8): slot for slot, listener in self.listeners.items()}
        chosen = context[:8]
        [reason] = [reason for reason, count in self.counted().items() if count != before[reason]]
        assert self.counted()[reason] == before[reason] + 1
        return verdict, cookies[chosen] if any(chosen) else None, reason

    def counted(self) -> dict[Reason, int]:
        cpus = libbpf.possible_cpus()
        values = {reason: libbpf.read(self.loaded.maps[REASONS], reason, 8 * cpus) for reason in Reason}
        return {reason: sum(struct.unpack(f"={cpus}Q", value or b"")) for reason, value in values.items()}


def family_of(slot: Slot) -> int:
    return socket.AF_INET if slot is Slot.INBOUND else socket.AF_INET6


@pytest.fixture(scope="module")
def empty() -> Iterator[Program]:
    with libbpf.load(OBJECT, PROGRAM, (SLOTS, REASONS)) as loaded:
        yield Program(loaded)


@pytest.fixture(scope="module")
def filled() -> Iterator[Program]:
    with libbpf.load(OBJECT, PROGRAM, (SLOTS, REASONS)) as loaded:
        program = Program(loaded)
        program.fill()
        yield program
        for listener in program.listeners.values():
            listener.close()


V6 = Lookup(remote="2001:db8::1", local="2001:db8::2")


@pytest.mark.parametrize(
    ("lookup", "verdict", "slot", "reason"),
    [
        (Lookup(), PASS, Slot.INBOUND, Reason.INBOUND),
        (V6, PASS, Slot.INBOUND6, Reason.INBOUND),
        (Lookup(port=15008), PASS, Slot.HBONE, Reason.HBONE),
        (replace(V6, port=15008), PASS, Slot.HBONE, Reason.HBONE),
        (Lookup(port=15006), PASS, Slot.INBOUND, Reason.INBOUND),
        (Lookup(local="127.0.0.1"), PASS, Slot.INBOUND, Reason.INBOUND),  # loopback is the device, not an address that a packet claims
        (Lookup(remote="192.0.2.2"), PASS, None, Reason.OWN),
        (replace(V6, remote="2001:db8::2"), PASS, None, Reason.OWN),
        (replace(V6, remote="2001:db8:1::2"), PASS, Slot.INBOUND6, Reason.INBOUND),
        (Lookup(protocol=socket.IPPROTO_UDP), PASS, None, Reason.NOT_TCP),
    ],
)
def test_what_goes_where(filled: Program, lookup: Lookup, verdict: int, slot: Slot | None, reason: Reason) -> None:
    assert filled.run(lookup) == (verdict, slot, reason)


def test_a_listener_of_the_other_family_refuses(empty: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        libbpf.write(empty.loaded.maps[SLOTS], Slot.INBOUND6, struct.pack("=Q", listener.fileno()))
        assert empty.run(V6) == (DROP, None, Reason.NOT_ASSIGNED)
    assert empty.run(V6) == (DROP, None, Reason.NO_LISTENER), "the slot is emptied when its socket closes"


def addresses(raw: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=raw, max_size=raw).map(lambda value: str(ipaddress.ip_address(value)))


lookups = st.sampled_from([4, 16]).flatmap(
    lambda raw: st.builds(
        Lookup,
        remote=addresses(raw),
        local=addresses(raw),
        port=st.one_of(st.sampled_from([15001, 15006, 15008, 0, 65535]), st.integers(0, 65535)),
        protocol=st.sampled_from([socket.IPPROTO_TCP, socket.IPPROTO_UDP]),
    )
)


@given(lookups)
@settings(max_examples=200, deadline=None)
def test_nothing_from_outside_is_left_to_the_applications(filled: Program, empty: Program, lookup: Lookup) -> None:
    reason = lookup.expected()
    if reason in {Reason.INBOUND, Reason.HBONE}:
        assert filled.run(lookup) == (PASS, lookup.slot(), reason)
        assert empty.run(lookup) == (DROP, None, Reason.NO_LISTENER)
    else:
        assert filled.run(lookup) == empty.run(lookup) == (PASS, None, reason)


def test_the_verifier_has_little_to_do(empty: Program) -> None:
    assert 0 < libbpf.program_info(empty.loaded.program).verified_instructions <= BUDGET_INSTRUCTIONS
