"""Names of held services, for want of a controller that tells of names."""

from ipaddress import ip_address

from meshapi.names import Host, NamedPort, Names
from meshapi.workload import NetworkAddress, Service, ServiceKey, Visibility
from nodeagent.dns.directory import Directory
from nodeagent.dns.held import HeldNames
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update

SVC = "svc.cluster.local"


def service(name: str, *addresses: str, namespace: str = "shop", hostname: str = "", private: bool = False) -> Service:
    visibility = Visibility.NAMESPACE if private else Visibility.PUBLIC
    given = tuple(NetworkAddress(ip_address(one), "") for one in addresses)
    return Service(name, namespace, hostname or f"{name}.{namespace}.{SVC}", given, visibility=visibility)


def held() -> tuple[SnapshotStore, Directory]:
    store, directory = SnapshotStore(Snapshot()), Directory()
    HeldNames(store, directory)
    return store, directory


def known(directory: Directory, name: str, namespace: str = "shop") -> tuple[str, ...] | None:
    found = directory.find(name, namespace)
    return tuple(map(str, found.host.addresses)) if found else None


def test_services_are_known_while_they_are_held() -> None:
    store, directory = held()
    made = (
        service("web", "10.96.0.1"),
        service("db"),
        service("hidden", "10.96.0.2", private=True),
        service("other", "10.96.1.1", namespace="b"),
    )
    store.apply(Update(services=made))
    assert known(directory, f"web.shop.{SVC}", "b") == ("10.96.0.1",)
    assert known(directory, f"db.shop.{SVC}") == ()
    assert (known(directory, f"hidden.shop.{SVC}"), known(directory, f"hidden.shop.{SVC}", "b")) == (("10.96.0.2",), None)
    store.apply(Update(services=(service("web", "10.96.0.9"),)))
    assert known(directory, f"web.shop.{SVC}") == ("10.96.0.9",)
    store.apply(Update(removed=(f"shop/web.shop.{SVC}", f"b/other.b.{SVC}")))
    assert known(directory, f"web.shop.{SVC}") is None
    assert known(directory, f"other.b.{SVC}") is None
    assert len(directory) == 2


def test_hosts_without_addresses_and_what_is_no_name_are_the_resolvers() -> None:
    store, directory = held()
    hosts = ("api.example", "b\u00fccher.example", "a..b", "x" * 64)
    store.apply(Update(services=tuple(service(f"s{number}", hostname=host) for number, host in enumerate(hosts))))
    store.apply(
        Update(services=(service("given", "240.240.0.1", hostname="given.example"), service("w", "240.240.0.2", hostname="*.w.example")))
    )
    assert known(directory, "given.example") == ("240.240.0.1",)
    assert known(directory, "*.w.example") == ("240.240.0.2",)
    assert len(directory) == 2


def test_where_the_controller_tells_of_names_only_they_count() -> None:
    store, directory = held()
    store.apply(Update(services=(service("web", "10.96.0.1"), service("other", "10.96.1.1", namespace="b"))))
    directory.put(Names("shop", "cluster.local", (Host(f"api.shop.{SVC}", (ip_address("10.96.0.3"),), (NamedPort(80, "http"),)),)))
    store.apply(Update(services=(service("late", "10.96.0.4"),)))
    assert len(directory) == 1
    assert known(directory, f"api.shop.{SVC}") == ("10.96.0.3",)
    directory.remove("shop")
    assert len(directory) == 0
    assert directory.at(ip_address("10.96.0.1"), "shop") is None
    assert ServiceKey(f"shop/web.shop.{SVC}") in store.current.services
