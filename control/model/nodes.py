"""The mesh by node: how many workloads each has, and how many of them are well."""

from msgspec import Struct

from control.kinds import Kind
from control.model.derivation import ADDRESS
from control.model.mesh import Mesh
from meshapi.workload import TunnelProtocol, Workload, WorkloadStatus


class NodeSummary(Struct, frozen=True):
    """`captured` are in mutual TLS; `machine`: a virtual machine, not a node of the cluster."""

    node: str
    workloads: int = 0
    captured: int = 0
    unhealthy: int = 0
    machine: bool = False


def nodes(mesh: Mesh) -> list[NodeSummary]:
    """Every node that the mesh knows, and every one that something runs on, by name."""
    counts: dict[str, list[int]] = {key.name: [0, 0, 0] for key in mesh.records if key.kind is Kind.NODE}
    of_cluster = set(counts)
    for name in mesh.names(ADDRESS):
        found = mesh.address(name)
        if found is None or not isinstance(found[0], Workload) or not found[0].node:
            continue
        count = counts.setdefault(found[0].node, [0, 0, 0])
        count[0] += 1
        count[1] += found[0].tunnel_protocol is TunnelProtocol.HBONE
        count[2] += found[0].status is WorkloadStatus.UNHEALTHY
    return [
        NodeSummary(node, workloads, captured, unhealthy, machine=node not in of_cluster)
        for node, (workloads, captured, unhealthy) in sorted(counts.items())
    ]
