"""What DNS is to know of a namespace, as agents get it."""

from ipaddress import ip_address

import pytest

from meshapi import wire
from meshapi.names import Host, NamedPort, Names, decode_names
from tests.control.model.builders import Config

SERVICES = """
    apiVersion: v1
    kind: Service
    metadata: {name: web, namespace: shop}
    spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}, {name: metrics, port: 9090}]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: db, namespace: shop, annotations: {networking.istio.io/exportTo: .}}
    spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: elsewhere, namespace: shop}
    spec: {type: ExternalName, externalName: example.org}
    """
ENTRY = """
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {name: out, namespace: shop}
    spec:
      hosts: [api.example, "*.cdn.example"]
      addresses: [10.8.0.1]
      ports: [{number: 443, name: tls, protocol: TLS}]
      resolution: STATIC
      endpoints: [{address: 10.9.0.1}]
    """


def names(config: Config, namespace: str) -> Names | None:
    resource = config.mesh.get(wire.NAMES_TYPE, namespace)
    return decode_names(resource.body) if resource else None


def test_a_namespaces_names() -> None:
    config = Config(SERVICES)
    config.write("b.yaml", ENTRY)
    given = (ip_address("10.8.0.1"),)
    tls = (NamedPort(443, "tls"),)
    assert names(config, "shop") == Names(
        "shop",
        "cluster.local",
        (
            Host("*.cdn.example", given, tls),
            Host("api.example", given, tls),
            Host("db.shop.svc.cluster.local", (), (NamedPort(5432, "pg"),), private=True),
            Host("elsewhere.shop.svc.cluster.local", alias="example.org"),
            Host("web.shop.svc.cluster.local", (ip_address("10.96.0.1"),), (NamedPort(80, "http"), NamedPort(9090, "metrics"))),
        ),
    )


def test_what_has_no_address_is_left_to_the_resolvers() -> None:
    config = Config(ENTRY.replace("addresses: [10.8.0.1]", "").replace("STATIC", "NONE").replace("endpoints: [{address: 10.9.0.1}]", ""))
    assert names(config, "shop") is None


def test_ports_of_udp_have_names_though_no_workload_serves_them() -> None:
    udp = "{name: syslog, port: 514, targetPort: 5514, protocol: UDP}, {name: odd, port: 9, targetPort: odd, protocol: UDP}"
    table = names(Config(SERVICES.replace("{name: pg, port: 5432}", f"{{name: pg, port: 5432}}, {udp}")), "shop")
    assert table is not None
    [db] = [host for host in table.hosts if host.hostname.startswith("db.")]
    assert db.ports == (NamedPort(5432, "pg"), NamedPort(514, "syslog", udp=True, target=5514), NamedPort(9, "odd", udp=True))


@pytest.mark.parametrize("alias", ["", "a..b", "-a.example", "a.example/", "a" * 64, ".".join(["a" * 60] * 5), "b\u00fccher.example"])
def test_an_alias_that_is_no_name_is_left_to_the_resolvers(alias: str) -> None:
    table = names(Config(SERVICES.replace("externalName: example.org", f"externalName: '{alias}'")), "shop")
    assert table is not None
    assert not [host for host in table.hosts if host.hostname.startswith("elsewhere.")]


def test_an_entry_for_the_name_of_an_alias_says_more_than_that() -> None:
    config = Config(SERVICES)
    config.write("b.yaml", ENTRY.replace('[api.example, "*.cdn.example"]', "[elsewhere.shop.svc.cluster.local]"))
    [found] = [host for host in _hosts(config) if host.hostname.startswith("elsewhere.")]
    assert (found.addresses, found.alias) == ((ip_address("10.8.0.1"),), "")
    config.write("b.yaml", "")
    [found] = [host for host in _hosts(config) if host.hostname.startswith("elsewhere.")]
    assert (found.addresses, found.alias) == ((), "example.org")


def _hosts(config: Config) -> tuple[Host, ...]:
    table = names(config, "shop")
    assert table is not None
    return table.hosts


def test_a_service_that_becomes_an_alias_and_back() -> None:
    config = Config(SERVICES)
    config.write("b.yaml", ENTRY)
    before = names(config, "shop")
    config.write("a.yaml", SERVICES.replace("{type: ExternalName, externalName: example.org}", "{clusterIP: 10.96.0.9}"))
    table = names(config, "shop")
    assert table is not None
    [elsewhere] = [host for host in table.hosts if host.hostname.startswith("elsewhere.")]
    assert (elsewhere.addresses, elsewhere.alias) == ((ip_address("10.96.0.9"),), "")
    config.write("a.yaml", SERVICES)
    assert names(config, "shop") == before


def test_a_namespace_without_names_has_no_resource() -> None:
    config = Config()
    config.write("b.yaml", ENTRY)
    assert names(config, "shop") is not None
    config.write("b.yaml", "")
    assert names(config, "shop") is None
    assert list(config.mesh.names(wire.NAMES_TYPE)) == []


def test_who_lost_a_name_does_not_serve_it() -> None:
    config = Config(ENTRY)
    config.write("c.yaml", ENTRY.replace("name: out", "name: zzz").replace("10.8.0.1", "10.8.0.2"))
    table = names(config, "shop")
    assert table is not None
    assert [host.addresses for host in table.hosts] == [(ip_address("10.8.0.1"),)] * 2
