"""Where connections go: one table row for each way that a destination can be."""

from dataclasses import replace
from ipaddress import ip_address
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.workload import (
    AppProtocol,
    BalancingMode,
    HealthPolicy,
    LoadBalancing,
    Locality,
    NetworkAddress,
    NetworkMode,
    Port,
    Scope,
    Service,
    ServiceKey,
    TunnelProtocol,
    Visibility,
    Workload,
    WorkloadStatus,
    WorkloadUID,
)
from nodeagent.resolve.answer import Unknown
from nodeagent.resolve.endpoints import MAX_ENDPOINTS
from nodeagent.resolve.resolve import RouteQuestion, resolve
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.protocol import Forward, Pass, Refuse, Route, Tunnel
from tests.nodeagent.attributes import given_back

KEY = ServiceKey("shop/api.shop.svc.cluster.local")
HERE = Locality("eu", "eu-a", "rack1")
WEB = Workload(
    uid=WorkloadUID("web"),
    name="web",
    namespace="shop",
    service_account="web",
    addresses=(ip_address("10.0.0.1"), ip_address("fd00::1")),
    tunnel_protocol=TunnelProtocol.HBONE,
    node="n1",
    locality=HERE,
)
POD = Workload(
    uid=WorkloadUID("api"),
    name="api",
    namespace="shop",
    service_account="api",
    addresses=(ip_address("10.0.0.9"), ip_address("fd00::9")),
    tunnel_protocol=TunnelProtocol.HBONE,
    services={KEY: (Port(80, 8080),)},
    node="n2",
    locality=HERE,
)
API = Service(
    "api",
    "shop",
    "api.shop.svc.cluster.local",
    addresses=(NetworkAddress(ip_address("10.1.0.1")), NetworkAddress(ip_address("fd01::1"))),
    ports=(Port(80, 8080),),
)
VIP = "10.1.0.1"


def route(update: Update, destination: str = VIP, port: int = 80) -> Route | Unknown:
    base = apply(Snapshot(), Update(workloads=(WEB,))).snapshot
    return resolve(apply(base, update).snapshot, RouteQuestion(WEB.uid, ip_address(destination), port))


def mesh(*pods: Workload, service: Service = API) -> Update:
    return Update(workloads=pods, services=(service,))


def forwarded(update: Update, destination: str = VIP, port: int = 80) -> Forward:
    answer = route(update, destination, port)
    assert isinstance(answer, Forward), answer
    return answer


def refused(update: Update, destination: str = VIP, port: int = 80) -> Refuse:
    answer = route(update, destination, port)
    assert isinstance(answer, Refuse), answer
    return answer


def changed(pod: Workload = POD, **fields: object) -> Workload:
    return msgspec.structs.replace(pod, **fields)


def balanced(mode: BalancingMode = BalancingMode.FAILOVER, *scopes: Scope, health: HealthPolicy = HealthPolicy.ONLY_HEALTHY) -> Service:
    return msgspec.structs.replace(API, load_balancing=LoadBalancing(scopes, mode, health))


def test_a_service_address_leads_through_a_tunnel_to_its_endpoint() -> None:
    (endpoint,) = forwarded(mesh(POD)).endpoints
    assert (endpoint.uid, endpoint.address, endpoint.tier, endpoint.weight) == ("api", "10.0.0.9:15008", 0, 1)
    assert endpoint.tunnel == Tunnel("spiffe://cluster.local/ns/shop/sa/web", "10.0.0.9:8080", ("spiffe://cluster.local/ns/shop/sa/api",))
    attributes = given_back(endpoint.attributes)
    assert attributes["reporter"] == "source"
    assert attributes["destination_service"] == "api.shop.svc.cluster.local"
    assert attributes["destination_principal"] == "spiffe://cluster.local/ns/shop/sa/api"
    assert attributes["connection_security_policy"] == "mutual_tls"
    assert attributes["log"]["dst.workload"] == "api"


