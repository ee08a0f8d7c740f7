"""Reports of what is known of the mesh, from a snapshot alone."""

from collections.abc import Collection

from meshapi.authorization import Policy, PolicyScope
from meshapi.workload import LoadBalancing, Service, Workload, WorkloadStatus, WorkloadUID
from nodeagent.admin.reports import PolicyReport, RemoteWorkloadReport, ServiceReport
from nodeagent.policy.authorize import applicable
from nodeagent.snapshot.snapshot import Snapshot


def workloads(snapshot: Snapshot) -> list[RemoteWorkloadReport]:
    """Every workload that is known, by uid."""
    return [
        RemoteWorkloadReport(
            name=workload.name,
            namespace=workload.namespace,
            uid=workload.uid,
            node=workload.node,
            identity=str(workload.identity),
            addresses=tuple(map(str, workload.addresses)),
            tunnel=workload.tunnel_protocol.name,
            health=workload.status.name,
            policies=workload.authorization_policies,
        )
        for workload in sorted(snapshot.workloads.values(), key=lambda workload: workload.uid)
    ]


def services(snapshot: Snapshot) -> list[ServiceReport]:
    """Every service that is known, by key."""
    return [_service(snapshot, service) for service in sorted(snapshot.services.values(), key=lambda service: service.key)]


def missing_policies(snapshot: Snapshot, local: Collection[str]) -> tuple[str, ...]:
    """The policies that workloads of this node name and that have not come in any form, sorted."""
    here = [workload for uid in local if isinstance(workload := snapshot.workload(WorkloadUID(uid)), Workload)]
    named = {key for workload in here for key in workload.authorization_policies}
    return tuple(sorted(key for key in named if snapshot.policy(key) is None and key not in snapshot.rejected))


def policies(snapshot: Snapshot, local: Collection[str]) -> list[PolicyReport]:
    """Every policy by key, with the workloads of this node that it holds for; those that could not be understood too."""
    holders: dict[str, list[str]] = {}
    for uid in sorted(local):
        workload = snapshot.workload(WorkloadUID(uid))
        if isinstance(workload, Workload):
            for policy in applicable(snapshot, workload):
                holders.setdefault(policy.key, []).append(f"{workload.namespace}/{workload.name}")
    reports = {
        key: _policy(compiled.policy, tuple(holders.get(key, ())), snapshot.rejected.get(key))
        for key, compiled in snapshot.policies_by_key.items()
    }
    for key, error in snapshot.rejected.items():
        if key not in reports:
            namespace, _, name = key.partition("/")
            reports[key] = PolicyReport(name, namespace, "unknown", "denies where it may hold", 0, error=error)
    return [reports[key] for key in sorted(reports)]


def _service(snapshot: Snapshot, service: Service) -> ServiceReport:
    members = list(snapshot.members(service.key))
    return ServiceReport(
        name=service.name,
        namespace=service.namespace,
        hostname=service.hostname,
        addresses=tuple(
            str(address.address) if address.prefix_bits is None else f"{address.address}/{address.prefix_bits}"
            for address in service.addresses
        ),
        ports=tuple(f"{port.service} -> {port.target or 'as the endpoint says'}" for port in service.ports),
        endpoints=len(members),
        healthy_endpoints=sum(member.status is WorkloadStatus.HEALTHY for member in members),
        balancing=_balancing(service.load_balancing),
        waypoint=", ".join(one.gateway.text for one in service.waypoints) or None,
    )


def _balancing(balancing: LoadBalancing | None) -> str:
    if balancing is None:
        return ""
    scopes = ", ".join(scope.name for scope in balancing.routing_preference)
    return f"{balancing.mode.name} {scopes}".strip()


def _policy(policy: Policy, workloads_here: tuple[str, ...], error: str | None) -> PolicyReport:
    scope = {PolicyScope.GLOBAL: "global", PolicyScope.NAMESPACE: "namespace", PolicyScope.WORKLOAD_SELECTOR: "selector"}[policy.scope]
    return PolicyReport(policy.name, policy.namespace, scope, policy.action.name, len(policy.rules), policy.dry_run, workloads_here, error)
