"""The program itself, run by the kernel on lookups that are made up, against a model of what it is to do."""

import ipaddress
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.bpf import libbpf
from nodeagent.bpf.steering import SLOTS, Reason, Slot
from nodeagent.capture.terms import TOTAL, Terms
from tests.nodeagent.bpf.lookups import DROP, PASS, Lookup, Program, program

BUDGET_INSTRUCTIONS = 5000


@pytest.fixture(scope="module")
def empty() -> Iterator[Program]:
    with program(fill=False) as made:
        yield made


@pytest.fixture(scope="module")
def filled() -> Iterator[Program]:
    with program() as made:
        yield made


V6 = Lookup(remote="2001:db8::1", local="2001:db8::2")


@pytest.mark.parametrize(
    ("lookup", "verdict", "slot", "reason"),
    [
        (Lookup(), PASS, Slot.INBOUND, Reason.INBOUND),
        (V6, PASS, Slot.INBOUND6, Reason.INBOUND),
        (Lookup(port=15008), PASS, Slot.HBONE, Reason.HBONE),
        (replace(V6, port=15008), PASS, Slot.HBONE, Reason.HBONE),
        (Lookup(port=15006), PASS, Slot.INBOUND, Reason.INBOUND),
        # Loopback is the device, not an address that a packet claims: the rules ask so.
        (Lookup(local="127.0.0.1"), PASS, Slot.INBOUND, Reason.ASKED),
        (replace(V6, local="::1"), PASS, Slot.INBOUND6, Reason.ASKED),
        (replace(V6, local="::2"), PASS, Slot.INBOUND6, Reason.INBOUND),
        (Lookup(remote="192.0.2.2"), PASS, None, Reason.OWN),
        (replace(V6, remote="2001:db8::2"), PASS, None, Reason.OWN),
        (replace(V6, remote="2001:db8:1::2"), PASS, Slot.INBOUND6, Reason.INBOUND),
        (Lookup(protocol=socket.IPPROTO_UDP), PASS, None, Reason.NOT_TCP),
    ],
)
def test_what_goes_where(filled: Program, lookup: Lookup, verdict: int, slot: Slot | None, reason: Reason) -> None:
    assert filled.run(lookup) == (verdict, slot, reason)


@pytest.mark.parametrize("lookup", [Lookup(port=7001), replace(V6, port=7001), Lookup(port=15006)])
def test_a_probe_is_told_to_the_rules_then_left_to_the_application(filled: Program, empty: Program, lookup: Lookup) -> None:
    marker = Slot.PROBE6 if ":" in lookup.local else Slot.PROBE
    filled.record(lookup)
    for _ in range(3):  # a handshake, one that was sent again, a cookie
        assert filled.run(lookup) == (PASS, marker, Reason.PROBE_TOLD)
        assert filled.run(lookup) == (PASS, None, Reason.PROBE)
    empty.record(lookup)
    for _ in range(3):
        assert empty.run(lookup) == (DROP, None, Reason.NO_LISTENER)


def test_a_turn_that_was_missed_is_not_waited_for(filled: Program) -> None:
    lookup = Lookup(port=7002)
    filled.record(lookup)
    assert filled.run(lookup)[2] is Reason.PROBE_TOLD
    deadline = time.monotonic() + 0.05
    while time.monotonic() < deadline:
        pass
    assert filled.run(lookup)[2] is Reason.PROBE_TOLD


@pytest.mark.parametrize(
    "other",
    [
        replace(V6, port=7003, remote="2001:db8::3"),
        replace(V6, port=7003, local="2001:db8::3"),
        replace(V6, port=7004),
        Lookup(port=7003),
    ],
)
def test_a_probe_exempts_no_other_connection(filled: Program, other: Lookup) -> None:
    filled.record(replace(V6, port=7003))
    assert filled.run(other)[2] is Reason.INBOUND


def test_a_record_that_was_left_behind_holds_for_nobody(filled: Program) -> None:
    lookup = Lookup(port=7005)
    filled.record(lookup, age_s=131)
    assert filled.run(lookup)[2] is Reason.INBOUND
    filled.record(lookup, age_s=60)
    assert filled.run(lookup)[2] is Reason.PROBE_TOLD


def test_hbone_is_hbone_whoever_calls(filled: Program) -> None:
    lookup = Lookup(port=15008)
    filled.record(lookup)
    assert filled.run(lookup) == (PASS, Slot.HBONE, Reason.HBONE)


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


@given(lookups, st.frozensets(st.sampled_from([0, 1, 63, 64, 65535, 15006, 15008]) | st.integers(0, 65535), max_size=5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_ports_that_are_left_alone_and_no_others(filled: Program, lookup: Lookup, ports: frozenset[int], include: bool) -> None:
    some = tuple(sorted(ports - {0}))
    terms = Terms(include_inbound_ports=some) if include else Terms(exclude_inbound_ports=some)
    reason = lookup.expected()
    with filled.on(terms):
        if reason in {Reason.INBOUND, Reason.HBONE} and lookup.port and not terms.captures_inbound(lookup.port):
            assert filled.run(lookup) == (PASS, None, Reason.LEFT_ALONE)
        else:
            assert filled.run(lookup)[2] == reason


@pytest.mark.parametrize("lookup", [Lookup(), V6], ids=["ipv4", "ipv6"])
def test_it_fails_open_where_it_may_and_hbone_never(filled: Program, empty: Program, lookup: Lookup) -> None:
    hbone = replace(lookup, port=15008)
    heard = filled.run(lookup)
    with empty.on(Terms(fail_open=True)), filled.on(Terms(fail_open=True)):
        assert empty.run(lookup) == (PASS, None, Reason.OPEN)
        assert empty.run(hbone) == (DROP, None, Reason.NO_LISTENER)
        assert filled.run(lookup) == heard
    with filled.on(Terms(fail_open=True), away=True):
        assert filled.run(lookup) == (PASS, None, Reason.OPEN)
        assert filled.run(hbone) == (PASS, Slot.HBONE, Reason.HBONE)
    with empty.on(TOTAL, away=True), filled.on(TOTAL, away=True):
        assert empty.run(lookup) == (DROP, None, Reason.NO_LISTENER)
        assert filled.run(lookup) == heard, "without leave it stays closed, whatever the agent says"


def test_the_verifier_has_little_to_do(empty: Program) -> None:
    assert 0 < libbpf.program_info(empty.loaded.program).verified_instructions <= BUDGET_INSTRUCTIONS
