"""What `explain` says: the way, and the rule at its end."""

from ipaddress import ip_address

import msgspec
import pytest

from meshapi.authorization import Action, Exact, Match, Policy, PolicyScope, Present
from meshapi.workload import GatewayAddress, IPAddress, NetworkAddress, Port, Service, ServiceKey, TunnelProtocol, Workload, WorkloadUID
from nodeagent.policy.prefilter import Denial, Prefilter, compile_prefilter
from nodeagent.resolve.explain import Capture, explain
from nodeagent.resolve.explanation import Explanation, Outcome
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.protocol import Via

KEY = ServiceKey("default/api.default.svc.cluster.local")


def pod(name: str, last: int, **fields: object) -> Workload:
    return Workload(
        uid=WorkloadUID(f"Kubernetes//Pod/default/{name}"),
        name=name,
        namespace="default",
        service_account=name,
        addresses=(ip_address(f"10.0.0.{last}"),),
        tunnel_protocol=TunnelProtocol.HBONE,
        node="n2",
        **fields,  # type: ignore[arg-type]
    )


SHOP, API = pod("shop", 1), pod("api", 9, services={KEY: (Port(80, 8080),)})
SERVICE = Service("api", "default", "api.default.svc.cluster.local", (NetworkAddress(ip_address("10.1.0.1")),), (Port(80, 8080),))
ONLY_API = Policy(
    "only-api",
    "default",
    PolicyScope.NAMESPACE,
    Action.DENY,
    rules=((((Match(not_principals=(Exact("cluster.local/ns/default/sa/api"),)),)),),),
)
MESH = Update(workloads=(SHOP, API), services=(SERVICE,), policies_arrived=True)


def told(destination: str, *updates: Update, source: str = SHOP.uid, here: Capture | None = None) -> Explanation:
    snapshot = Snapshot()
    for update in (MESH, *updates):
        snapshot = apply(snapshot, update).snapshot
    return explain(snapshot, WorkloadUID(source), destination, here=here)


def test_a_call_is_told_step_by_step() -> None:
    explanation = told("api:80", here=Capture(captured=True, words="captured by nftables since 12:00"))
    assert explanation.outcome is Outcome.ALLOWED
    assert [(step.what, step.text) for step in explanation.steps] == [
        (
            "source",
            "Kubernetes//Pod/default/shop is captured by nftables since 12:00, its identity is spiffe://cluster.local/ns/default/sa/shop",
        ),
        ("destination", "api:80 is dialled as 10.1.0.1 port 80"),
        (
            "endpoint",
            (
                "Kubernetes//Pod/default/api at 10.0.0.9:8080 through 10.0.0.9:15008 in mutual TLS as "
                "spiffe://cluster.local/ns/default/sa/shop, expecting spiffe://cluster.local/ns/default/sa/api (weight 1)"
            ),
        ),
        ("verdict", "Kubernetes//Pod/default/api allows it: no ALLOW policy holds for the workload"),
    ]


@pytest.mark.parametrize(
    ("destination", "dialled"),
    [
        ("api", "10.1.0.1 port 80"),
        ("api.default:80", "10.1.0.1 port 80"),
        ("api.default.svc:80", "10.1.0.1 port 80"),
        ("api.default.svc.cluster.local", "10.1.0.1 port 80"),
        ("api.default.svc.cluster.local.:80", "10.1.0.1 port 80"),
        ("10.1.0.1", "10.1.0.1 port 80"),
        ("10.1.0.1:80", "10.1.0.1 port 80"),
        ("10.0.0.9", "10.0.0.9 port 8080"),
        ("10.0.0.9:9", "10.0.0.9 port 9"),
        ("default/api", "10.0.0.9 port 8080"),
        ("default/api:81", "10.0.0.9 port 81"),
        ("Kubernetes//Pod/default/api:81", "10.0.0.9 port 81"),
    ],
)
def test_how_a_destination_may_be_written(destination: str, dialled: str) -> None:
    assert told(destination).steps[1].text == f"{destination} is dialled as {dialled}"


