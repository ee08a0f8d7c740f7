"""What is whose of a host: the table of claims in a namespace, taken, passed on, taken off without a trace; and the program's size."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.bpf import libbpf
from nodeagent.bpf.units import _CLAIM, PROGRAM, Claim, Slot, UnitSteering, _packed
from tests.nodeagent.bpf.objects import eventually_gone, ids
from tests.nodeagent.pods import Pair

BUDGET_INSTRUCTIONS = 400
ANY = Claim(None, 8080)
ONE = Claim(ip_address("10.77.0.1"), 8080)
SIX = Claim(ip_address("fd77::1"), 8080)


@pytest.fixture
def listeners(network: Pair) -> Iterator[dict[Slot, socket.socket]]:
    with ExitStack() as stack:
        made = {}
        for slot, address in ((Slot.INBOUND, "127.0.0.1"), (Slot.INBOUND6, "::1"), (Slot.HBONE, "127.0.0.1"), (Slot.HBONE6, "::1")):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made[slot] = stack.enter_context(network.pod.open_socket(family))
            made[slot].bind((address, 0))
            made[slot].listen()
        yield made


def test_claims_are_taken_kept_and_passed_on(network: Pair, root: Path, listeners: dict[Slot, socket.socket]) -> None:
    steering, network_namespace = UnitSteering(root), network.pod.namespace
    steering.claim(network_namespace, 7, {ANY, ONE}, listeners)
    steering.claim(network_namespace, 8, {ONE, SIX}, listeners)
    first, second = steering.inspect(network_namespace, 7), steering.inspect(network_namespace, 8)
    assert first is not None
    assert second is not None
    assert (first.claims, second.claims) == ({ANY, ONE}, {SIX})
    assert first.current
    assert first.listeners == second.listeners == frozenset(Slot)
    found = ids(root)
    steering.claim(network_namespace, 7, {ANY}, {})
    steering.claim(network_namespace, 8, {ONE, SIX}, {})
    second = steering.inspect(network_namespace, 8)
    assert second is not None
    assert second.claims == {ONE, SIX}
    assert ids(root) == found, "the program and its tables stay"
    steering.release(network_namespace, 7)
    assert steering.inspect(network_namespace, 7) is None
    assert steering.inspect(network_namespace, 8) is not None
    steering.release(network_namespace, 8)
    steering.release(network_namespace, 8)
    assert list(root.iterdir()) == []
    eventually_gone(found)


def test_a_listener_that_closes_leaves_the_claim_without_one(network: Pair, root: Path, listeners: dict[Slot, socket.socket]) -> None:
    steering = UnitSteering(root)
    steering.claim(network.pod.namespace, 7, {ANY}, listeners)
    listeners[Slot.INBOUND].close()
    found = steering.inspect(network.pod.namespace, 7)
    assert found is not None
    assert (found.claims, found.listeners) == ({ANY}, frozenset(Slot) - {Slot.INBOUND})
    steering.release(network.pod.namespace, 7)


def test_the_verifier_has_little_to_walk() -> None:
    with libbpf.load(PROGRAM.object, PROGRAM.name, ()) as loaded:
        assert 0 < libbpf.program_info(loaded.program).verified_instructions <= BUDGET_INSTRUCTIONS


@given(st.ip_addresses(), st.integers(1, 65535))
@settings(max_examples=50)
def test_addresses_are_packed_as_the_program_sees_them(address: object, port: int) -> None:
    raw, packed_port = _CLAIM.unpack(_packed(Claim(ip_address(str(address)), port)))
    words = ip_address(str(address)).packed
    assert (raw, packed_port) == (words if len(words) == 16 else b"\0" * 10 + b"\xff\xff" + words, port)
