"""Reports of the mesh, from a snapshot."""

from ipaddress import ip_address

from meshapi.authorization import Action, Policy, PolicyScope
from meshapi.workload import (
    BalancingMode,
    GatewayAddress,
    LoadBalancing,
    NetworkAddress,
    Port,
    Scope,
    Service,
    ServiceKey,
    TunnelProtocol,
    Workload,
    WorkloadStatus,
    WorkloadUID,
)
from nodeagent.admin import mesh
from nodeagent.admin.reports import PolicyReport, RemoteWorkloadReport, ServiceReport
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply

KEY = ServiceKey("shop/api")
POD = Workload(
    uid=WorkloadUID("api"),
    name="api",
    namespace="shop",
    addresses=(ip_address("10.0.0.9"),),
    tunnel_protocol=TunnelProtocol.HBONE,
    node="n1",
    services={KEY: ()},
    authorization_policies=("shop/selected",),
)
SICK = Workload(uid=WorkloadUID("sick"), name="sick", namespace="shop", status=WorkloadStatus.UNHEALTHY, services={KEY: ()})
SERVICE = Service(
    "api",
    "shop",
    "api",
    (NetworkAddress(ip_address("10.1.0.0"), prefix_bits=24), NetworkAddress(ip_address("fd01::1"))),
    (Port(80, 8080), Port(81)),
    waypoint=GatewayAddress(service=ServiceKey("shop/waypoint")),
    load_balancing=LoadBalancing((Scope.ZONE, Scope.NODE), BalancingMode.FAILOVER),
)
SNAPSHOT = apply(
    Snapshot(),
    Update(
        workloads=(POD, SICK),
        services=(SERVICE,),
        policies=(
            Policy("selected", "shop", PolicyScope.WORKLOAD_SELECTOR, Action.DENY, rules=((),)),
            Policy("all", "root", PolicyScope.GLOBAL, Action.ALLOW, dry_run=True),
            Policy("foreign", "other", PolicyScope.NAMESPACE, Action.ALLOW),
        ),
        rejected_policies=(("shop/bad", "unknown action"), ("other/foreign", "unknown field")),
    ),
).snapshot


def test_a_policy_that_is_named_here_and_has_not_come_is_missing() -> None:
    without = apply(SNAPSHOT, Update(removed_policies=("shop/selected",))).snapshot
    assert mesh.missing_policies(SNAPSHOT, {"api", "sick", "nobody"}) == ()
    assert mesh.missing_policies(without, {"api", "sick"}) == ("shop/selected",)
    assert mesh.missing_policies(without, {"sick"}) == ()
    refused = apply(without, Update(rejected_policies=(("shop/selected", "unknown action"),))).snapshot
    assert mesh.missing_policies(refused, {"api"}) == (), "it came, and is told of as what it is"


def test_workloads() -> None:
    reports = mesh.workloads(SNAPSHOT)
    assert [report.name for report in reports] == ["api", "sick"]
    assert reports[0] == RemoteWorkloadReport(
        "api", "shop", "api", "n1", "spiffe://cluster.local/ns/shop/sa/default", ("10.0.0.9",), "HBONE", "HEALTHY", ("shop/selected",)
    )


def test_services() -> None:
    assert mesh.services(SNAPSHOT) == [
        ServiceReport(
            "api",
            "shop",
            "api",
            ("10.1.0.0/24", "fd01::1"),
            ("80 -> 8080", "81 -> as the endpoint says"),
            endpoints=2,
            healthy_endpoints=1,
            balancing="FAILOVER ZONE, NODE",
            waypoint="shop/waypoint",
        )
    ]


def test_policies_name_the_workloads_here_that_they_hold_for_and_what_was_not_understood() -> None:
    assert mesh.policies(SNAPSHOT, {"api", "unknown"}) == [
        PolicyReport("foreign", "other", "namespace", "ALLOW", 0, error="unknown field"),
        PolicyReport("all", "root", "global", "ALLOW", 0, dry_run=True, workloads=("shop/api",)),
        PolicyReport("bad", "shop", "unknown", "denies where it may hold", 0, error="unknown action"),
        PolicyReport("selected", "shop", "selector", "DENY", 1, workloads=("shop/api",)),
    ]
