"""What runs Gateways is made on a real API server: where the operator allows it, kept as it must be, and never what is somebody else's."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from control.cluster import gateway_deployments
from control.cluster.gateway_deployments import is_ours_to_run
from control.cluster.gateway_objects import Image
from tests.control.cluster.test_gateway_objects import gateway as as_read
from tests.control.cluster.test_gateway_status import API, HTTP, gateway, made
from tests.control.cluster.test_replicas import until
from tests.control.kube_controller import KubeWorld, kube_world
from tests.kube.admin import APIError, Manifest
from tests.kube.cluster import Cluster
from tests.kube.rights import ACCOUNT, DEPLOYMENTS, install_rights, let

IMAGE = Image("registry.example/nodemesh-envoy:1", "nodemesh-controller.nodemesh-system.svc")
KINDS = {"ServiceAccount": "v1", "Service": "v1", "Deployment": "apps/v1"}
LISTEN = "[{name: a, port: 80, protocol: HTTP}]"


@pytest.fixture
async def world(kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeWorld]:
    monkeypatch.setattr(gateway_deployments, "RETRY_S", 0.2)
    monkeypatch.setattr(gateway_deployments, "AGAIN_S", 1.0)
    async with kube_world(kube, tmp_path, image=IMAGE) as running:
        yield running


def found(kube: Cluster, kind: str, namespace: str, name: str = "gate") -> Manifest:
    return kube.admin.get(KINDS[kind], kind, name, namespace)


def programmed(kube: Cluster, namespace: str) -> tuple[str, str, str]:
    stated = kube.admin.get(API, "Gateway", "gate", namespace).get("status", {}).get("conditions", ())
    return next(((one["status"], one["reason"], one.get("message", "")) for one in stated if one["type"] == "Programmed"), ("", "", ""))


async def all_made(kube: Cluster, namespace: str) -> dict[str, Manifest]:
    return {kind: await until(lambda kind=kind: found(kube, kind, namespace), f"its {kind}") for kind in KINDS}


async def test_it_is_made_kept_and_goes_with_its_gateway(kube: Cluster, world: KubeWorld) -> None:
    namespace = kube.namespace("edge")
    let(kube, world.namespace, DEPLOYMENTS, namespace)
    uid = kube.admin.apply(gateway(namespace, HTTP))["metadata"]["uid"]
    parts = await all_made(kube, namespace)
    for part in parts.values():
        assert [one["uid"] for one in part["metadata"]["ownerReferences"]] == [uid], "the API server's garbage collection takes it away"
    assert parts["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE.name
    version = parts["Deployment"]["metadata"]["resourceVersion"]
    kube.admin.apply(gateway(namespace, HTTP, {**HTTP, "name": "more", "port": 8080}))
    await until(lambda: [one["port"] for one in found(kube, "Service", namespace)["spec"]["ports"]] == [80, 8080], "the new port")
    assert found(kube, "Deployment", namespace)["metadata"]["resourceVersion"] == version, "what is right is not changed"
    kube.admin.delete("v1", "Service", "gate", namespace)
    await until(lambda: found(kube, "Service", namespace), "it to be there again")
    # How many run is not ours to say: whoever scales it may.
    kube.admin.merge({**bare("Deployment", namespace), "spec": {"replicas": 3}})
    kube.admin.apply(gateway(namespace, HTTP))
    await until(lambda: len(found(kube, "Service", namespace)["spec"]["ports"]) == 1, "the port to be gone")
    assert found(kube, "Deployment", namespace)["spec"]["replicas"] == 3


def bare(kind: str, namespace: str, **more: Any) -> Manifest:
    return {"apiVersion": KINDS[kind], "kind": kind, "metadata": {"name": "gate", "namespace": namespace}, **more}


async def test_where_it_may_not_that_is_told(kube: Cluster, world: KubeWorld) -> None:
    namespace = kube.namespace("edge")
    kube.admin.apply(gateway(namespace, HTTP))
    await until(lambda: programmed(kube, namespace)[:2] == ("False", "NoResources"), "that it may not")
    assert "gatewayNamespaces" in programmed(kube, namespace)[2]
    let(kube, world.namespace, DEPLOYMENTS, namespace)
    await all_made(kube, namespace)
    # Its Service is one for a load balancer, and none has given it an address.
    await until(lambda: programmed(kube, namespace)[1] == "AddressNotAssigned", "that it is made")
    kube.admin.status(
        {**bare("Service", namespace), "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"hostname": "lb.example"}]}}}
    )
    await until(lambda: programmed(kube, namespace)[0] == "True", "its address")
    addresses = kube.admin.get(API, "Gateway", "gate", namespace)["status"]["addresses"]
    assert addresses == [{"type": "IPAddress", "value": "192.0.2.7"}, {"type": "Hostname", "value": "lb.example"}]


@pytest.mark.parametrize("kind", ["ServiceAccount", "Service", "Deployment"])
async def test_what_is_somebody_elses_is_left(kube: Cluster, world: KubeWorld, kind: str) -> None:
    namespace = kube.namespace("edge")
    let(kube, world.namespace, DEPLOYMENTS, namespace)
    theirs = kube.admin.create(bare(kind, namespace, **SPECS.get(kind, {})))
    kube.admin.apply(gateway(namespace, HTTP))
    await until(lambda: kind in programmed(kube, namespace)[2], "that it is there already")
    after = found(kube, kind, namespace)
    assert "ownerReferences" not in after["metadata"]
    assert after["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]
    if kind == "ServiceAccount":
        with pytest.raises(APIError):
            found(kube, "Deployment", namespace)
    kube.admin.delete(KINDS[kind], kind, "gate", namespace)
    await all_made(kube, namespace)


LABELS = {"app": "theirs"}
SPECS: dict[str, dict[str, Any]] = {
    "Service": {"spec": {"ports": [{"port": 80}]}},
    "Deployment": {
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "a", "image": "a"}]}},
        }
    },
}


async def test_waypoints_are_run_too_and_nobody_elses_classes(kube: Cluster, world: KubeWorld) -> None:
    namespace = kube.namespace("shop")
    let(kube, world.namespace, DEPLOYMENTS, namespace)
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    kube.admin.apply(made("Gateway", "theirs", namespace, {"gatewayClassName": "example", "listeners": [listener]}))
    kube.admin.apply(made("Gateway", "gate", namespace, {"gatewayClassName": "istio-waypoint", "listeners": [listener]}))
    parts = await all_made(kube, namespace)
    assert parts["Service"]["spec"]["type"] == "ClusterIP"
    (container,) = parts["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["waypoint", "run"]
    assert [one["metadata"]["name"] for one in kube.admin.list("apps/v1", "Deployment", namespace)] == ["gate"]


def test_the_rights_are_for_what_it_makes(kube: Cluster) -> None:
    controller, namespace = kube.namespace("controller"), kube.namespace("edge")
    install_rights(kube, controller)
    let(kube, controller, DEPLOYMENTS, namespace)
    client = kube.client(kube.admin.token(controller, ACCOUNT))
    for version, kind, name in (("v1", "Secret", "any"), ("v1", "Pod", "any"), ("rbac.authorization.k8s.io/v1", "Role", "any")):
        with pytest.raises(APIError) as refused:
            client.get(version, kind, name, namespace)
        assert refused.value.status == 403
    for version, kind in (("v1", "ServiceAccount"), ("v1", "Service"), ("apps/v1", "Deployment")):
        for act in (
            lambda v=version, k=kind: client.delete(v, k, "any", namespace),
            lambda v=version, k=kind: client.get(v, k, "any", controller),
        ):
            with pytest.raises(APIError) as refused:
                act()
            assert refused.value.status == 403, kind


def test_whose_it_is_to_run() -> None:
    assert is_ours_to_run(as_read("istio", LISTEN))
    assert not is_ours_to_run(as_read("istio", LISTEN, ", addresses: [{value: 192.0.2.1}]")), "whoever says where it is runs it"
    assert not is_ours_to_run(as_read("nodemesh-waypoint", "[]"))
    assert not is_ours_to_run(as_read("example", LISTEN))
