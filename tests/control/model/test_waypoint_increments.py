"""Waypoints, who asks for them, who runs them and what protects: whatever the order of changes, the end is that of a fresh start.

A small world, so that most changes matter to each other: two namespaces, one Gateway, and every way in which the rest can refer to it.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import MeshObject
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.source import Change, Remove
from meshapi import wire
from tests.control.model.builders import ROOT, one
from tests.control.model.test_incremental import upsert

USES = ("", "istio.io/use-waypoint: x", "istio.io/use-waypoint: none")
ELSEWHERE = "istio.io/use-waypoint: x, istio.io/use-waypoint-namespace: a"


def gateway(
    kind: str = "istio-waypoint", traffic: str = "all", origin: str = "from: All", address: str = "", protocol: str = "HBONE"
) -> str:
    return f"""
    apiVersion: gateway.networking.k8s.io/v1
    kind: Gateway
    metadata: {{name: x, namespace: a, labels: {{istio.io/waypoint-for: {traffic}}}}}
    spec:
      gatewayClassName: {kind}
      listeners: [{{name: mesh, port: 15008, protocol: {protocol}, allowedRoutes: {{namespaces: {{{origin}}}}}}}]
      addresses: [{address}]
    """


def namespace(name: str, labels: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}"


def service(name: str, namespace: str, labels: str, app: str, port: str) -> str:
    return f"""
    apiVersion: v1
    kind: Service
    metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
    spec: {{clusterIP: {"10.0.0.1" if name == "x" else "10.0.0.2"}, selector: {{app: {app}}}, ports: [{{{port}}}]}}
    """


def pod(namespace: str, labels: str, account: str, port: int = 8080, phase: str = "Running") -> str:
    return f"""
    apiVersion: v1
    kind: Pod
    metadata: {{name: p, namespace: {namespace}, labels: {{{labels}}}}}
    spec: {{nodeName: n, serviceAccountName: {account}, containers: [{{name: c, ports: [{{name: web, containerPort: {port}}}]}}]}}
    status: {{phase: {phase}, podIP: 10.1.0.1}}
    """


def entry(labels: str, account: str) -> str:
    return f"""
    apiVersion: networking.istio.io/v1
    kind: WorkloadEntry
    metadata: {{name: w, namespace: a, labels: {{{labels}}}}}
    spec: {{address: 10.1.0.2, serviceAccount: {account}, ports: {{web: 9090}}}}
    """


def service_entry(labels: str) -> str:
    return f"""
    apiVersion: networking.istio.io/v1
    kind: ServiceEntry
    metadata: {{name: e, namespace: a, labels: {{{labels}}}}}
    spec:
      hosts: [e.example]
      addresses: [10.0.0.3]
      ports: [{{number: 80, name: web, protocol: HTTP}}]
      resolution: STATIC
      workloadSelector: {{labels: {{app: q}}}}
    """


def endpoints(address: str, target: str = "", port: int = 7070) -> str:
    return f"""
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {{name: s, namespace: a, labels: {{kubernetes.io/service-name: y}}}}
    addressType: IPv4
    endpoints: [{{addresses: [{address}]{target}}}]
    ports: [{{name: http, port: {port}}}]
    """


def policy(kind: str, name: str, namespace: str = "a", action: str = "ALLOW") -> str:
    return f"""
    apiVersion: security.istio.io/v1
    kind: AuthorizationPolicy
    metadata: {{name: {name}, namespace: {namespace}}}
    spec: {{targetRefs: [{{kind: {kind}, name: {name}}}], action: {action}, rules: [{{}}]}}
    """


HBONE, HTTP, NAMED = "name: mesh, port: 15008", "name: http, port: 80, targetPort: 8080", "name: http, port: 80, targetPort: web"
UNIVERSE: list[MeshObject] = [
    one(text)
    for text in (
        *(namespace(name, labels) for name in ("a", "b") for labels in ("", "istio.io/use-waypoint: x", f"team: t, {ELSEWHERE}")),
        gateway(),
        gateway(traffic="service"),
        gateway(traffic="workload"),
        gateway(origin="from: Same"),
        gateway(origin="from: Selector, selector: {matchLabels: {team: t}}"),
        gateway(address="{value: 10.0.0.1}"),
        gateway(address="{type: Hostname, value: y.a.svc.cluster.local}"),
        gateway(kind="nodemesh-waypoint"),
        gateway(kind="istio", protocol="HTTP"),
        *(service("x", "a", "", app, HBONE) for app in ("p", "q")),
        service("x", "a", "", "p", HTTP),
        *(service("y", where, use, "q", port) for where in ("a", "b") for use in (*USES, ELSEWHERE) for port in (HTTP, NAMED)),
        service("y", "a", USES[1], "q", HTTP).replace("selector: {app: q}, ", ""),
        service("y", "a", USES[1], "q", NAMED).replace("selector: {app: q}, ", ""),
        endpoints("10.1.0.1"),
        endpoints("10.1.0.1", port=7071),
        endpoints("10.1.0.1", ", targetRef: {kind: Pod, name: p}"),
        endpoints("10.1.0.9"),
        pod("a", "app: p", "one").replace("podIP: 10.1.0.1", "podIP: 10.1.0.9"),
        *(pod("a", labels, account) for labels, account in (("app: p", "one"), ("app: q", "two"), ("app: p", "two"))),
        pod("a", "app: q", "two", port=8081),
        pod("a", "app: p", "one", phase="Succeeded"),
        pod("a", "gateway.networking.k8s.io/gateway-name: x", "three"),
        pod("a", "app: q, istio.io/use-waypoint: x", "two"),
        pod("b", f"app: q, {ELSEWHERE}", "two"),
        *(
            entry(labels, account)
            for labels, account in (("app: p", "four"), ("app: q", "five"), ("app: q, istio.io/use-waypoint: x", "five"))
        ),
        *(service_entry(use) for use in USES),
        *(policy(*target) for target in (("Service", "y"), ("Service", "y", "b"), ("ServiceEntry", "e"), ("Gateway", "x"))),
        policy("Service", "y", action="AUDIT"),
        policy("GatewayClass", "istio-waypoint", ROOT),
    )
]
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.sampled_from(UNIVERSE).map(upsert),
    st.sampled_from(UNIVERSE).map(upsert),
    st.sampled_from(UNIVERSE).map(lambda item: Remove(item.key)),
)


def served(mesh: Mesh) -> dict[str, object]:
    return {f"{kind} {name}": mesh.get(kind, name) for kind in (wire.ADDRESS_TYPE, wire.AUTHORIZATION_TYPE) for name in mesh.names(kind)}


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=4), min_size=2, max_size=10))
def test_any_sequence_of_changes_ends_where_a_fresh_start_ends(batches: list[list[Change]]) -> None:
    mesh = Mesh(MeshSettings())
    for batch in batches:
        mesh.apply(batch)
    fresh = Mesh(MeshSettings())
    fresh.apply([upsert(record.object) for record in mesh.records.values() if record.object is not None])
    assert served(mesh) == served(fresh)
    assert mesh.store.waypoints._bound == fresh.store.waypoints._bound
