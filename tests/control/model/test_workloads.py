"""How pods, entries and endpoints become workloads."""

from ipaddress import ip_address

import pytest
from google.protobuf import text_format

from control.model.settings import MeshSettings
from meshapi import wire
from meshapi.proto import workload_pb2
from meshapi.workload import Locality, NetworkMode, Port, TunnelProtocol, WorkloadStatus, WorkloadType
from tests.control.model.builders import Config

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: web-6f7b8-abcde
  namespace: shop
  labels: {app: web, version: v2, pod-template-hash: 6f7b8}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-6f7b8, controller: true}]
spec:
  nodeName: n1
  serviceAccountName: web
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]
status:
  phase: Running
  podIPs: [{ip: 10.1.0.5}, {ip: "fd00::5"}]
  conditions: [{type: Ready, status: "True"}]
"""
AROUND = """
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Node
metadata:
  name: n1
  labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1, topology.istio.io/subzone: s1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIPs: [10.96.0.1]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: admin}, {name: raw, port: 9000}]
"""


def test_a_pod_on_the_wire() -> None:
    config = Config(POD + AROUND)
    resource = config.mesh.get(wire.ADDRESS_TYPE, "Kubernetes//Pod/shop/web-6f7b8-abcde")
    assert resource is not None
    expected = text_format.Parse(
        r"""
        workload {
          name: "web-6f7b8-abcde"
          namespace: "shop"
          addresses: "\n\001\000\005"
          addresses: "\375\000\000\000\000\000\000\000\000\000\000\000\000\000\000\005"
          tunnel_protocol: HBONE
          service_account: "web"
          node: "n1"
          canonical_name: "web"
          canonical_revision: "v2"
          workload_type: DEPLOYMENT
          workload_name: "web"
          uid: "Kubernetes//Pod/shop/web-6f7b8-abcde"
          services {
            key: "shop/web.shop.svc.cluster.local"
            value { ports { service_port: 80 target_port: 8080 } ports { service_port: 9000 target_port: 9000 } }
          }
          locality { region: "r1" zone: "z1" subzone: "s1" }
        }
        """,
        workload_pb2.Address(),
    )
    assert text_format.MessageToString(workload_pb2.Address.FromString(resource.body)) == text_format.MessageToString(expected)


@pytest.mark.parametrize("annotation", ["sidecar.istio.io/status", "kubernetes.io/config.mirror"])
def test_pods_that_are_never_captured_are_not_said_to_be(annotation: str) -> None:
    config = Config(f"""
        apiVersion: v1
        kind: Pod
        metadata: {{name: p, namespace: shop, labels: {{istio.io/dataplane-mode: ambient}}, annotations: {{{annotation}: x}}}}
        status: {{podIPs: [{{ip: 10.0.0.1}}]}}
    """)
    assert config.pod("shop", "p").tunnel_protocol is TunnelProtocol.NONE


@pytest.mark.parametrize(
    ("namespace", "pod", "host_network", "expected"),
    [
        ("ambient", None, False, TunnelProtocol.HBONE),
        ("ambient", "none", False, TunnelProtocol.NONE),
        ("ambient", "ambient", False, TunnelProtocol.HBONE),
        ("ambient", "something", False, TunnelProtocol.NONE),
        (None, None, False, TunnelProtocol.NONE),
        (None, "ambient", False, TunnelProtocol.HBONE),
        ("none", "ambient", False, TunnelProtocol.HBONE),
        ("ambient", None, True, TunnelProtocol.NONE),
        ("ambient", "ambient", True, TunnelProtocol.NONE),
    ],
)
def test_enrolment(namespace: str | None, pod: str | None, host_network: bool, expected: TunnelProtocol) -> None:
    labels = f"{{istio.io/dataplane-mode: '{namespace}'}}" if namespace else "{}"
    own = f"{{istio.io/dataplane-mode: '{pod}'}}" if pod else "{}"
    config = Config(f"""
        apiVersion: v1
        kind: Namespace
        metadata: {{name: shop, labels: {labels}}}
        ---
        apiVersion: v1
        kind: Pod
        metadata: {{name: p, namespace: shop, labels: {own}}}
        spec: {{hostNetwork: {str(host_network).lower()}}}
        status: {{podIPs: [{{ip: 10.0.0.1}}]}}
        """)
    workload = config.pod("shop", "p")
    assert workload.tunnel_protocol is expected
    assert workload.network_mode is (NetworkMode.HOST_NETWORK if host_network else NetworkMode.STANDARD)
    assert bool(config.mesh.resolve(wire.ADDRESS_TYPE, "/10.0.0.1")) != host_network


@pytest.mark.parametrize(
    ("phase", "conditions", "deleted", "expected"),
    [
        ("Running", "[{type: Ready, status: 'True'}]", "", WorkloadStatus.HEALTHY),
        ("Running", "[{type: Ready, status: 'False'}]", "", WorkloadStatus.UNHEALTHY),
        ("Running", "[{type: Ready, status: Unknown}]", "", WorkloadStatus.UNHEALTHY),
        ("Running", "[]", "", WorkloadStatus.UNHEALTHY),
        ("Pending", "[{type: Ready, status: 'True'}]", "", WorkloadStatus.HEALTHY),
        ("Running", "[{type: Ready, status: 'True'}]", "2030-01-01T00:00:00Z", WorkloadStatus.UNHEALTHY),
        ("Succeeded", "[{type: Ready, status: 'True'}]", "", None),
        ("Failed", "[]", "", None),
    ],
)
def test_health(phase: str, conditions: str, deleted: str, expected: WorkloadStatus | None) -> None:
    config = Config(f"""
        apiVersion: v1
        kind: Pod
        metadata: {{name: p, namespace: shop, deletionTimestamp: '{deleted}'}}
        status: {{phase: {phase}, podIP: 10.0.0.1, conditions: {conditions}}}
        """)
    if expected is None:
        assert config.addresses == set()
    else:
        assert config.pod("shop", "p").status is expected


@pytest.mark.parametrize(
    ("owner", "labels", "name", "kind"),
    [
        ("{kind: ReplicaSet, name: web-abc, controller: true}", "{pod-template-hash: abc}", "web", WorkloadType.DEPLOYMENT),
        ("{kind: ReplicaSet, name: web-abc, controller: true}", "{}", "web-abc", WorkloadType.POD),
        ("{kind: ReplicaSet, name: web-abc, controller: false}", "{pod-template-hash: abc}", "p", WorkloadType.POD),
        ("{kind: StatefulSet, name: db, controller: true}", "{}", "db", WorkloadType.POD),
        ("{kind: Job, name: once, controller: true}", "{}", "once", WorkloadType.JOB),
        ("{kind: Job, name: nightly-28000001, controller: true}", "{}", "nightly", WorkloadType.CRONJOB),
        ("{kind: Job, name: x, controller: true}", "{service.istio.io/workload-name: mine}", "mine", WorkloadType.JOB),
    ],
)
def test_the_owner_gives_name_and_type(owner: str, labels: str, name: str, kind: WorkloadType) -> None:
    config = Config(f"""
        apiVersion: v1
        kind: Pod
        metadata: {{name: p, namespace: shop, labels: {labels}, ownerReferences: [{owner}]}}
        status: {{podIPs: [{{ip: 10.0.0.1}}]}}
        """)
    workload = config.pod("shop", "p")
    assert (workload.workload_name, workload.workload_type) == (name, kind)
    assert (workload.canonical_name, workload.canonical_revision) == (name, "latest")


def test_the_canonical_labels_have_an_order() -> None:
    config = Config("""
        apiVersion: v1
        kind: Pod
        metadata:
          name: p
          namespace: shop
          labels:
            {app: c, app.kubernetes.io/name: b, service.istio.io/canonical-name: a, version: v3, app.kubernetes.io/version: v2}
        status: {podIPs: [{ip: 10.0.0.1}]}
        """)
    workload = config.pod("shop", "p")
    assert (workload.canonical_name, workload.canonical_revision) == ("a", "v2")


def test_a_workload_entry() -> None:
    config = Config(
        """
        apiVersion: networking.istio.io/v1
        kind: WorkloadEntry
        metadata: {name: vm1, namespace: shop, labels: {istio.io/dataplane-mode: ambient}}
        spec:
          address: 192.0.2.7
          labels: {app: db}
          serviceAccount: db
          locality: r/z/s
          weight: 5
          network: other
          ports: {pg: 5433}
        ---
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata: {name: db, namespace: shop}
        spec:
          hosts: [db.example]
          ports: [{number: 5432, name: pg, protocol: TCP}, {number: 80, name: http, targetPort: 8080}, {number: 81, name: other}]
          resolution: STATIC
          workloadSelector: {labels: {app: db}}
        """,
        MeshSettings(trust_domain="mesh.example", cluster="c1"),
    )
    workload = config.workload("c1/networking.istio.io/WorkloadEntry/shop/vm1")
    assert workload.addresses == (ip_address("192.0.2.7"),)
    assert workload.tunnel_protocol is TunnelProtocol.HBONE
    assert str(workload.identity) == "spiffe://mesh.example/ns/shop/sa/db"
    assert (workload.locality, workload.capacity, workload.network) == (Locality("r", "z", "s"), 5, "other")
    assert workload.services == {"shop/db.example": (Port(5432, 5433), Port(80, 8080), Port(81, 81))}
    assert config.mesh.resolve(wire.ADDRESS_TYPE, "other/192.0.2.7") == (workload.uid,)


def test_inline_endpoints_and_names_of_a_service_entry() -> None:
    config = Config("""
        apiVersion: networking.istio.io/v1beta1
        kind: ServiceEntry
        metadata: {name: static, namespace: shop}
        spec:
          hosts: [one.example, two.example]
          ports: [{number: 443, name: tls, protocol: TLS}]
          resolution: STATIC
          endpoints: [{address: 203.0.113.1}, {address: "2001:db8::1", ports: {tls: 8443}}]
        ---
        apiVersion: networking.istio.io/v1alpha3
        kind: ServiceEntry
        metadata: {name: dns, namespace: shop}
        spec: {hosts: [three.example, four.example], ports: [{number: 80, name: http}], resolution: DNS}
        """)
    base = "Kubernetes/networking.istio.io/ServiceEntry/shop"
    assert config.workload(f"{base}/static/203.0.113.1").services == {
        "shop/one.example": (Port(443, 443),),
        "shop/two.example": (Port(443, 443),),
    }
    assert config.workload(f"{base}/static/2001:db8::1").services["shop/one.example"] == (Port(443, 8443),)
    by_name = config.workload(f"{base}/dns/three.example")
    assert (by_name.addresses, by_name.hostname) == ((), "three.example")
    assert by_name.services == {"shop/three.example": (Port(80, 80),)}


SELECTORLESS = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{name: pg, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: pg, port: 15432, protocol: TCP}, {name: unknown, port: 1}]
endpoints:
- {addresses: [192.0.2.1]}
- {addresses: [192.0.2.2], conditions: {ready: false}}
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}, conditions: {ready: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop}
status: {podIPs: [{ip: 10.0.0.1}]}
"""


