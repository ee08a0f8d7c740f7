"""control/admin/nodes.py and control/model/nodes.py: every node with what runs there, and how its agent is."""

from control.admin.nodes import reports
from control.model.nodes import NodeSummary, nodes
from control.xds.connection import AgentStatus
from control.xds.stream import Nack, TypeStatus
from tests.control.model.builders import Config

MESH = """
kind: Node
apiVersion: v1
metadata: {name: n1}
---
kind: Node
apiVersion: v1
metadata: {name: n2}
---
kind: Namespace
apiVersion: v1
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
kind: Pod
apiVersion: v1
metadata: {name: a, namespace: shop}
spec: {nodeName: n1, serviceAccountName: a}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
---
kind: Pod
apiVersion: v1
metadata: {name: b, namespace: shop, labels: {istio.io/dataplane-mode: none}}
spec: {nodeName: n1, serviceAccountName: a}
status: {phase: Running, podIP: 10.0.0.2, conditions: [{type: Ready, status: "False"}]}
"""


def held(*, pending: bool = False, refused: str = "") -> TypeStatus:
    nack = Nack(5.0, refused) if refused else None
    return TypeStatus(
        "x/istio.workload.Address", wildcard=False, keys=0, held=3, pending=pending, acks=1, nacks=0, acked_s=7.0, last_nack=nack
    )


def test_what_runs_where() -> None:
    assert nodes(Config(MESH).mesh) == [NodeSummary("n1", 2, 1, 1), NodeSummary("n2")]


def test_agents_are_told_of_with_their_nodes() -> None:
    known = [NodeSummary("n1", 2, 1, 1), NodeSummary("vm", 1, 1, machine=True)]
    streams = [AgentStatus("n1", "p", "c", 1.0, [held(refused="old")]), AgentStatus("n1", "q", "c", 2.0, [held(), held(pending=True)])]
    first, second = reports(known, [*streams])
    assert (first.node, first.connected, first.peer, first.behind, first.acked_s, first.refused) == ("n1", True, "q", True, 7.0, ())
    assert (second.node, second.connected, second.machine) == ("vm", False, True)
    (refusing,) = reports([], [AgentStatus("n3", "p", "c", 1.0, [held(refused="why")])])
    assert (refusing.workloads, refusing.refused) == (0, ("istio.workload.Address: why",))
