"""What questions mean: to whom, in which form, and what is left to the resolvers."""

from ipaddress import ip_address

import dns.message
import pytest

from meshapi.names import Host, NamedPort, Names
from meshapi.workload import HealthPolicy, LoadBalancing, Port, Service, ServiceKey, Workload, WorkloadStatus, WorkloadUID
from nodeagent.dns import lookup, wire
from nodeagent.dns.directory import Directory
from nodeagent.dns.lookup import MAX_ALIASES, TTL_S, NeedsEndpoints, NeedsResolver
from nodeagent.dns.wire import Answer, Query

HTTP = (NamedPort(80, "http"),)
DB_PORTS = (NamedPort(5432, "pg"), NamedPort(999, "stat", udp=True, target=9999), NamedPort(9, "odd", udp=True))


def host(name: str, *addresses: str, ports: tuple[NamedPort, ...] = HTTP, private: bool = False) -> Host:
    return Host(name, tuple(map(ip_address, addresses)), ports, private)


SHOP = Names(
    "shop",
    "cluster.local",
    (
        host("web.shop.svc.cluster.local", "10.96.0.1", "fd00::1"),
        host("db.shop.svc.cluster.local", ports=DB_PORTS),
        host("syslog.shop.svc.cluster.local", "10.96.0.4", ports=(NamedPort(514, "log", udp=True), NamedPort(601, "log"))),
        Host("alias.shop.svc.cluster.local", alias="web.other.svc.cluster.local"),
        Host("second.shop.svc.cluster.local", alias="alias.shop.svc.cluster.local"),
        Host("away.shop.svc.cluster.local", alias="www.example.org"),
        Host("todb.shop.svc.cluster.local", alias="db.shop.svc.cluster.local"),
        Host("circle.shop.svc.cluster.local", alias="circle.shop.svc.cluster.local"),
        host("hidden.shop.svc.cluster.local", "10.96.0.3", private=True),
        host("api.example", "240.240.0.1"),
        host("*.cdn.example", "240.240.0.2"),
        host("*.img.cdn.example", "240.240.0.3"),
        host("private.example", "240.240.0.4", private=True),
    ),
)
OTHER = Names("other", "cluster.local", (host("web.other.svc.cluster.local", "10.96.1.1"), host("private.example", "240.240.1.4")))
DB = ServiceKey("shop/db.shop.svc.cluster.local")


class Endpoints:
    """Stands for the snapshot."""

    def __init__(self, *members: Workload, known: bool = True, whole: bool = False) -> None:
        balancing = LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL) if whole else None
        self._service = Service("db", "shop", "db.shop.svc.cluster.local", load_balancing=balancing) if known else None
        self._members = members

    def service(self, key: ServiceKey) -> Service | None:
        return self._service if key == DB else None

    def members(self, key: ServiceKey) -> tuple[Workload, ...]:
        return self._members if key == DB else ()


def pod(name: str, *addresses: str, healthy: bool = True) -> Workload:
    return Workload(
        WorkloadUID(name),
        name,
        "shop",
        tuple(map(ip_address, addresses)),
        status=WorkloadStatus.HEALTHY if healthy else WorkloadStatus.UNHEALTHY,
        services={DB: (Port(5432, 15432),)},
    )


PODS = (pod("db-0", "10.0.0.1", "fd01::1"), pod("db-1", "10.0.0.2"), pod("db-2", "10.0.0.3", healthy=False))


@pytest.fixture
def directory() -> Directory:
    made = Directory()
    made.put(SHOP)
    made.put(OTHER)
    return made


def answered(
    directory: Directory, name: str, kind: str = "A", *, namespace: str = "shop", endpoints: Endpoints | None = None
) -> list[str] | NeedsEndpoints | NeedsResolver | None:
    """The records of the answer, as another implementation reads them."""
    packet = dns.message.make_query(name, kind)
    query = wire.read_query(packet.to_wire())
    assert isinstance(query, Query)
    found = lookup.answer(query, namespace, directory, endpoints or Endpoints(*PODS))
    if not isinstance(found, Answer):
        return found
    read = dns.message.from_wire(wire.write_answer(query, found, ttl_s=TTL_S))
    assert all(rrset.ttl == TTL_S for rrset in read.answer)
    assert bool(read.answer and kind in {rrset.rdtype.name for rrset in read.answer}) != bool(read.authority)
    return [str(one) for rrset in read.answer for one in rrset]


