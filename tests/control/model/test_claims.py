"""Who may have an address or a name: one winner, the same in any order, and the losers are told."""

import itertools

import pytest

from control.kinds import Kind
from control.model.status import describe, findings_in_mesh
from meshapi import wire
from tests.control.model.builders import Config


def pod(name: str, address: str, namespace: str = "shop", extra: str = "") -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}{extra}}}
spec: {{nodeName: n1}}
status: {{podIPs: [{{ip: {address}}}]}}
"""


def workload_entry(name: str, address: str, namespace: str = "shop", created: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{created}"}}
spec: {{address: {address}}}
"""


def service_entry(name: str, spec: str, namespace: str = "shop", created: str = "") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{created}"}}
spec: {spec}
"""


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
"""
NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 10.9.0.1}, {type: Hostname, address: n1}]}
"""
OLD, NEW = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"


def takes(address: str) -> str:
    """An old ServiceEntry of another namespace that wants an address."""
    return service_entry("s", f"{{hosts: [x.example], addresses: [{address}]}}", "evil", OLD)


WE = "Kubernetes/networking.istio.io/WorkloadEntry"


@pytest.mark.parametrize(
    ("rivals", "address", "winner"),
    [
        ([pod("a", "10.0.0.1"), workload_entry("a", "10.0.0.1", "evil", OLD)], "/10.0.0.1", ("Kubernetes//Pod/shop/a",)),
        ([pod("a", "10.0.0.1"), takes("10.0.0.1")], "/10.0.0.1", ("Kubernetes//Pod/shop/a",)),
        ([SERVICE, takes("10.96.0.1")], "/10.96.0.1", ("shop/web.shop.svc.cluster.local",)),
        ([workload_entry("a", "192.0.2.1", "b", NEW), workload_entry("z", "192.0.2.1", "z", OLD)], "/192.0.2.1", (f"{WE}/z/z",)),
        ([workload_entry("a", "192.0.2.1", "b"), workload_entry("z", "192.0.2.1", "z", OLD)], "/192.0.2.1", (f"{WE}/z/z",)),
        ([workload_entry("b", "192.0.2.1"), workload_entry("a", "192.0.2.1")], "/192.0.2.1", (f"{WE}/shop/a",)),
        ([NODE, workload_entry("a", "10.9.0.1")], "/10.9.0.1", ()),
        ([NODE, service_entry("s", "{hosts: [x.example], addresses: [10.9.0.1]}")], "/10.9.0.1", ()),
        # A pod that goes away does not hold up the one that got its address.
        (
            [pod("old", "10.0.0.1", extra=f", creationTimestamp: '{OLD}', deletionTimestamp: '{NEW}'"), pod("new", "10.0.0.1")],
            "/10.0.0.1",
            ("Kubernetes//Pod/shop/new",),
        ),
    ],
)  # fmt: skip
def test_one_winner_in_any_order(rivals: list[str], address: str, winner: tuple[str, ...]) -> None:
    for order in itertools.permutations(rivals):
        config = Config()
        for index, text in enumerate(order):
            config.write(f"{index}.yaml", text)
        assert config.mesh.resolve(wire.ADDRESS_TYPE, address) == winner
        lost = [finding for key in config.mesh.records for finding in findings_in_mesh(config.mesh, key)]
        assert len(lost) == 1
        assert address.removeprefix("/") in lost[0].what


def test_the_loser_is_served_once_the_winner_has_gone() -> None:
    config = Config()
    config.write("a.yaml", workload_entry("a", "192.0.2.1"))
    config.write("b.yaml", workload_entry("b", "192.0.2.1"))
    assert config.addresses == {f"{WE}/shop/a"}
    description = describe(config.mesh, Kind.WORKLOAD_ENTRY, "shop", "b")
    assert description is not None
    assert not description.accepted
    assert "the address 192.0.2.1 belongs to WorkloadEntry shop/a" in description.conditions[0].message
    config.write("a.yaml", workload_entry("a", "192.0.2.9"))
    assert config.addresses == {f"{WE}/shop/a", f"{WE}/shop/b"}
    assert not list(findings_in_mesh(config.mesh, next(key for key in config.mesh.records if key.name == "b")))


def test_the_same_host_twice_in_a_namespace() -> None:
    endpoints = "{{hosts: [x.example], resolution: STATIC, ports: [{{number: 80, name: a}}], endpoints: [{{address: {}}}]}}"
    config = Config()
    config.write("b.yaml", service_entry("b", endpoints.format("192.0.2.2"), created=NEW))
    config.write("a.yaml", service_entry("a", endpoints.format("192.0.2.1"), created=OLD))
    # Neither the second definition nor its endpoints: they would serve the first one's name.
    assert config.addresses == {"shop/x.example", "Kubernetes/networking.istio.io/ServiceEntry/shop/a/192.0.2.1"}


def test_the_same_host_in_two_namespaces_is_two_services() -> None:
    config = Config()
    config.write("a.yaml", service_entry("a", "{hosts: [x.example]}", "one"))
    config.write("b.yaml", service_entry("a", "{hosts: [x.example]}", "two"))
    assert config.addresses == {"one/x.example", "two/x.example"}


def test_an_entry_can_not_take_a_service_of_its_own_namespace() -> None:
    config = Config(SERVICE)
    config.write("b.yaml", service_entry("s", "{hosts: [web.shop.svc.cluster.local], addresses: [192.0.2.5]}", created=OLD))
    assert str(config.service("shop/web.shop.svc.cluster.local").addresses[0].address) == "10.96.0.1"
    assert config.mesh.resolve(wire.ADDRESS_TYPE, "/192.0.2.5") == ()


def test_a_host_of_another_namespace_is_refused_and_said() -> None:
    entry = "{hosts: [web.shop.svc.cluster.local], resolution: STATIC, endpoints: [{address: 192.0.2.66}]}"
    config = Config(service_entry("s", entry, "evil"))
    assert config.addresses == set()
    description = describe(config.mesh, Kind.SERVICE_ENTRY, "evil", "s")
    assert description is not None
    assert not description.accepted
    assert "web.shop.svc.cluster.local" in description.conditions[0].message


def test_one_entry_may_have_its_endpoint_as_its_address() -> None:
    entry = "{hosts: [x.example], addresses: [192.0.2.1], resolution: STATIC, endpoints: [{address: 192.0.2.1}]}"
    config = Config(service_entry("s", entry))
    assert len(config.mesh.resolve(wire.ADDRESS_TYPE, "/192.0.2.1")) == 2


def test_pods_on_the_host_network_share_their_nodes_address() -> None:
    text = (
        pod("a", "10.9.0.1").replace("nodeName: n1", "hostNetwork: true")
        + "---"
        + pod("b", "10.9.0.1").replace("nodeName: n1", "hostNetwork: true")
    )
    config = Config(NODE + "---" + text)
    assert config.addresses == {"Kubernetes//Pod/shop/a", "Kubernetes//Pod/shop/b"}