def test_the_asked_ip_family_is_kept_where_it_can_be() -> None:
    assert forwarded(mesh(POD), "fd01::1").endpoints[0].address == "[fd00::9]:15008"
    (only_four,) = forwarded(mesh(changed(addresses=POD.addresses[:1])), "fd01::1").endpoints
    assert only_four.address == "10.0.0.9:15008"
    assert only_four.tunnel is not None
    assert only_four.tunnel.authority == "10.0.0.9:8080"
    assert forwarded(mesh(POD), "::ffff:10.1.0.1").endpoints[0].address == "10.0.0.9:15008"


def test_a_pod_address_leads_to_that_pod_on_the_port_that_was_dialled() -> None:
    (endpoint,) = forwarded(mesh(POD), "10.0.0.9", 9999).endpoints
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.authority == "10.0.0.9:9999"
    assert "destination_service" not in given_back(endpoint.attributes)


def test_a_workload_outside_the_tunnels_is_reached_in_plaintext() -> None:
    plain = changed(tunnel_protocol=TunnelProtocol.NONE)
    for destination, port in [(VIP, 80), ("10.0.0.9", 8080)]:
        (endpoint,) = forwarded(mesh(plain), destination, port).endpoints
        assert (endpoint.address, endpoint.tunnel) == ("10.0.0.9:8080", None)
        assert given_back(endpoint.attributes)["connection_security_policy"] == "unknown"
        assert "destination_principal" not in given_back(endpoint.attributes)


def test_a_pod_that_calls_its_own_service_goes_through_its_own_proxy() -> None:
    own = changed(WEB, services={KEY: (Port(80, 8080),)})
    (endpoint,) = forwarded(mesh(own)).endpoints
    assert endpoint.address == "10.0.0.1:15008"
    assert endpoint.tunnel is not None


@pytest.mark.parametrize(
    ("members", "target"),
    [
        ({KEY: (Port(80, 8081),)}, 8081),  # a named port: the endpoint says which
        ({KEY: (Port(80),)}, 8080),
        ({KEY: ()}, 8080),
        ({KEY: (Port(81, 9090),)}, 8080),
    ],
)
def test_target_ports(members: dict[ServiceKey, tuple[Port, ...]], target: int) -> None:
    (endpoint,) = forwarded(mesh(changed(services=members))).endpoints
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.authority == f"10.0.0.9:{target}"


def test_an_endpoint_without_the_named_port_is_left_out() -> None:
    named = msgspec.structs.replace(API, ports=(Port(80, 0, AppProtocol.HTTP11),))
    answer = refused(mesh(changed(services={KEY: ()}), service=named))
    assert (answer.flag, answer.reason) == ("UH", f"no usable endpoint of {KEY}: 1 without the target port of 80")


@pytest.mark.parametrize(
    ("update", "flag", "words"),
    [
        (mesh(), "UH", "has no endpoints"),
        (mesh(changed(status=WorkloadStatus.UNHEALTHY)), "UH", "1 not healthy"),
        (mesh(changed(network="other")), "UH", "in another network"),
        (mesh(changed(capacity=0)), "UH", "weight 0"),
        (mesh(changed(addresses=())), "UH", "without an address"),
        (mesh(changed(tunnel_protocol=TunnelProtocol.LEGACY_ISTIO_MTLS)), "UH", "sidecar mTLS"),
        (mesh(changed(services={KEY: (Port(80, 15008),)})), "UH", "no usable endpoint"),
        (mesh(POD, service=msgspec.structs.replace(API, ports=(Port(81, 1),))), "NR", "has no port 80"),
        (
            mesh(POD, service=msgspec.structs.replace(API, namespace="other", visibility=Visibility.NAMESPACE)),
            "NR",
            "its own namespace only",
        ),
        (mesh(changed(node="n3"), service=balanced(BalancingMode.STRICT, Scope.NODE)), "UH", "outside the locality"),
        (Update(removed=(WEB.uid,), absent=(WEB.uid,)), "NR", "not in the mesh's configuration"),
        (Update(local_identities=((WEB.uid, "spiffe://cluster.local/ns/shop/sa/other"),)), "NR", "the controller says"),
    ],
)
def test_what_cannot_be_reached_is_refused_in_words(update: Update, flag: str, words: str) -> None:
    answer = refused(update)
    assert answer.flag == flag
    assert words in answer.reason
    assert given_back(answer.attributes)["reporter"] == "source"


