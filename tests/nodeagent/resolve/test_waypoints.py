"""What goes through a waypoint: to whom, asking for what, expecting whom; and that nothing goes past it."""

from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    NetworkAddress,
    NetworkMode,
    Port,
    Scope,
    Service,
    ServiceKey,
    TunnelProtocol,
    WeightedWaypoint,
    Workload,
    WorkloadStatus,
    WorkloadUID,
)
from nodeagent.resolve.answer import Unknown
from nodeagent.resolve.resolve import RouteQuestion, resolve
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.tracked import TrackedView
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.protocol import Endpoint, Forward, Pass, Refuse, Route, Tunnel
from tests.nodeagent.attributes import given_back

KEY = ServiceKey("shop/api.shop.svc.cluster.local")
GATE = ServiceKey("infra/waypoint.infra.svc.cluster.local")
BY_NAME = GatewayAddress(service=GATE)
BY_VIP = GatewayAddress(address=NetworkAddress(ip_address("10.1.0.9")))
BY_ADDRESS = GatewayAddress(address=NetworkAddress(ip_address("10.0.0.5")))
VIP = "10.1.0.1"


def pod(name: str, last: int, namespace: str = "shop", **fields: object) -> Workload:
    base = Workload(
        uid=WorkloadUID(name),
        name=name,
        namespace=namespace,
        service_account=name,
        addresses=(ip_address(f"10.0.0.{last}"), ip_address(f"fd00::{last}")),
        tunnel_protocol=TunnelProtocol.HBONE,
    )
    return msgspec.structs.replace(base, **fields)


WEB, POD = pod("web", 1), pod("api", 9, services={KEY: (Port(80, 8080),)})
# Not captured: a waypoint takes tunnels by itself.
WAYPOINT = pod("waypoint", 5, "infra", tunnel_protocol=TunnelProtocol.NONE, services={GATE: (Port(15008, 15008),)})
API = Service("api", "shop", "api.shop.svc.cluster.local", (NetworkAddress(ip_address(VIP)),), (Port(80, 8080),), waypoint=BY_NAME)
GATE_SERVICE = Service(
    "waypoint", "infra", "waypoint.infra.svc.cluster.local", (NetworkAddress(ip_address("10.1.0.9")),), (Port(15008, 15008),)
)


def changed(what: Workload | Service, **fields: object) -> Workload | Service:
    return msgspec.structs.replace(what, **fields)


def route(*things: Workload | Service, destination: str = VIP, port: int = 80, absent: tuple[str, ...] = ()) -> Route | Unknown:
    workloads = (WEB, *(thing for thing in things if isinstance(thing, Workload)))
    services = tuple(thing for thing in things if isinstance(thing, Service))
    snapshot = apply(Snapshot(), Update(workloads=workloads, services=services, absent=absent)).snapshot
    return resolve(snapshot, RouteQuestion(WEB.uid, ip_address(destination), port))


def endpoints(*things: Workload | Service, destination: str = VIP, port: int = 80) -> tuple[Endpoint, ...]:
    answer = route(*things, destination=destination, port=port)
    assert isinstance(answer, Forward), answer
    return answer.endpoints


def test_a_services_callers_go_to_its_waypoint_and_ask_for_what_they_dialled() -> None:
    (endpoint,) = endpoints(POD, API, WAYPOINT, GATE_SERVICE)
    assert (endpoint.uid, endpoint.address, endpoint.weight) == ("waypoint", "10.0.0.5:15008", 1)
    assert endpoint.tunnel == Tunnel(str(WEB.identity), f"{VIP}:80", (str(WAYPOINT.identity),))
    attributes = given_back(endpoint.attributes)
    assert attributes["destination_service"] == API.hostname
    assert attributes["destination_workload"] == "waypoint"
    assert attributes["destination_principal"] == str(WAYPOINT.identity)
    assert attributes["connection_security_policy"] == "mutual_tls"


@pytest.mark.parametrize("gateway", [BY_NAME, BY_VIP, BY_ADDRESS])
def test_a_waypoint_is_found_by_its_service_or_an_address(gateway: GatewayAddress) -> None:
    (endpoint,) = endpoints(POD, changed(API, waypoint=gateway), WAYPOINT, GATE_SERVICE)
    assert endpoint.address == "10.0.0.5:15008"


def test_the_asked_ip_family_is_kept_where_it_can_be() -> None:
    six = changed(API, addresses=(NetworkAddress(ip_address("fd01::1")),))
    (endpoint,) = endpoints(POD, six, WAYPOINT, GATE_SERVICE, destination="fd01::1")
    assert endpoint.address == "[fd00::5]:15008"
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.authority == "[fd01::1]:80"


def test_the_waypoint_listens_where_its_service_says() -> None:
    elsewhere = changed(WAYPOINT, services={GATE: (Port(15008, 16008),)})
    assert endpoints(POD, API, elsewhere, GATE_SERVICE)[0].address == "10.0.0.5:16008"
    other = changed(API, waypoint=GatewayAddress(service=GATE, hbone_port=15009))
    answer = route(POD, other, WAYPOINT, GATE_SERVICE)
    assert isinstance(answer, Refuse)
    assert "without the target port of 15009" in answer.reason


