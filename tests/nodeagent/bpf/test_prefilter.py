"""The table in the kernel: the program refuses by it what the evaluator denies, and no more; counted, told, and replaced as one."""

import os
import select
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.authorization import Match, Policy
from meshapi.workload import Workload
from nodeagent.bpf import libbpf, prefilter, steering
from nodeagent.bpf.prefilter import decode, denial_number, encode, publish, published, take_denied
from nodeagent.bpf.ringbuffer import RingBuffer
from nodeagent.bpf.steering import Reason
from nodeagent.policy.partition import Partition, address, number
from nodeagent.policy.prefilter import MAX_CLASSES, MAX_DENIALS, MAX_DESTINATIONS, MAX_PORTS, MAX_SOURCES, Denial, Prefilter
from nodeagent.ztunnel.protocol import Via
from tests.nodeagent.bpf.lookups import DROP, Lookup, Program, program
from tests.nodeagent.policy import generated
from tests.nodeagent.policy.cases import (
    ADDRESSES,
    PEERS,
    PORTS,
    PROBES,
    SOURCES,
    STRICT,
    UID,
    compiled,
    denied,
    knowing,
    policy,
    surely_denied,
)

HEADER = Path(steering.__file__).parent / "src/prefilter.h"
HBONE = 15008


@pytest.fixture(scope="module")
def steered() -> Iterator[Program]:
    with program() as made:
        yield made


@pytest.fixture(autouse=True)
def _without_a_table(steered: Program) -> Iterator[None]:
    yield
    publish(steered.loaded.maps, None)


def refused(steered: Program, source: object, destination: object, port: int, *, source_port: int = 40000) -> bool:
    verdict, _, reason = steered.run(Lookup(str(source), str(destination), port, source_port=source_port))
    assert (verdict == DROP) == (reason in {Reason.DENIED, Reason.DENIED_SAME})
    return verdict == DROP


def same_family(source: object, destination: object) -> bool:
    return (":" in str(source)) == (":" in str(destination))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(generated.policies, max_size=4, unique_by=lambda policy: policy.key),
    st.lists(st.sampled_from(["shop/a", "other/b", "shop/missing"]), max_size=2).map(tuple),
    st.sampled_from([{}, PROBES]),
    st.randoms(use_true_random=False),
)
def test_the_kernel_refuses_what_the_evaluator_denies(
    steered: Program, policies: list[Policy], named: tuple[str, ...], more: dict[str, object], random: Random
) -> None:
    """Plaintext exactly; a tunnel never where some identity and port would be allowed."""
    snapshot = knowing(*policies, workload=Workload(UID, "api", "shop", addresses=ADDRESSES, authorization_policies=named), **more)
    publish(steered.loaded.maps, encode(compiled(snapshot)))
    for source in SOURCES:
        for destination in filter(lambda one: same_family(source, one), ADDRESSES):
            for port in random.sample(PORTS, 4):
                assert refused(steered, source, destination, port) == denied(snapshot, source, destination, port), (
                    source,
                    destination,
                    port,
                )
            if refused(steered, source, destination, HBONE):
                assert all(surely_denied(snapshot, source, peer) for peer in PEERS)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.ip_addresses(v=4), min_size=1, max_size=100, unique=True), st.sets(st.integers(1, 65535), min_size=1, max_size=30))
def test_every_edge_of_many_blocks_and_ports_is_found(steered: Program, blocks: list[object], ports: set[int]) -> None:
    """Each search of the kernel ends where the table's own does."""
    networks = tuple(ip_network(f"{block}/{32 - index % 20}", strict=False) for index, block in enumerate(blocks))
    table = compiled(knowing(policy(Match(source_ips=networks, destination_ports=tuple(ports)))))
    publish(steered.loaded.maps, encode(table))
    for network in networks[:20]:
        for source in {network[0], network[-1], network[0] - 1 if int(network[0]) else network[0]}:
            for port in sorted({port + by for port in list(ports)[:5] for by in (-1, 0, 1)} & set(range(1, 65536)) - {HBONE}):
                found = table.refusal(source, ADDRESSES[0], port, Via.PLAINTEXT)
                assert refused(steered, source, ADDRESSES[0], port) == (found is not None)


def test_without_a_table_nothing_is_refused_and_with_one_nothing_but_for_its_addresses(steered: Program) -> None:
    assert not refused(steered, "10.0.0.1", "10.0.0.9", 80)
    publish(steered.loaded.maps, encode(compiled(knowing(policy(STRICT)))))
    assert refused(steered, "10.0.0.1", "10.0.0.9", 80)
    assert refused(steered, "fd00::1", "fd00::9", 80)
    assert not refused(steered, "10.0.0.1", "10.0.0.8", 80), "an address that the table does not know is the proxy's to judge"
    publish(steered.loaded.maps, None)
    publish(steered.loaded.maps, None)
    assert not refused(steered, "10.0.0.1", "10.0.0.9", 80)