@pytest.mark.parametrize(
    ("name", "namespace", "expected"),
    [
        ("web.shop.svc.cluster.local", "other", ["10.96.0.1"]),
        ("WEB.Shop.svc.cluster.local", "other", ["10.96.0.1"]),
        ("web", "shop", ["10.96.0.1"]),
        ("web", "other", ["10.96.1.1"]),
        ("web.shop", "other", ["10.96.0.1"]),
        ("web.shop.svc", "other", ["10.96.0.1"]),
        ("web.third", "shop", None),
        ("web.shop.svc.cluster.example", "shop", None),
        ("nobody.shop.svc.cluster.local", "shop", None),
        ("hidden.shop.svc.cluster.local", "shop", ["10.96.0.3"]),
        ("hidden.shop.svc.cluster.local", "other", None),
        ("api.example", "other", ["240.240.0.1"]),
        ("api.example.shop.svc.cluster.local", "shop", ["api.example.", "240.240.0.1"]),
        ("api.example.svc.cluster.local", "shop", ["api.example.", "240.240.0.1"]),
        ("api.example.cluster.local", "shop", ["api.example.", "240.240.0.1"]),
        ("web.other.shop.svc.cluster.local", "shop", ["web.other.svc.cluster.local.", "10.96.1.1"]),
        ("example", "shop", None),
        ("a.cdn.example", "shop", ["240.240.0.2"]),
        ("a.b.cdn.example", "shop", ["240.240.0.2"]),
        ("a.img.cdn.example", "shop", ["240.240.0.3"]),
        ("cdn.example", "shop", None),
        ("private.example", "shop", ["240.240.0.4"]),
        ("private.example", "third", ["240.240.1.4"]),
        ("www.example.org", "shop", None),
    ],
)
def test_who_means_what(directory: Directory, name: str, namespace: str, expected: list[str] | None) -> None:
    assert answered(directory, name, namespace=namespace) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alias", ["web.other.svc.cluster.local.", "10.96.1.1"]),
        ("alias.shop.svc.cluster.local", ["web.other.svc.cluster.local.", "10.96.1.1"]),
        ("second", ["alias.shop.svc.cluster.local.", "web.other.svc.cluster.local.", "10.96.1.1"]),
        ("todb", ["db.shop.svc.cluster.local.", "10.0.0.1", "10.0.0.2"]),
    ],
)
def test_names_that_stand_for_names(directory: Directory, name: str, expected: list[str]) -> None:
    assert answered(directory, name) == expected


def test_an_alias_of_what_is_elsewhere_needs_its_resolver(directory: Directory) -> None:
    found = answered(directory, "away")
    assert isinstance(found, NeedsResolver)
    assert (found.target, len(found.told)) == ("www.example.org", 1)
    assert answered(directory, "away", "CNAME") == ["www.example.org."]
    unknown = answered(directory, "todb", endpoints=Endpoints(known=False))
    assert unknown == NeedsEndpoints(DB)


def test_aliases_in_a_circle_fail(directory: Directory) -> None:
    query = wire.read_query(dns.message.make_query("circle", "A").to_wire())
    assert isinstance(query, Query)
    found = lookup.answer(query, "shop", directory, Endpoints())
    assert isinstance(found, Answer)
    assert (found.code, len(found.records)) == (wire.Code.FAILED, MAX_ALIASES + 1)


def test_a_known_name_without_the_type_is_no_unknown_name(directory: Directory) -> None:
    assert answered(directory, "web.shop", "AAAA") == ["fd00::1"]
    assert answered(directory, "api.example", "AAAA") == []
    assert answered(directory, "web.shop.svc.cluster.local", "TXT") == []