def test_the_names_that_the_waypoints_service_allows_for_are_expected_too() -> None:
    other = "spiffe://other.org/ns/a/sa/b"
    (endpoint,) = endpoints(POD, API, WAYPOINT, changed(GATE_SERVICE, subject_alt_names=(other,)))
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.expect == (str(WAYPOINT.identity), other)


def test_a_workloads_callers_go_to_its_waypoint_and_those_of_its_service_do_not() -> None:
    bound = changed(POD, waypoint=BY_NAME)
    (endpoint,) = endpoints(bound, WAYPOINT, GATE_SERVICE, destination="10.0.0.9", port=9999)
    assert endpoint.address == "10.0.0.5:15008"
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.authority == "10.0.0.9:9999"
    assert "destination_service" not in given_back(endpoint.attributes)
    (direct,) = endpoints(bound, changed(API, waypoint=None), WAYPOINT, GATE_SERVICE)
    assert direct.address == "10.0.0.9:15008"


def test_the_proxys_own_ports_are_not_reached_through_a_waypoint_either() -> None:
    answer = route(changed(POD, waypoint=BY_NAME), WAYPOINT, GATE_SERVICE, destination="10.0.0.9", port=15008)
    assert isinstance(answer, Refuse)
    assert "proxy's own" in answer.reason


def test_a_service_that_keeps_the_dialled_address_has_it_asked_for_at_the_waypoint() -> None:
    passthrough = changed(API, load_balancing=LoadBalancing(mode=BalancingMode.PASSTHROUGH), ports=())
    (endpoint,) = endpoints(passthrough, WAYPOINT, GATE_SERVICE, port=8443)
    assert endpoint.tunnel is not None
    assert endpoint.tunnel.authority == f"{VIP}:8443"


def test_a_service_that_keeps_the_dialled_address_does_not_lead_past_a_workloads_waypoint() -> None:
    passthrough = changed(API, load_balancing=LoadBalancing(mode=BalancingMode.PASSTHROUGH), waypoint=None)
    at_pod = changed(passthrough, addresses=(NetworkAddress(ip_address("10.0.0.9")),))
    (endpoint,) = endpoints(at_pod, changed(POD, waypoint=BY_NAME), WAYPOINT, GATE_SERVICE, destination="10.0.0.9")
    assert endpoint.uid == "waypoint"


def test_the_waypoint_itself_goes_past_the_waypoint() -> None:
    """One that is captured, too; else it would be its own next hop for ever."""
    own = {WorkloadUID("web"): changed(WEB, services={GATE: (Port(15008, 15008),)})}
    for gateway in (BY_NAME, BY_VIP):
        (endpoint,) = endpoints(own[WEB.uid], POD, changed(API, waypoint=gateway), WAYPOINT, GATE_SERVICE)
        assert endpoint.address == "10.0.0.9:15008"
    at_itself = GatewayAddress(address=NetworkAddress(ip_address("10.0.0.1")))
    (endpoint,) = endpoints(changed(POD, waypoint=at_itself), destination="10.0.0.9")
    assert endpoint.address == "10.0.0.9:15008"


def test_what_is_not_known_of_the_waypoint_is_asked_for() -> None:
    assert route(POD, API) == Unknown((GATE,), f"the waypoint {GATE} of {KEY}")
    assert route(POD, changed(API, waypoint=BY_VIP)) == Unknown(("/10.1.0.9",), f"the waypoint 10.1.0.9 of {KEY}")
    opaque = changed(WAYPOINT, network_mode=NetworkMode.HOST_NETWORK)
    assert route(POD, API, opaque, GATE_SERVICE) == Unknown(("/10.0.0.5",), f"whose addresses the endpoints of {GATE} have")


def test_the_answer_stands_on_the_waypoint_that_it_leads_to() -> None:
    snapshot = apply(Snapshot(), Update(workloads=(WEB, POD, WAYPOINT), services=(API, GATE_SERVICE))).snapshot
    view = TrackedView(snapshot)
    resolve(view, RouteQuestion(WEB.uid, ip_address(VIP), 80))
    assert GATE in view.needs
    for update in (Update(removed=(GATE,)), Update(removed=(WAYPOINT.uid,)), Update(workloads=(pod("second", 6, services={GATE: ()}),))):
        assert not view.depends_on.isdisjoint(apply(snapshot, update).touched)