def test_the_rule_that_denies_is_named() -> None:
    explanation = told("default/api", Update(policies=(ONLY_API,)))
    assert explanation.outcome is Outcome.DENIED
    assert explanation.steps[-1].text == "Kubernetes//Pod/default/api denies it: denied by default/only-api"


def test_a_source_outside_the_mesh_has_no_identity() -> None:
    outside = msgspec.structs.replace(SHOP, tunnel_protocol=TunnelProtocol.NONE)
    explanation = told("default/api", Update(workloads=(outside,), policies=(ONLY_API,)))
    assert explanation.outcome is Outcome.DENIED
    assert explanation.steps[0].text.endswith("not in the mesh: its calls go out in plaintext, without an identity")
    assert "in plaintext" in explanation.steps[2].text


def test_a_source_that_is_not_captured_yet_goes_out_as_nobody() -> None:
    waiting = Capture(captured=False, words="waiting on this node (its network namespace does not exist yet)")
    explanation = told("default/api", Update(policies=(ONLY_API,)), here=waiting)
    assert "is waiting on this node" in explanation.steps[0].text
    assert "in plaintext" in explanation.steps[2].text


def test_a_destination_outside_the_mesh_is_not_judged() -> None:
    outside = msgspec.structs.replace(API, tunnel_protocol=TunnelProtocol.NONE)
    assert told("default/api", Update(workloads=(outside,))).outcome is Outcome.OUTSIDE
    assert told("192.0.2.1:443", Update(absent=("/192.0.2.1",))).outcome is Outcome.OUTSIDE


def test_a_refused_route_is_told() -> None:
    explanation = told("api", Update(removed=(API.uid,)))
    assert (explanation.outcome, explanation.steps[-1].text) == (
        Outcome.DENIED,
        f"refused (UH): no usable endpoint of {KEY}: it has no endpoints",
    )


@pytest.mark.parametrize(
    ("source", "destination", "unknown"),
    [
        ("nobody", "api", ("nobody",)),
        (SHOP.uid, "other.far", ("far/other.far.svc.cluster.local",)),
        (SHOP.uid, "www.example.com:443", ("default/www.example.com",)),
        (SHOP.uid, "192.0.2.1:443", ("/192.0.2.1",)),
        (SHOP.uid, "192.0.2.1", ("/192.0.2.1",)),
        (SHOP.uid, "far/pod:1", ("Kubernetes//Pod/far/pod",)),
    ],
)
def test_what_is_not_known_is_named_so_that_it_can_be_asked_for(source: str, destination: str, unknown: tuple[str, ...]) -> None:
    explanation = told(destination, source=source)
    assert (explanation.outcome, explanation.unknown) == (Outcome.UNKNOWN, unknown)


def test_headless_services_and_missing_ports() -> None:
    headless = msgspec.structs.replace(SERVICE, addresses=())
    assert told("api:80", Update(services=(headless,))).steps[1].text == "api:80 is dialled as 10.0.0.9 port 8080"
    assert told("api:80", Update(services=(headless,), removed=(API.uid,))).outcome is Outcome.DENIED
    two = msgspec.structs.replace(SERVICE, ports=(Port(80), Port(81)))
    assert told("api", Update(services=(two,))).steps[-1].text == f"say which port, as in api:80: {KEY} has the ports 80, 81"
    assert "say which port" in told("default/shop").steps[-1].text


def test_what_the_kernel_refuses_is_said() -> None:
    """The table of the node that explains, for a caller outside of the mesh; of other nodes' tables nothing is known."""
    strict = Policy("strict", "default", PolicyScope.NAMESPACE, Action.DENY, rules=((((Match(not_principals=(Present(),)),)),),))
    outside = msgspec.structs.replace(SHOP, tunnel_protocol=TunnelProtocol.NONE)
    snapshot = apply(apply(Snapshot(), MESH).snapshot, Update(workloads=(outside,), policies=(strict,))).snapshot
    table = compile_prefilter(snapshot, API.uid)
    assert isinstance(table, Prefilter)

    def here(uid: str, source: IPAddress, destination: IPAddress, port: int, via: Via) -> Denial | None:
        return table.refusal(source, destination, port, via) if uid == API.uid else None

    said = explain(snapshot, SHOP.uid, "api:80", at_syn=here)
    assert said.outcome is Outcome.DENIED
    assert said.steps[-1].text == ("Kubernetes//Pod/default/api denies it: denied by default/strict; refused at the SYN by default/strict")
    assert explain(snapshot, SHOP.uid, "api:80").steps[-1].text == "Kubernetes//Pod/default/api denies it: denied by default/strict"


