"""What a machine's owner can say of it, and what is wrong with the rest."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.vm.configuration import EXCLUDE_INBOUND, Configuration, ConfigurationError, Place, read
from tests.nodeagent.vm.joined import API, WEB, joined


def places(tmp_path: Path, text: str, **options: dict[str, str]) -> tuple[Place, ...]:
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    return read(file, joined(**options)).places  # type: ignore[arg-type]


def test_without_a_file_the_whole_host_is_of_the_first_group(tmp_path: Path) -> None:
    assert read(tmp_path / "none", joined()) == Configuration((Place(WEB),))
    assert places(tmp_path, "") == (Place(WEB),)


def test_the_host_and_what_is_left_alone_of_it(tmp_path: Path) -> None:
    text = "host: shop/api\naddress: 10.0.0.5\nexcludeInboundPorts: [22, 9100]\nannotations: {a: b}\n"
    assert places(tmp_path, text) == (Place(API, address="10.0.0.5", annotations={"a": "b", EXCLUDE_INBOUND: "22,9100"}),)


def test_a_unit_takes_its_group_from_the_host_and_shares_its_address(tmp_path: Path) -> None:
    assert places(tmp_path, "units: {web.service: shop/web}") == (Place(API), Place(WEB, "web.service", shares_address=True))


def test_an_address_of_each_ip_version(tmp_path: Path) -> None:
    text = "address: [10.0.0.5, 'fd00::5']\nhost: shop/web\nunits:\n  b.service: {group: shop/api, address: ['fd00::6', 10.0.0.6]}\n"
    host, unit = places(tmp_path, text)
    assert (host.address, host.other_address, unit.address, unit.other_address) == ("10.0.0.5", "fd00::5", "fd00::6", "10.0.0.6")
    first, second = places(tmp_path, "address: [10.0.0.5, 'fd00::5']\nunits: {a.service: shop/web, b.service: shop/api}\n")
    assert (first.other_address, second.other_address, second.shares_address) == ("fd00::5", "", True)


def test_units_alone(tmp_path: Path) -> None:
    text = "units:\n  a.service: shop/web\n  b.service: {group: shop/api, address: 10.0.0.6, ports: [80, 80, 9]}\n"
    assert places(tmp_path, text) == (Place(WEB, "a.service"), Place(API, "b.service", "10.0.0.6", ports=(9, 80)))
    both = "address: 10.0.0.5\nunits: {a.service: shop/web, b.service: shop/api}\n"
    assert places(tmp_path, both) == (Place(WEB, "a.service", "10.0.0.5"), Place(API, "b.service", "10.0.0.5", shares_address=True))


def test_a_service_account_names_its_group_if_only_one_has_it(tmp_path: Path) -> None:
    assert places(tmp_path, "units: {a.service: shop/sa}", accounts={"shop/api": "sa"})[1].group == API
    with pytest.raises(ConfigurationError, match="several"):
        places(tmp_path, "units: {a.service: shop/sa}", accounts={"shop/api": "sa", "shop/web": "sa"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host: shop/other", "none of the groups"),
        ("host: shop", "is neither a group nor an account"),
        ("host: 7", "host"),
        ("unit: {}", "unknown field"),
        ("units: {a.service: shop/web, b.service: shop/web}", "for two workloads"),
        ("host: shop/web\nunits: {a.service: shop/web}", "for two workloads"),
        ("units: {'../a': shop/web}", "neither a unit nor a path"),
        ("units: {a.service: {group: shop/web, ports: [0]}}", "0 is no port"),
        ("excludeInboundPorts: [70000]", "70000 is no port"),
        ("address: [10.0.0.1, 10.0.0.2]", "one is of IPv4 and one of IPv6"),
        ("address: ['fd00::1', 10.0.0.2, 'fd00::2']", "one is of IPv4 and one of IPv6"),
        ("address: nowhere", "is no address"),
        ("address: fe80::1%eth0", "zone"),
        ("a: [[[[[[[[[[", "nested too deeply"),
        ("a: [", "agent.yaml"),
        ("x" * (1 << 21), "larger than"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as error:
        places(tmp_path, text)
    assert "agent.yaml" in str(error.value)


@settings(max_examples=50)
@given(st.binary(max_size=120))
def test_any_bytes_are_a_configuration_or_an_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(raw)
    with contextlib.suppress(ConfigurationError):
        assert read(file, joined())