def test_all_places_of_the_table_can_be_used(steered: Program) -> None:
    """As many pieces, classes and denials as there is room for."""
    sources = Partition(
        tuple(number(ip_address("10.0.0.0")) + index if index else 0 for index in range(MAX_SOURCES)),
        tuple(index % MAX_CLASSES for index in range(MAX_SOURCES)),
        (0,) * MAX_CLASSES,
    )
    ports = Partition(tuple(range(MAX_PORTS)), tuple(index % MAX_CLASSES for index in range(MAX_PORTS)), (0,) * MAX_CLASSES)
    cells = [
        [[(where + source + port) % (MAX_DENIALS + 1) for port in range(MAX_CLASSES)] for source in range(MAX_CLASSES)]
        for where in range(MAX_DESTINATIONS)
    ]
    table = Prefilter(
        destinations=tuple(ip_address(f"10.9.0.{last}") for last in range(MAX_DESTINATIONS)),
        sources=sources,
        ports=ports,
        plaintext=tuple(tuple(map(tuple, rows)) for rows in cells),
        tunnels=tuple(index % 2 for index in range(MAX_CLASSES)),
        denials=tuple(Denial(f"shop/{index}", "") for index in range(MAX_DENIALS)),
    )
    publish(steered.loaded.maps, encode(table))
    for index, start in enumerate(sources.starts[1:], start=1):
        source, destination = address(start), table.destinations[index % MAX_DESTINATIONS]
        port = (index * 7 % MAX_PORTS or 65535) if index % 8 else HBONE
        via = Via.HBONE if port == HBONE else Via.PLAINTEXT
        assert refused(steered, source, destination, port) == (table.refusal(source, destination, port, via) is not None)


@pytest.fixture
def strict() -> Iterator[tuple[Program, RingBuffer]]:
    """A program that has told nothing yet, and refuses everything; and what it tells."""
    with program() as made, RingBuffer(libbpf.Descriptor(os.dup(made.loaded.maps[prefilter.REFUSALS].fileno()))) as ring:
        publish(made.loaded.maps, encode(compiled(knowing(policy(STRICT)))))
        yield made, ring


def readable(ring: RingBuffer) -> bool:
    return bool(select.select([ring], [], [], 0)[0])


def test_refusals_are_counted_once_a_packet_and_told(strict: tuple[Program, RingBuffer]) -> None:
    made, ring = strict
    assert not readable(ring)
    for source_port, source in ((50001, "10.0.0.1"), (50002, "10.0.0.1"), (50002, "fd00::1")):
        for reason in (Reason.DENIED, Reason.DENIED_SAME):
            lookup = Lookup(source, "fd00::9" if ":" in source else "10.0.0.9", 80, source_port=source_port)
            assert made.run(lookup)[2] is reason
    assert take_denied(made.loaded.maps) == {denial_number("shop/p"): 3}
    assert take_denied(made.loaded.maps) == {}
    assert readable(ring)
    told = [decode(record) for record in ring.read()]
    assert not readable(ring)
    assert [(str(one.source), one.source_port, str(one.destination), one.port) for one in told] == [
        ("10.0.0.1", 50001, "10.0.0.9", 80),
        ("10.0.0.1", 50002, "10.0.0.9", 80),
        ("fd00::1", 50002, "fd00::9", 80),
    ]
    assert {one.denial for one in told} == {denial_number("shop/p")}
    assert all(0 <= time.monotonic_ns() - one.at_ns < 60e9 for one in told)


def test_a_flood_is_counted_and_a_part_of_it_told(strict: tuple[Program, RingBuffer]) -> None:
    made, ring = strict
    for source_port in range(2000, 2300):
        made.run(Lookup("10.0.0.1", "10.0.0.9", 80, source_port=source_port))
    told = len(ring.read())
    # Two whose hash is the same may take the place of one another, which loses none.
    assert sum(take_denied(made.loaded.maps).values()) == 300
    assert 0 < told < 300
    assert told + published(made.loaded.maps).shed == 300


def test_counts_stay_while_tables_change(strict: tuple[Program, RingBuffer]) -> None:
    made, _ = strict
    for port, name in enumerate(("p", "q", "p"), start=2000):
        table = encode(compiled(knowing(policy(STRICT, name=name))))
        publish(made.loaded.maps, table)
        assert published(made.loaded.maps).digest == table.digest
        made.run(Lookup("10.0.0.1", "10.0.0.9", 80, source_port=port))
    publish(made.loaded.maps, None)
    assert published(made.loaded.maps).digest is None
    assert take_denied(made.loaded.maps) == {denial_number("shop/p"): 2, denial_number("shop/q"): 1}


def test_the_layout_is_that_of_the_header(tmp_path: Path) -> None:
    source = tmp_path / "layout.c"
    lines = "".join(
        f'printf("%zu\\n", (size_t){text});'
        for text in (
            "sizeof(struct prefilter_table)",
            "PREFILTER_SOURCES",
            "PREFILTER_PORTS",
            "PREFILTER_DESTINATIONS",
            "PREFILTER_CLASSES",
            "PREFILTER_DENIALS",
            "sizeof(struct refusal)",
            "sizeof(struct telling)",
        )
    )
    # The structures and limits alone: what follows them is for eBPF.
    body = HEADER.read_text().partition("/* Powers of two")[2].partition("struct {\n\t__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS)")[0]
    source.write_text(f"#include <stdio.h>\n#include <linux/types.h>\n/*{body}\nint main(void) {{ {lines} return 0; }}\n")
    subprocess.run(["cc", "-o", str(tmp_path / "layout"), str(source)], check=True, timeout=60)
    there = subprocess.run([str(tmp_path / "layout")], check=True, capture_output=True, text=True, timeout=10).stdout.split()
    table = encode(compiled(knowing()))
    assert [int(number) for number in there] == [
        prefilter.TABLE_BYTES,
        MAX_SOURCES,
        MAX_PORTS,
        MAX_DESTINATIONS,
        MAX_CLASSES,
        MAX_DENIALS + 1,
        prefilter._REFUSAL.size,
        prefilter._TELLING.size,
    ]
    assert len(table.body) == prefilter.TABLE_BYTES