@pytest.mark.parametrize(
    ("things", "words"),
    [
        ((POD, API, GATE_SERVICE), f"no usable endpoint of its waypoint {GATE}: it has no endpoints"),
        ((POD, API, GATE_SERVICE, changed(WAYPOINT, status=WorkloadStatus.UNHEALTHY)), "1 not healthy"),
        ((POD, API, GATE_SERVICE, changed(WAYPOINT, network="other")), "in another network"),
        ((POD, changed(API, waypoint=BY_ADDRESS), changed(WAYPOINT, status=WorkloadStatus.UNHEALTHY)), "10.0.0.5 is not healthy"),
        ((POD, changed(API, waypoint=GatewayAddress())), "has no address"),
    ],
)
def test_where_there_is_no_usable_waypoint_the_call_is_refused(things: tuple[Workload | Service, ...], words: str) -> None:
    answer = route(*things)
    assert isinstance(answer, Refuse), answer
    assert answer.flag == "UH"
    assert answer.reason.startswith(str(KEY))
    assert words in answer.reason
    assert given_back(answer.attributes)["destination_service"] == API.hostname


def test_a_waypoint_that_is_gone_is_no_reason_to_go_past_it() -> None:
    answer = route(POD, API, absent=(GATE,))
    assert isinstance(answer, Refuse)
    assert (answer.flag, answer.reason) == ("UH", f"{KEY}: its waypoint {GATE} does not exist")
    snapshot = apply(Snapshot(), Update(workloads=(WEB, POD), services=(API,), unreadable=(GATE,))).snapshot
    unreadable = resolve(snapshot, RouteQuestion(WEB.uid, ip_address(VIP), 80))
    assert isinstance(unreadable, Refuse)
    assert "could not be understood" in unreadable.reason


def test_a_port_that_the_service_does_not_have_is_refused_here() -> None:
    answer = route(POD, API, WAYPOINT, GATE_SERVICE, port=81)
    assert isinstance(answer, Refuse)
    assert "has no port 81" in answer.reason


def test_the_waypoints_workloads_are_balanced_as_its_service_says() -> None:
    near = changed(WAYPOINT, uid=WorkloadUID("near"), node="n1", capacity=3)
    far = changed(WAYPOINT, uid=WorkloadUID("far"), node="n2")
    gate = changed(GATE_SERVICE, load_balancing=LoadBalancing((Scope.NODE,), BalancingMode.FAILOVER))
    chosen = endpoints(changed(WEB, node="n1"), POD, API, near, far, gate)
    assert [(one.uid, one.tier, one.weight) for one in chosen] == [("near", 0, 3), ("far", 1, 1)]


def test_several_waypoints_share_by_weight_whatever_their_number_of_workloads() -> None:
    second = ServiceKey("infra/second.infra.svc.cluster.local")
    others = [pod(f"w{n}", 20 + n, "infra", services={second: (Port(15008, 15008),)}) for n in range(2)]
    second_service = changed(GATE_SERVICE, name="second", hostname="second.infra.svc.cluster.local", addresses=())
    weighted = (WeightedWaypoint(BY_NAME, 1), WeightedWaypoint(GatewayAddress(service=second), 3))
    shared = changed(API, waypoint=None, weighted_waypoints=weighted)
    chosen = endpoints(POD, shared, WAYPOINT, GATE_SERVICE, second_service, *others)
    assert {one.uid: one.weight for one in chosen} == {"waypoint": 1000, "w0": 1500, "w1": 1500}
    # One without usable workloads leaves all to the others; without any, and with none that has a weight, there is no way.
    assert [one.uid for one in endpoints(POD, shared, WAYPOINT, GATE_SERVICE, second_service)] == ["waypoint"]
    no_weight = changed(shared, weighted_waypoints=(WeightedWaypoint(BY_NAME, 0),))
    answer = route(POD, no_weight, WAYPOINT, GATE_SERVICE)
    assert isinstance(answer, Refuse)
    assert "no weight" in answer.reason
    assert isinstance(route(POD, shared, WAYPOINT, GATE_SERVICE), Unknown)


_gateways = st.sampled_from([BY_NAME, BY_VIP, BY_ADDRESS, GatewayAddress(service=ServiceKey("x/none"))])
_states = st.sampled_from([WorkloadStatus.HEALTHY, WorkloadStatus.UNHEALTHY])


@settings(max_examples=150, deadline=None)
@given(_gateways, _states, st.sampled_from(TunnelProtocol), st.booleans(), st.sampled_from([VIP, "10.0.0.9"]), st.booleans())
def test_a_waypoint_is_never_bypassed(
    gateway: GatewayAddress, status: WorkloadStatus, tunnel: TunnelProtocol, is_there: bool, destination: str, known: bool
) -> None:
    """Whatever the waypoint is like: only its own workloads are dialled, always in a tunnel, and nothing passes through."""
    gate = (changed(WAYPOINT, status=status, tunnel_protocol=tunnel), GATE_SERVICE) if is_there else ()
    absent = (GATE, "/10.1.0.9", "/10.0.0.5", "x/none") if known and not is_there else ()
    answer = route(changed(POD, waypoint=gateway), changed(API, waypoint=gateway), *gate, destination=destination, absent=absent)
    assert not isinstance(answer, Pass)
    for endpoint in answer.endpoints if isinstance(answer, Forward) else ():
        assert endpoint.uid == "waypoint"
        assert endpoint.tunnel is not None
        assert endpoint.tunnel.authority == f"{destination}:80"
        assert endpoint.tunnel.expect == (str(WAYPOINT.identity),)