GATE = ServiceKey("default/gate.default.svc.cluster.local")
WAYPOINT = pod("gate", 5, services={GATE: (Port(15008, 15008),)})
GATE_SERVICE = Service("gate", "default", "gate.default.svc.cluster.local", ports=(Port(15008, 15008),))
BOUND = Update(workloads=(WAYPOINT,), services=(GATE_SERVICE, msgspec.structs.replace(SERVICE, waypoint=GatewayAddress(service=GATE))))
GUARD = Policy(
    "only_through_waypoint_service_api",
    "default",
    PolicyScope.NAMESPACE,
    Action.DENY,
    rules=(((Match(not_principals=(Exact("cluster.local/ns/default/sa/gate"),), destination_ports=(8080,)),),),),
)


def test_the_way_through_a_waypoint_is_told_to_its_end() -> None:
    explanation = told("api:80", BOUND, Update(policies=(GUARD,)))
    assert explanation.outcome is Outcome.ALLOWED
    assert [(step.what, step.text) for step in explanation.steps[2:]] == [
        (
            "waypoint",
            (
                "Kubernetes//Pod/default/gate at 10.1.0.1:80 through 10.0.0.5:15008 in mutual TLS as "
                "spiffe://cluster.local/ns/default/sa/shop, expecting spiffe://cluster.local/ns/default/sa/gate (weight 1)"
            ),
        ),
        (
            "waypoint",
            (
                "its routes and policies decide; what it sends on comes from spiffe://cluster.local/ns/default/sa/gate, "
                "which is who policies see from there on"
            ),
        ),
        (
            "endpoint",
            (
                "Kubernetes//Pod/default/api at 10.0.0.9:8080 through 10.0.0.9:15008 in mutual TLS as "
                "spiffe://cluster.local/ns/default/sa/gate, expecting spiffe://cluster.local/ns/default/sa/api (weight 1)"
            ),
        ),
        ("verdict", "Kubernetes//Pod/default/api allows it: no ALLOW policy holds for the workload"),
    ]


def test_a_policy_for_the_client_does_not_hold_behind_a_waypoint() -> None:
    for_shop = msgspec.structs.replace(
        GUARD, name="only-shop", rules=(((Match(not_principals=(Exact("cluster.local/ns/default/sa/shop"),)),),),)
    )
    explanation = told("api:80", BOUND, Update(policies=(for_shop,)))
    assert explanation.outcome is Outcome.DENIED
    assert explanation.steps[-1].text.endswith("denied by default/only-shop")


def test_a_way_around_the_waypoint_is_told_as_one() -> None:
    words = "which lets in its waypoint alone, since policies that only the waypoint can enforce hold for it"
    explanation = told("default/api:8080", BOUND, Update(policies=(GUARD,)))
    assert explanation.outcome is Outcome.DENIED
    assert explanation.steps[-1].text.endswith(f"denied by default/{GUARD.name}, {words}")
    outside = msgspec.structs.replace(SHOP, tunnel_protocol=TunnelProtocol.NONE)
    explanation = told("api:80", BOUND, Update(workloads=(outside,), policies=(GUARD,)))
    assert explanation.outcome is Outcome.DENIED
    assert explanation.steps[2].text == f"{SHOP.uid} is not in the mesh: it dials past the waypoint {WAYPOINT.uid}"


def test_a_waypoint_that_is_missing_is_told() -> None:
    gone = Update(removed=(GATE,), absent=(GATE,))
    explanation = told("api:80", BOUND, gone)
    assert explanation.outcome is Outcome.DENIED
    assert explanation.steps[-1].text == f"refused (UH): {KEY}: its waypoint {GATE} does not exist"
    explanation = told("api:80", BOUND, Update(removed=(GATE,)))
    assert (explanation.outcome, explanation.unknown) == (Outcome.UNKNOWN, (GATE,))