def test_slices_of_a_service_without_selector() -> None:
    config = Config(SELECTORLESS)
    base = "Kubernetes/discovery.k8s.io/EndpointSlice/shop/db-1"
    first, second = config.workload(f"{base}/192.0.2.1"), config.workload(f"{base}/192.0.2.2")
    key = "shop/db.shop.svc.cluster.local"
    assert first.services == {key: (Port(5432, 15432),)}
    assert (first.status, second.status) == (WorkloadStatus.HEALTHY, WorkloadStatus.UNHEALTHY)
    # Opaque addresses are served as the service's endpoints only.
    assert config.mesh.resolve(wire.ADDRESS_TYPE, "/192.0.2.1") == ()
    pod = config.pod("shop", "p")
    assert pod.services == {key: (Port(5432, 5432),)}
    assert pod.status is WorkloadStatus.HEALTHY
    assert set(config.mesh.members(wire.ADDRESS_TYPE, key)) == {first.uid, second.uid, pod.uid}


def test_slices_of_a_service_with_selector_are_the_pods_themselves() -> None:
    config = Config(SELECTORLESS.replace("spec: {clusterIP", "spec: {selector: {app: db}, clusterIP"))
    assert config.addresses == {"Kubernetes//Pod/shop/p", "shop/db.shop.svc.cluster.local"}
    assert config.pod("shop", "p").services == {}


def test_a_slice_speaks_for_pods_of_its_own_namespace_only() -> None:
    config = Config(SELECTORLESS.replace("targetRef: {kind: Pod, name: p}", "targetRef: {kind: Pod, name: p, namespace: other}"))
    config.write("b.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: other}\nstatus: {podIPs: [{ip: 10.0.0.2}]}")
    assert config.pod("other", "p").services == {}