def test_other_types_of_names_that_have_owners_elsewhere(directory: Directory) -> None:
    assert answered(directory, "api.example", "MX") is None
    assert answered(directory, "api.example", "HTTPS") == [], "it could hint at addresses past the mesh"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("db.shop.svc.cluster.local", "A", ["10.0.0.1", "10.0.0.2"]),
        ("db.shop.svc.cluster.local", "AAAA", ["fd01::1"]),
        ("db", "A", ["10.0.0.1", "10.0.0.2"]),
        ("db-1.db.shop.svc.cluster.local", "A", ["10.0.0.2"]),
        ("db-1.db.shop.svc", "A", ["10.0.0.2"]),
        ("db-1.db.shop", "A", ["10.0.0.2"]),
        ("db-1.db", "A", ["10.0.0.2"]),
        ("db-1.db", "AAAA", []),
        ("db-2.db", "A", None),
        ("db-9.db", "A", None),
    ],
)
def test_headless_services(directory: Directory, name: str, kind: str, expected: list[str] | None) -> None:
    assert answered(directory, name, kind) == expected


def test_endpoints_that_are_not_ready_where_they_are_published(directory: Directory) -> None:
    assert answered(directory, "db", endpoints=Endpoints(*PODS, whole=True)) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_endpoints_that_have_not_been_asked_for(directory: Directory) -> None:
    assert answered(directory, "db", endpoints=Endpoints(known=False)) == NeedsEndpoints(DB)
    assert answered(directory, "db", endpoints=Endpoints()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_http._tcp.web.shop.svc.cluster.local", ["0 100 80 web.shop.svc.cluster.local."]),
        ("_HTTP._tcp.web.shop", ["0 100 80 web.shop.svc.cluster.local."]),
        ("_pg._tcp.db.shop", ["0 100 15432 db-0.db.shop.svc.cluster.local.", "0 100 15432 db-1.db.shop.svc.cluster.local."]),
        ("_log._udp.syslog.shop", ["0 100 514 syslog.shop.svc.cluster.local."]),
        ("_log._tcp.syslog.shop", ["0 100 601 syslog.shop.svc.cluster.local."]),
        ("_stat._udp.db.shop", ["0 100 9999 db-0.db.shop.svc.cluster.local.", "0 100 9999 db-1.db.shop.svc.cluster.local."]),
        ("_odd._udp.db.shop", None),
        ("_pg._udp.db.shop", None),
        ("_http._sctp.web.shop", None),
        ("_http._tcp.alias.shop", None),
        ("_http._tcp.api.example", ["0 100 80 api.example."]),
        ("_http._udp.web.shop", None),
        ("_other._tcp.web.shop", None),
        ("_http._tcp.a.cdn.example", None),
        ("_http._tcp", None),
    ],
)
def test_named_ports(directory: Directory, name: str, expected: list[str] | None) -> None:
    assert answered(directory, name, "SRV") == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.96.0.1", ["web.shop.svc.cluster.local."]),
        ("fd00::1", ["web.shop.svc.cluster.local."]),
        ("240.240.0.2", None),
        ("192.0.2.1", None),
    ],
)
def test_names_of_addresses(directory: Directory, address: str, expected: list[str] | None) -> None:
    assert answered(directory, ip_address(address).reverse_pointer, "PTR") == expected


@pytest.mark.parametrize(
    "name", ["1.in-addr.arpa", "x.1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "0.ip6.arpa", "g." * 31 + "0.ip6.arpa"]
)
def test_what_is_no_address(directory: Directory, name: str) -> None:
    assert answered(directory, name, "PTR") is None


def test_names_that_go_and_change(directory: Directory) -> None:
    directory.put(Names("shop", "cluster.local", (host("web.shop.svc.cluster.local", "10.96.9.9"),)))
    assert answered(directory, "web.shop") == ["10.96.9.9"]
    assert answered(directory, "api.example") is None
    assert answered(directory, ip_address("10.96.0.1").reverse_pointer, "PTR") is None
    directory.remove("shop")
    directory.remove("shop")
    assert answered(directory, "web.shop") is None
    directory.remove("other")
    assert len(directory) == 0
    assert not directory._by_address