@pytest.mark.parametrize(
    ("pod", "port", "words"),
    [
        (changed(tunnel_protocol=TunnelProtocol.LEGACY_ISTIO_MTLS), 80, "sidecar mTLS"),
        (POD, 15008, "proxy's own"),
        (POD, 15001, "proxy's own"),
        (POD, 15006, "proxy's own"),
    ],
)
def test_a_pod_that_must_not_be_dialled_directly_is_refused(pod: Workload, port: int, words: str) -> None:
    assert words in refused(mesh(pod), "10.0.0.9", port).reason


@pytest.mark.parametrize("destination", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:127.0.0.1"])
def test_addresses_that_lead_back_are_never_forwarded(destination: str) -> None:
    key = f"/{destination}"
    assert refused(Update(absent=(key,)), destination).flag == "NR"


def test_what_is_there_but_was_not_understood_is_never_passed_through() -> None:
    refused_here = route(Update(absent=("/192.0.2.1",), unreadable=("/192.0.2.1",)), "192.0.2.1")
    assert isinstance(refused_here, Refuse)
    assert "could not be understood" in refused_here.reason


def test_what_is_not_known_is_asked_for_and_what_is_not_the_meshs_passes() -> None:
    assert route(Update(), "192.0.2.1") == Unknown(("/192.0.2.1",), "whose address 192.0.2.1 is")
    passed = route(Update(absent=("/192.0.2.1",)), "192.0.2.1")
    assert isinstance(passed, Pass)
    assert given_back(passed.attributes)["source_workload"] == "web"
    stranger = resolve(Snapshot(), RouteQuestion(WorkloadUID("stranger"), ip_address(VIP), 80))
    assert stranger == Unknown(("stranger",), "workload stranger")


def test_the_nodes_own_address_passes() -> None:
    host = changed(network_mode=NetworkMode.HOST_NETWORK, tunnel_protocol=TunnelProtocol.NONE)
    assert route(Update(workloads=(host,)), "10.0.0.9", 22) == Unknown(("/10.0.0.9",), "whose address 10.0.0.9 is")
    assert isinstance(route(Update(workloads=(host,), absent=("/10.0.0.9",)), "10.0.0.9", 22), Pass)


def test_a_service_without_balancing_keeps_the_dialled_address() -> None:
    passthrough = balanced(BalancingMode.PASSTHROUGH)
    assert isinstance(route(replace(mesh(POD, service=passthrough), answered=(f"/{VIP}",))), Pass)
    on_pod = msgspec.structs.replace(passthrough, addresses=(NetworkAddress(ip_address("10.0.0.9")),))
    (endpoint,) = forwarded(mesh(POD, service=on_pod), "10.0.0.9", 9000).endpoints
    assert endpoint.tunnel is not None


def test_a_service_without_balancing_answers_for_no_address_that_was_never_asked_about() -> None:
    """It may be known by another of its addresses, or by a block, while a pod has the one that is dialled."""
    block = NetworkAddress(ip_address("10.0.0.0"), prefix_bits=24)
    for address in (NetworkAddress(ip_address("10.0.0.9")), block):
        service = msgspec.structs.replace(balanced(BalancingMode.PASSTHROUGH), addresses=(API.addresses[0], address))
        assert route(Update(services=(service,)), "10.0.0.9") == Unknown(("/10.0.0.9",), "whose address 10.0.0.9 is")
        assert isinstance(route(Update(services=(service,), absent=("/10.0.0.9",)), "10.0.0.9"), Pass)
        (endpoint,) = forwarded(mesh(POD, service=service), "10.0.0.9").endpoints
        assert endpoint.tunnel is not None


def test_a_workload_goes_before_a_block_that_holds_its_address() -> None:
    service = msgspec.structs.replace(API, addresses=(NetworkAddress(ip_address("10.0.0.0"), prefix_bits=24),))
    assert isinstance(route(Update(services=(service,)), "10.0.0.9"), Unknown)
    (endpoint,) = forwarded(mesh(POD, service=service), "10.0.0.9", 9000).endpoints
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.authority == "10.0.0.9:9000"


LISTED = Workload(
    uid=WorkloadUID("slice/10.0.0.9"),
    name="slice",
    namespace="shop",
    addresses=(ip_address("10.0.0.9"),),
    services={KEY: (Port(80, 15432),)},
    network_mode=NetworkMode.HOST_NETWORK,
)
BARE = msgspec.structs.replace(POD, services={})


def test_an_endpoint_at_a_workloads_address_is_that_workload() -> None:
    """A slice that lists a pod's address without naming the pod: its identity, its tunnel, the port of the slice."""
    (endpoint,) = forwarded(mesh(LISTED, BARE)).endpoints
    assert (endpoint.uid, endpoint.address) == ("api", "10.0.0.9:15008")
    assert endpoint.tunnel is not None
    assert (endpoint.tunnel.authority, endpoint.tunnel.expect) == ("10.0.0.9:15432", (str(POD.identity),))


def test_whose_address_an_opaque_endpoint_has_is_asked_first() -> None:
    assert route(mesh(LISTED)) == Unknown(("/10.0.0.9",), f"whose addresses the endpoints of {KEY} have")
    (endpoint,) = forwarded(replace(mesh(LISTED), absent=("/10.0.0.9",))).endpoints
    assert (endpoint.tunnel, endpoint.address) == (None, "10.0.0.9:15432")
    assert "no usable endpoint" in refused(replace(mesh(LISTED), unreadable=("/10.0.0.9",))).reason


def test_an_endpoint_at_the_address_of_what_can_not_be_reached_is_not_used() -> None:
    assert "no usable endpoint" in refused(mesh(LISTED, changed(BARE, tunnel_protocol=TunnelProtocol.LEGACY_ISTIO_MTLS))).reason
    to_the_proxy = changed(LISTED, services={KEY: (Port(80, 15008),)})
    assert "no usable endpoint" in refused(mesh(to_the_proxy, BARE)).reason


def test_a_pod_that_is_listed_beside_being_an_endpoint_is_one_endpoint() -> None:
    twice = changed(LISTED, services={KEY: (Port(80, 8080),)})
    assert [endpoint.uid for endpoint in forwarded(mesh(POD, twice)).endpoints] == ["api"]


def test_unhealthy_endpoints_serve_where_the_service_says_so() -> None:
    sick = changed(status=WorkloadStatus.UNHEALTHY)
    assert len(forwarded(mesh(sick, service=balanced(BalancingMode.UNSPECIFIED, health=HealthPolicy.ALLOW_ALL))).endpoints) == 1


def test_names_that_a_service_allows_for_are_expected_beside_the_workloads_own() -> None:
    other = "spiffe://other.org/ns/a/sa/b"
    service = msgspec.structs.replace(API, subject_alt_names=(other, "api.example.com", "spiffe://BAD/x"))
    (endpoint,) = forwarded(mesh(POD, service=service)).endpoints
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.expect == ("spiffe://cluster.local/ns/shop/sa/api", other)


def test_tiers_count_the_preferred_scopes_that_are_not_shared() -> None:
    near = changed(uid=WorkloadUID("near"), node="n1", capacity=3)
    zone = changed(uid=WorkloadUID("zone"), node="n2")
    far = changed(uid=WorkloadUID("far"), node="n1", locality=Locality("eu", "eu-b", "rack1"))
    prefer = (Scope.ZONE, Scope.NODE)
    failover = forwarded(mesh(near, zone, far, service=balanced(BalancingMode.FAILOVER, *prefer)))
    assert [(endpoint.uid, endpoint.tier, endpoint.weight) for endpoint in failover.endpoints] == [
        ("near", 0, 3),
        ("zone", 1, 1),
        ("far", 2, 1),
    ]
    strict = forwarded(mesh(near, zone, far, service=balanced(BalancingMode.STRICT, *prefer)))
    assert [endpoint.uid for endpoint in strict.endpoints] == ["near"]
    flat = forwarded(mesh(near, zone, far, service=balanced(BalancingMode.UNSPECIFIED, *prefer)))
    assert {endpoint.tier for endpoint in flat.endpoints} == {0}


@pytest.mark.parametrize(
    ("scope", "elsewhere"),
    [
        (Scope.REGION, {"locality": Locality("us", "eu-a", "rack1")}),
        (Scope.ZONE, {"locality": Locality("eu", "eu-b", "rack1")}),
        (Scope.SUBZONE, {"locality": Locality("eu", "eu-a", "rack2")}),
        (Scope.NODE, {"node": "n9"}),
        (Scope.CLUSTER, {"cluster": "other"}),
    ],
)
def test_each_scope(scope: Scope, elsewhere: dict[str, object]) -> None:
    here, there = changed(uid=WorkloadUID("here"), node="n1"), changed(**{"uid": WorkloadUID("there"), "node": "n1", **elsewhere})
    answer = forwarded(mesh(here, there, service=balanced(BalancingMode.FAILOVER, scope)))
    assert [(endpoint.uid, endpoint.tier) for endpoint in answer.endpoints] == [("here", 0), ("there", 1)]


def test_of_services_that_share_an_address_the_sources_own_namespace_comes_first() -> None:
    foreign = Service("api", "aaa", "api.aaa", addresses=API.addresses, ports=(Port(80, 1),))
    answer = forwarded(Update(workloads=(POD,), services=(foreign, API)))
    assert given_back(answer.endpoints[0].attributes)["destination_service"] == API.hostname


def test_of_a_big_service_each_source_gets_its_own_even_part() -> None:
    numbers = count(1)
    pods = tuple(
        changed(uid=WorkloadUID(f"p{n}"), addresses=(ip_address((10 << 24) + (5 << 16) + n),)) for n in (next(numbers) for _ in range(400))
    )
    first, again = forwarded(mesh(*pods)), forwarded(mesh(*reversed(pods)))
    assert first == again
    assert len(first.endpoints) == MAX_ENDPOINTS


_tunnels = st.sampled_from(TunnelProtocol)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_tunnels, st.booleans(), st.sampled_from([0, 1, 5]), st.sampled_from([0, 8080, 15006])), max_size=5))
def test_the_mesh_is_never_bypassed(shapes: list[tuple[TunnelProtocol, bool, int, int]]) -> None:
    """Whatever the members are: a service's address is never passed through, and a tunnelled workload never reached without its tunnel."""
    pods = tuple(
        changed(
            uid=WorkloadUID(f"p{number}"),
            tunnel_protocol=tunnel,
            status=WorkloadStatus.HEALTHY if healthy else WorkloadStatus.UNHEALTHY,
            capacity=capacity,
            services={KEY: (Port(80, target),)},
        )
        for number, (tunnel, healthy, capacity, target) in enumerate(shapes)
    )
    by_uid = {pod.uid: pod for pod in pods}
    answer = route(mesh(*pods))
    assert isinstance(answer, Forward | Refuse)
    for endpoint in answer.endpoints if isinstance(answer, Forward) else ():
        pod = by_uid[WorkloadUID(endpoint.uid)]
        assert (endpoint.tunnel is not None) == (pod.tunnel_protocol is TunnelProtocol.HBONE)
        assert pod.status is WorkloadStatus.HEALTHY
        assert pod.capacity > 0
        assert endpoint.tunnel is None or endpoint.tunnel.expect == (str(pod.identity),)
