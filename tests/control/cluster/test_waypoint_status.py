"""What stands in the status of Services about their waypoints, also on a real API server, under the controller's own rights."""

from pathlib import Path

import pytest

from control.cluster.waypoint_status import ConditionPatch, patch_for
from control.kinds import Gateway, Kind, ObjectKey, Service
from control.kinds.core import ServiceCondition, ServiceStatus
from control.kinds.gateway import GatewaySpec
from control.kinds.metadata import Meta
from control.model.settings import MeshSettings
from control.model.waypoint_store import NOTHING, Bound
from control.model.waypoints import Binding, waypoint
from tests.control.cluster.test_replicas import until
from tests.control.kube_controller import kube_world
from tests.kube.cluster import Cluster

NOW, BEFORE = "2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"
GATE = ObjectKey(Kind.GATEWAY, "infra", "gate")
MISSING = Bound(Binding(GATE, None, "WaypointIsNotReady", "it does not exist"))
FOUND = waypoint(Gateway(metadata=Meta("gate", "infra"), spec=GatewaySpec("istio-waypoint")), None, (), MeshSettings())
ACCEPTED = Bound(Binding(GATE, FOUND), guarded=True)


def service(*conditions: ServiceCondition) -> Service:
    return Service(Meta("api", "shop"), status=ServiceStatus(conditions))


def stands(status: str, reason: str, message: str) -> ServiceCondition:
    return ServiceCondition("istio.io/WaypointBound", status, reason, message, BEFORE)


OTHER = ServiceCondition("example.com/Other", "True", "Fine", "")
TOLD = stands("False", "WaypointIsNotReady", "it does not exist")


def test_a_service_that_asks_for_no_waypoint_says_nothing_of_one() -> None:
    assert patch_for(service(OTHER), NOTHING, NOW) is None
    gone = patch_for(service(OTHER, TOLD), NOTHING, NOW)
    assert gone == ConditionPatch("shop", "api", None)
    assert gone.body == {"status": {"conditions": [{"type": "istio.io/WaypointBound", "$patch": "delete"}]}}


def test_what_stands_there_is_not_written_again() -> None:
    assert patch_for(service(OTHER, TOLD), MISSING, NOW) is None


@pytest.mark.parametrize(
    ("before", "bound", "expected", "since"),
    [
        (None, MISSING, ("False", "WaypointIsNotReady", "it does not exist"), NOW),
        (stands("True", "WaypointAccepted", "x"), MISSING, ("False", "WaypointIsNotReady", "it does not exist"), NOW),
        (stands("False", "AttachmentDenied", "x"), MISSING, ("False", "WaypointIsNotReady", "it does not exist"), BEFORE),
        (TOLD, ACCEPTED, ("True", "WaypointAccepted", "reached through the waypoint infra/gate"), NOW),
        (
            TOLD,
            Bound(ACCEPTED.binding),
            (
                "True",
                "WaypointAccepted",
                ("reached through the waypoint infra/gate; gateways go past it unless the label istio.io/ingress-use-waypoint says true"),
            ),
            NOW,
        ),
    ],
)
def test_what_is_written(before: ServiceCondition | None, bound: Bound, expected: tuple[str, str, str], since: str) -> None:
    patch = patch_for(service(*([before] if before else [])), bound, NOW)
    assert patch is not None
    assert patch.condition is not None
    assert (patch.condition["status"], patch.condition["reason"], patch.condition["message"]) == expected
    assert patch.condition["lastTransitionTime"] == since


async def test_a_service_on_a_cluster_says_what_became_of_its_label(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        namespace = world.namespace

        def put(use: str) -> None:
            spec = {"selector": {"app": "api"}, "ports": [{"name": "http", "port": 80}]}
            meta = {"name": "api", "namespace": namespace, "labels": {"istio.io/use-waypoint": use}}
            kube.admin.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})

        def said() -> dict[str, tuple[str, str]]:
            status = kube.admin.get("v1", "Service", "api", namespace).get("status") or {}
            return {one["type"]: (one["status"], one["reason"]) for one in status.get("conditions") or []}

        put("gate")
        await until(lambda: said() == {"istio.io/WaypointBound": ("False", "WaypointIsNotReady")}, "that it is missing")
        listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
        gateway = {"gatewayClassName": "istio-waypoint", "listeners": [listener], "addresses": [{"value": "10.9.8.1"}]}
        meta = {"name": "gate", "namespace": namespace}
        kube.admin.apply({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta, "spec": gateway})
        await until(lambda: said() == {"istio.io/WaypointBound": ("True", "WaypointAccepted")}, "that it is bound")
        put("none")
        await until(lambda: said() == {}, "that there is nothing to say any more")
