"""Addresses that hosts are given: the same whatever came first, each host's own, and kept."""

from ipaddress import ip_address
from zlib import crc32

from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import Kind, ObjectKey
from control.model import handed_out
from control.model.handed_out import HandedOut, Order
from control.validation import values
from meshapi.workload import ServiceKey
from tests.control.model.builders import Config

NAMES = [ServiceKey(f"n/h{number}.example") for number in range(12)]


def key(number: int) -> ObjectKey:
    return ObjectKey(Kind.SERVICE_ENTRY, "n", f"e{number}")


def order(age: int, number: int) -> Order:
    return (False, f"{age:03}", "n", f"e{number}")


def greedy(wanted: dict[int, tuple[frozenset[ServiceKey], int]]) -> dict[ServiceKey, int]:
    """What should be there: the oldest first, each the first place of its row that is free."""
    ages: dict[ServiceKey, Order] = {}
    for number, (hosts, age) in wanted.items():
        for host in hosts:
            ages[host] = min(ages.get(host, (True, "", "", "")), order(age, number))
    taken: dict[int, ServiceKey] = {}
    for host in sorted(ages, key=lambda one: (ages[one], one)):
        place = next((place for place in handed_out._row(host) if place not in taken), None)
        if place is not None:
            taken[place] = host
    return {host: place for place, host in taken.items()}


CHANGE = st.tuples(st.integers(0, 7), st.frozensets(st.sampled_from(NAMES), max_size=4), st.integers(0, 5))


@settings(max_examples=150, deadline=None)
@given(st.lists(CHANGE, max_size=25), st.sampled_from([3, 8, 12]))
def test_only_what_is_wanted_decides_and_who_asks_is_told(changes: list[tuple[int, frozenset[ServiceKey], int]], places: int) -> None:
    """With so few places that nearly all hosts want the same ones."""
    few = {name: tuple(dict.fromkeys((crc32(f"{name}{attempt}".encode()) % places) + 1 for attempt in range(6))) for name in NAMES}
    original = handed_out._row
    handed_out._row = few.__getitem__  # type: ignore[assignment]
    try:
        made = HandedOut()
        wanted: dict[int, tuple[frozenset[ServiceKey], int]] = {}
        before: dict[ServiceKey, int] = {}
        for number, hosts, age in changes:
            told = made.put(key(number), hosts, order(age, number))
            wanted.pop(number, None)
            if hosts:
                wanted[number] = (hosts, age)
            now = greedy(wanted)
            assert made._place == now
            changed = {host for host in before.keys() | now.keys() if before.get(host) != now.get(host)}
            assert told == {key(asker) for asker, (hosts, _) in wanted.items() if hosts & changed}
            before = now
        for number in list(wanted):
            made.put(key(number), (), order(0, number))
        assert not made._askers
        assert not made._at
        assert not made._passed
    finally:
        handed_out._row = original


def test_addresses_are_of_the_ranges_and_never_change_with_the_program() -> None:
    made = HandedOut()
    made.put(key(1), [ServiceKey("shop/db.example")], order(1, 1))
    ipv4, ipv6 = made.addresses(ServiceKey("shop/db.example"))
    # Written down: another release that hands out other ones would break what clients hold.
    assert (str(ipv4), str(ipv6)) == ("240.240.166.148", "2001:2::a694")
    assert values.is_handed_out(ipv4)
    assert values.is_handed_out(ipv6)


ENTRY = """
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: db, namespace: shop%s}
    spec:
      hosts: [db.example, "*.wild.example"]
      addresses: [%s]
      ports: [{number: 5432, name: tcp-db, protocol: TCP}]
      resolution: %s
      %s
    """
ENDPOINTS = "endpoints: [{address: 10.9.0.1}]"


def test_a_host_without_addresses_gets_some_and_they_lead_to_it() -> None:
    config = Config(ENTRY % ("", "", "STATIC", ENDPOINTS))
    service = config.service("shop/db.example")
    assert len(service.addresses) == 2
    for address in service.addresses:
        assert "shop/db.example" in config.mesh.resolve("type.googleapis.com/istio.workload.Address", address.key)
    assert config.service("shop/*.wild.example").addresses == ()


def test_who_says_its_own_or_wants_none_gets_none() -> None:
    stated = Config(ENTRY % ("", "10.8.0.1", "STATIC", ENDPOINTS)).service("shop/db.example")
    assert [one.address for one in stated.addresses] == [ip_address("10.8.0.1")]
    labels = ", labels: {networking.istio.io/enable-autoallocate-ip: 'false'}"
    assert Config(ENTRY % (labels, "", "STATIC", ENDPOINTS)).service("shop/db.example").addresses == ()
    assert Config(ENTRY % ("", "", "NONE", "")).service("shop/db.example").addresses == ()


def test_nobody_states_what_is_handed_out() -> None:
    """Else who knows the hash could take an address ahead of the host that will have it."""
    config = Config(ENTRY % ("", "240.240.1.2", "STATIC", ENDPOINTS))
    assert ip_address("240.240.1.2") not in [one.address for one in config.service("shop/db.example").addresses]
    [record] = config.mesh.records.values()
    assert any("is not used" in str(finding) for finding in record.findings)


WAYPOINT = """
    apiVersion: gateway.networking.k8s.io/v1
    kind: Gateway
    metadata: {name: gate, namespace: shop}
    spec:
      gatewayClassName: istio-waypoint
      listeners: [{name: mesh, port: 15008, protocol: HBONE}]
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: gate, namespace: shop}
    spec: {clusterIP: 10.96.0.9, selector: {is: gate}, ports: [{name: mesh, port: 15008}]}
    """


def test_what_is_looked_up_gets_some_while_a_waypoint_does_it() -> None:
    labels = ", labels: {istio.io/use-waypoint: gate}"
    config = Config(ENTRY.replace(', "*.wild.example"', "") % (labels, "", "DNS", ""))
    assert config.service("shop/db.example").addresses == ()
    config.write("b.yaml", WAYPOINT)
    service = config.service("shop/db.example")
    assert service.waypoint is not None
    assert [values.is_handed_out(one.address) for one in service.addresses] == [True, True]
    config.write("b.yaml", "")
    assert config.service("shop/db.example").addresses == ()
