"""How services and ServiceEntries become the mesh's services."""

import pytest
from google.protobuf import text_format

from control.model.services import foreign_host
from meshapi import wire
from meshapi.proto import workload_pb2
from meshapi.workload import AppProtocol, BalancingMode, HealthPolicy, IPFamilies, LoadBalancing, Port, Scope, Visibility
from tests.control.model.builders import Config

ZONES = (Scope.NETWORK, Scope.REGION, Scope.ZONE, Scope.SUBZONE)


def service(spec: str, annotations: str = "{}") -> str:
    return f"""
        apiVersion: v1
        kind: Service
        metadata: {{name: web, namespace: shop, annotations: {annotations}}}
        spec: {spec}
        """


def test_a_service_on_the_wire() -> None:
    config = Config(
        service(
            "{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], trafficDistribution: PreferClose,"
            " publishNotReadyAddresses: true, ports: [{name: http-web, port: 80, targetPort: 8080}, {port: 53, protocol: UDP},"
            " {name: x, port: 443, targetPort: named, appProtocol: https}]}"
        )
    )
    resource = config.mesh.get(wire.ADDRESS_TYPE, "shop/web.shop.svc.cluster.local")
    assert resource is not None
    expected = text_format.Parse(
        r"""
        service {
          name: "web"
          namespace: "shop"
          hostname: "web.shop.svc.cluster.local"
          addresses { address: "\n`\000\001" }
          addresses { address: "\375\000\000\000\000\000\000\000\000\000\000\000\000\000\000\001" }
          ports { service_port: 80 target_port: 8080 app_protocol: HTTP11 }
          ports { service_port: 443 app_protocol: TLS }
          load_balancing {
            routing_preference: NETWORK routing_preference: REGION routing_preference: ZONE routing_preference: SUBZONE
            mode: FAILOVER
            health_policy: ALLOW_ALL
          }
          ip_families: DUAL
        }
        """,
        workload_pb2.Address(),
    )
    assert text_format.MessageToString(workload_pb2.Address.FromString(resource.body)) == text_format.MessageToString(expected)


@pytest.mark.parametrize(
    ("spec", "annotations", "expected"),
    [
        ("{}", "{}", None),
        ("{trafficDistribution: PreferSameZone}", "{}", LoadBalancing(ZONES, BalancingMode.FAILOVER)),
        ("{trafficDistribution: PreferSameNode}", "{}", LoadBalancing((*ZONES, Scope.NODE), BalancingMode.FAILOVER)),
        ("{}", "{networking.istio.io/traffic-distribution: preferclose}", LoadBalancing(ZONES, BalancingMode.FAILOVER)),
        (
            "{trafficDistribution: PreferSameNode}",
            "{networking.istio.io/traffic-distribution: PreferClose}",
            LoadBalancing((*ZONES, Scope.NODE), BalancingMode.FAILOVER),
        ),
        (
            "{internalTrafficPolicy: Local, trafficDistribution: PreferClose}",
            "{}",
            LoadBalancing((Scope.NODE,), BalancingMode.STRICT),
        ),
        ("{publishNotReadyAddresses: true}", "{}", LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL)),
    ],
)
def test_balancing(spec: str, annotations: str, expected: LoadBalancing | None) -> None:
    assert Config(service(spec, annotations)).service("shop/web.shop.svc.cluster.local").load_balancing == expected


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("{port: 80}", AppProtocol.UNKNOWN),
        ("{port: 80, name: http}", AppProtocol.HTTP11),
        ("{port: 80, name: http2-x}", AppProtocol.HTTP2),
        ("{port: 80, name: grpc-web}", AppProtocol.GRPC),
        ("{port: 80, name: tcp-http}", AppProtocol.TCP),
        ("{port: 80, name: httpx}", AppProtocol.UNKNOWN),
        ("{port: 80, name: http, appProtocol: kubernetes.io/h2c}", AppProtocol.HTTP2),
        ("{port: 80, name: http, appProtocol: example.com/other}", AppProtocol.UNKNOWN),
        ("{port: 80, name: mysql}", AppProtocol.TCP),
        ("{port: 3306}", AppProtocol.TCP),
        ("{port: 3306, name: db}", AppProtocol.TCP),
        ("{port: 3306, name: http-db}", AppProtocol.HTTP11),
    ],
)
def test_the_protocol_of_a_port(port: str, expected: AppProtocol) -> None:
    (found,) = Config(service(f"{{ports: [{port}]}}")).service("shop/web.shop.svc.cluster.local").ports
    assert found.protocol is expected


def test_headless_and_external_services() -> None:
    headless = Config(service("{clusterIP: None, ipFamilies: [IPv6]}")).service("shop/web.shop.svc.cluster.local")
    assert (headless.addresses, headless.ip_families) == ((), IPFamilies.IPV6_ONLY)
    assert Config(service("{type: ExternalName, externalName: x.example}")).addresses == set()


def test_a_service_entry() -> None:
    config = Config("""
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata: {name: e, namespace: shop}
        spec:
          hosts: [a.example, "*.b.example"]
          addresses: [198.51.100.1/32]
          ports: [{number: 443, name: x, protocol: HTTPS, targetPort: 8443}]
          subjectAltNames: ["spiffe://x/ns/a/sa/b"]
          exportTo: ["."]
        """)
    first = config.service("shop/a.example")
    assert first.ports == (Port(443, 8443, AppProtocol.TLS),)
    assert first.subject_alt_names == ("spiffe://x/ns/a/sa/b",)
    assert first.load_balancing == LoadBalancing(mode=BalancingMode.PASSTHROUGH, health_policy=HealthPolicy.ALLOW_ALL)
    assert first.visibility is Visibility.NAMESPACE
    assert config.mesh.resolve(wire.ADDRESS_TYPE, "/198.51.100.1") == ("shop/*.b.example", "shop/a.example")


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("api.example", True),
        ("web.shop.svc.cluster.local", True),
        ("web.other.svc.cluster.local", False),
        ("a.web.shop.svc.cluster.local", False),
        ("shop.svc.cluster.local", False),
        ("web.shop.svc", False),
        ("x.cluster.local", False),
        ("*.shop.svc.cluster.local", False),
        ("*.svc.cluster.local", False),
        ("*.cluster.local", False),
        ("*.local", False),
        ("*.example", True),
    ],
)
def test_names_of_the_cluster_belong_to_their_namespace(host: str, ours: bool) -> None:
    assert (foreign_host(host, "shop", "cluster.local") is None) == ours
