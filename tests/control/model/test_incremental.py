"""Whatever sequence of changes led there, the mesh is the one that a fresh start from the final objects gives."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import (
    AuthorizationPolicy,
    EndpointSlice,
    Gateway,
    MeshObject,
    Namespace,
    Node,
    ObjectKey,
    PeerAuthentication,
    Pod,
    RequestAuthentication,
    Service,
    ServiceEntry,
    WorkloadEntry,
)
from control.kinds.core import (
    Container,
    ContainerPort,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    NodeAddress,
    NodeStatus,
    PodCondition,
    PodIP,
    PodSpec,
    PodStatus,
    ServicePort,
    ServiceSpec,
    TargetRef,
)
from control.kinds.gateway import AllowedRoutes, GatewayAddress, GatewayListener, GatewaySpec, LabelSelector, RouteNamespaces
from control.kinds.metadata import Meta
from control.kinds.networking import EntryPort, EntrySelector, EntryWorkload, ServiceEntrySpec
from control.kinds.security import (
    AuthorizationPolicySpec,
    MTLSMode,
    MutualTLS,
    PeerAuthenticationSpec,
    PolicyAction,
    PolicyRule,
    PolicyTarget,
    Selector,
)
from control.kinds.tokens import RequestAuthenticationSpec
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import objects
from control.source import Change, Reject, Remove, Upsert
from control.validation.finding import Origin
from meshapi import wire

NAMESPACES = st.sampled_from(["a", "b", wire.DEFAULT_ROOT_NAMESPACE])
NAMES = st.sampled_from(["x", "y", "z"])
PLAIN = st.dictionaries(st.sampled_from(["app", "v"]), st.sampled_from(["p", "q"]), max_size=2)
WAYPOINTS = st.sampled_from(
    [
        *({},) * 4,
        {wire.LABEL_USE_WAYPOINT: "none"},
        {wire.LABEL_USE_WAYPOINT: "x"},
        {wire.LABEL_USE_WAYPOINT: "x", wire.LABEL_USE_WAYPOINT_NAMESPACE: "b"},
        {wire.LABEL_USE_WAYPOINT: "y", wire.LABEL_INGRESS_USE_WAYPOINT: "true"},
        {wire.LABEL_GATEWAY_NAME: "x"},
    ]
)
LABELS = st.builds(lambda one, two: {**one, **two}, PLAIN, WAYPOINTS)
SELECTORS = st.dictionaries(st.sampled_from(["app", "v"]), st.sampled_from(["p", "q"]), min_size=1, max_size=2)
ADDRESSES = st.sampled_from([f"10.0.0.{index}" for index in range(1, 7)])
AGES = st.sampled_from(["", "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"])
NODES = st.sampled_from(["", "n1", "n2"])
MODES = st.sampled_from(list(MTLSMode))
DATAPLANE = st.sampled_from([{}, {wire.LABEL_DATAPLANE_MODE: "ambient"}, {wire.LABEL_DATAPLANE_MODE: "none"}])


def metas(labels: st.SearchStrategy[dict[str, str]] = LABELS, namespaces: st.SearchStrategy[str] = NAMESPACES) -> st.SearchStrategy[Meta]:
    return st.builds(Meta, name=NAMES, namespace=namespaces, labels=labels, creation_timestamp=AGES)


def optional(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(strategy, max_size=1).map(tuple)


PODS = st.builds(
    Pod,
    metas(st.builds(lambda one, two: {**one, **two}, LABELS, DATAPLANE)),
    st.builds(
        PodSpec,
        node_name=NODES,
        host_network=st.booleans(),
        containers=optional(st.just(Container((ContainerPort(8080, "web"),)))),
    ),
    st.builds(
        PodStatus,
        phase=st.sampled_from(["Pending", "Running", "Succeeded"]),
        pod_ips=st.lists(st.builds(PodIP, ADDRESSES), max_size=2).map(tuple),
        conditions=optional(st.builds(PodCondition, st.just("Ready"), st.sampled_from(["True", "False"]))),
    ),
)
SERVICES = st.builds(
    Service,
    metas(),
    st.builds(
        ServiceSpec,
        type=st.sampled_from(["ClusterIP", "ExternalName"]),
        external_name=st.sampled_from(["", "x.example"]),
        cluster_ips=optional(ADDRESSES),
        ports=st.lists(
            st.builds(ServicePort, st.sampled_from([80, 81]), st.just("http"), target_port=st.sampled_from([None, 8080, "web"])), max_size=1
        ).map(tuple),
        selector=PLAIN,
    ),
)
ENDPOINTS = st.builds(
    Endpoint,
    ADDRESSES.map(lambda address: (address,)),
    st.builds(EndpointConditions, st.sampled_from([None, True, False])),
    st.one_of(st.none(), st.builds(TargetRef, st.just("Pod"), NAMESPACES, NAMES)),
)
SLICES = st.builds(
    EndpointSlice,
    metas(NAMES.map(lambda name: {"kubernetes.io/service-name": name})),
    st.just("IPv4"),
    st.lists(ENDPOINTS, max_size=2).map(tuple),
    st.just((EndpointPort("http", 8080),)),
)
WORKLOAD_ENTRIES = st.builds(
    WorkloadEntry, metadata=metas(), spec=st.builds(EntryWorkload, ADDRESSES, st.just({"http": 9090}), LABELS, weight=st.just(2))
)
SERVICE_ENTRIES = st.builds(
    ServiceEntry,
    metadata=metas(),
    spec=st.builds(
        ServiceEntrySpec,
        st.lists(st.sampled_from(["one.example", "two.example", "x.a.svc.cluster.local"]), min_size=1, max_size=2, unique=True).map(tuple),
        optional(ADDRESSES),
        st.just((EntryPort(80, "http"),)),
        st.sampled_from(["NONE", "STATIC", "DNS"]),
        optional(st.builds(EntryWorkload, ADDRESSES)),
        st.one_of(st.none(), st.builds(EntrySelector, SELECTORS)),
    ),
)
PEERS = st.builds(
    PeerAuthentication,
    metas(),
    st.builds(
        PeerAuthenticationSpec,
        st.one_of(st.none(), st.builds(Selector, SELECTORS)),
        st.builds(MutualTLS, MODES),
        st.dictionaries(st.sampled_from(["80", "81"]), st.builds(MutualTLS, MODES), max_size=2),
    ),
)
TARGETS = st.builds(PolicyTarget, st.sampled_from(["Service", "ServiceEntry", "Gateway", "GatewayClass"]), NAMES)
POLICIES = st.builds(
    AuthorizationPolicy,
    metas(),
    st.one_of(
        st.builds(
            AuthorizationPolicySpec,
            st.one_of(st.none(), st.builds(Selector, SELECTORS)),
            action=st.sampled_from(list(PolicyAction)),
            rules=optional(st.just(PolicyRule())),
        ),
        st.builds(
            AuthorizationPolicySpec,
            target_refs=optional(TARGETS),
            action=st.sampled_from(list(PolicyAction)),
            rules=optional(st.just(PolicyRule())),
        ),
    ),
)
TOKENS = st.builds(RequestAuthentication, metas(), st.builds(RequestAuthenticationSpec, target_refs=optional(TARGETS)))
FROM = st.builds(RouteNamespaces, st.sampled_from(["Same", "All", "Selector"]), st.one_of(st.none(), st.builds(LabelSelector, SELECTORS)))
GATEWAYS = st.builds(
    Gateway,
    metadata=metas(st.sampled_from([{}, *({wire.LABEL_WAYPOINT_FOR: one} for one in ("service", "workload", "all", "none", "other"))])),
    spec=st.builds(
        GatewaySpec,
        st.sampled_from(["istio-waypoint", "x", "istio"]),
        optional(
            st.builds(GatewayListener, st.just("mesh"), st.sampled_from([80, 15008]), st.just("HBONE"), st.builds(AllowedRoutes, FROM))
        ),
        optional(
            st.sampled_from(
                [GatewayAddress("10.0.0.1"), GatewayAddress("127.0.0.1"), GatewayAddress("x.a.svc.cluster.local", "Hostname")],
            )
        ),
    ),
)
NAMESPACE_OBJECTS = st.builds(
    lambda name, mode, waypoint, labels: Namespace(Meta(name, labels={**mode, **waypoint, **labels})),
    NAMESPACES,
    DATAPLANE,
    WAYPOINTS,
    PLAIN,
)
NODE_OBJECTS = st.builds(
    lambda name, zone, address: Node(
        Meta(name, labels={"topology.kubernetes.io/zone": zone}), NodeStatus((NodeAddress(address, "InternalIP"),))
    ),
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["z1", "z2"]),
    ADDRESSES,
)
OBJECTS: st.SearchStrategy[MeshObject] = st.one_of(
    PODS, SERVICES, SLICES, WORKLOAD_ENTRIES, SERVICE_ENTRIES, PEERS, POLICIES, TOKENS, GATEWAYS, NAMESPACE_OBJECTS, NODE_OBJECTS
)
ORIGIN = Origin("f.yaml")


def upsert(item: MeshObject) -> Change:
    return Upsert(item, ORIGIN, {})


CHANGES: st.SearchStrategy[Change] = st.one_of(
    OBJECTS.map(upsert),
    OBJECTS.map(upsert),
    OBJECTS.map(lambda item: Remove(item.key)),
    st.one_of(PEERS, POLICIES).map(lambda item: Reject(item.key, ORIGIN, (), {}, item)),
)


def view(mesh: Mesh) -> dict[str, object]:
    """All that can be asked of a mesh."""
    types = (wire.ADDRESS_TYPE, wire.AUTHORIZATION_TYPE)
    names = {kind: sorted(mesh.names(kind)) for kind in types}
    keys = [*names[wire.ADDRESS_TYPE], *(f"/10.0.0.{index}" for index in range(1, 7))]
    return {
        "resources": {kind: {name: mesh.get(kind, name) for name in names[kind]} for kind in types},
        "resolve": {key: mesh.resolve(wire.ADDRESS_TYPE, key) for key in keys},
        "members": {key: mesh.members(wire.ADDRESS_TYPE, key) for key in keys},
        "objects": objects(mesh, "", "", ""),
        "placed": dict(mesh.store._placed),
    }


def fresh(mesh: Mesh, order: Callable[[list[ObjectKey]], list[ObjectKey]] = sorted) -> Mesh:
    """A mesh that is told the final objects at once."""
    other = Mesh(mesh.settings)
    changes: list[Change] = []
    for key in order(list(mesh.records)):
        record = mesh.records[key]
        if record.rejected:
            # What is in force despite a rejection: the last good form first, where that is what holds.
            if record.object is not None and not record.closed:
                changes.append(Upsert(record.object, record.origin, record.manifest))
            changes.append(Reject(key, record.origin, record.findings, record.manifest, record.object if record.closed else None))
        elif record.object is not None:
            changes.append(Upsert(record.object, record.origin, record.manifest, record.findings))
    other.apply(changes)
    return other


TYPES = (wire.ADDRESS_TYPE, wire.AUTHORIZATION_TYPE, wire.NAMES_TYPE)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(CHANGES, max_size=6), max_size=8))
def test_any_sequence_of_changes_ends_where_a_fresh_start_ends(batches: list[list[Change]]) -> None:
    mesh = Mesh(MeshSettings())
    for batch in batches:
        mesh.apply(batch)
    assert view(mesh) == view(fresh(mesh))
    assert view(mesh) == view(fresh(mesh, lambda keys: sorted(keys, reverse=True)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CHANGES, max_size=6), max_size=8))
def test_watchers_hear_of_exactly_what_changed(batches: list[list[Change]]) -> None:
    mesh = Mesh(MeshSettings())
    mirror: dict[tuple[str, str], object] = {}

    def on_change(changes: object) -> None:
        assert isinstance(changes, dict)
        for kind, names in changes.items():
            for name in names:
                now = mesh.get(kind, name)
                assert mirror.get((kind, name)) != now
                if now is None:
                    del mirror[(kind, name)]
                else:
                    mirror[(kind, name)] = now

    mesh.watch(on_change)
    for batch in batches:
        mesh.apply(batch)
        served = {(kind, name): mesh.get(kind, name) for kind in TYPES for name in mesh.names(kind)}
        assert mirror == served


@settings(max_examples=40, deadline=None)
@given(st.lists(CHANGES, max_size=25))
def test_nothing_is_left_when_all_is_removed(changes: list[Change]) -> None:
    mesh = Mesh(MeshSettings())
    mesh.apply(changes)
    mesh.apply([Remove(key) for key in list(mesh.records)])
    assert view(mesh) == view(Mesh(MeshSettings()))
    assert not mesh.derived
    assert not mesh.claims._claimants
    assert not mesh.store._pods_by_node
    assert not mesh.names(wire.NAMES_TYPE)
    assert not mesh.store._workloads._by_pair
    assert not mesh.store._services._by_pair
    assert not mesh.store._slices_by_pod
    assert not mesh.store._slices_by_service
    waypoints = mesh.store.waypoints
    kept = (waypoints._services, waypoints._asking, waypoints._by_service, waypoints._targeting, waypoints._waypoints, waypoints._bound)
    assert not any((*kept, mesh.store._listed._pods, mesh.store._listed._slices))
