"""Which keys a resource has to do with, read from the resource itself."""

from ipaddress import ip_address

import pytest

from control.resources import Resource
from control.xds.keys import NO_KEYS, Keys, keys_of
from meshapi.workload import NetworkAddress, Port, Service, Workload, encode_service, encode_workload
from tests.control.fakes import ADDRESS, AUTHORIZATION


def test_of_a_workload() -> None:
    addresses = (ip_address("10.0.0.1"), ip_address("2001:db8::1"))
    body = encode_workload(Workload("u", "n", "ns", addresses, network="west", services={"ns/a.b": (Port(80),)}))
    assert keys_of(ADDRESS, Resource("u", "1", body)) == Keys(("west/10.0.0.1", "west/2001:db8::1"), ("ns/a.b",))


def test_of_a_service() -> None:
    body = encode_service(Service("a", "ns", "a.b", (NetworkAddress(ip_address("10.9.0.1"), "west"),)))
    assert keys_of(ADDRESS, Resource("ns/a.b", "1", body)) == Keys(("west/10.9.0.1",))


def test_other_types_have_none() -> None:
    assert keys_of(AUTHORIZATION, Resource("ns/p", "1", b"anything")) == NO_KEYS


def test_a_resource_that_can_not_be_read_is_reported_and_goes_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    assert keys_of(ADDRESS, Resource("broken", "1", b"\xff")) == NO_KEYS
    assert "broken" in caplog.text
