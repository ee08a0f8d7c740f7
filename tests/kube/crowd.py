"""A cluster of ten thousand pods, as the API server keeps it: with all that real objects carry and the mesh does not read."""

from collections.abc import Iterator
from ipaddress import IPv4Address

from tests.kube.admin import Manifest
from tests.kube.objects import node, pod, pod_key, running, service, stored

PODS_A_NODE = 100
PODS_A_SERVICE = 10


def crowd(prefix: str, pods: int, pods_a_node: int = PODS_A_NODE) -> Iterator[tuple[str, Manifest]]:
    """Nodes, namespaces, services, slices and pods, each with the key that etcd has it under; ten pods to a service."""
    for number in range(pods // pods_a_node):
        name = f"{prefix}-n{number}"
        yield (
            f"/registry/minions/{name}",
            stored(node(name, labels={"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"})),
        )
    for number in range(pods // 1000):
        name = namespace_of(prefix, number * 1000)
        meta = {"name": name, "labels": {"istio.io/dataplane-mode": "ambient"}}
        yield f"/registry/namespaces/{name}", stored({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    for number in range(pods // PODS_A_SERVICE):
        yield from _service(prefix, number)
    for number in range(pods):
        namespace = namespace_of(prefix, number)
        yield pod_key(namespace, f"p{number}"), crowd_pod(prefix, number, pods_a_node)


def namespace_of(prefix: str, pod_number: int) -> str:
    return f"{prefix}-{pod_number // 1000}"


def address_of(pod_number: int) -> str:
    return str(IPv4Address("10.128.0.0") + pod_number + 1)


def crowd_pod(prefix: str, number: int, pods_a_node: int = PODS_A_NODE) -> Manifest:
    """About six kilobytes, as a pod of a Deployment has them."""
    labels = {"app": f"s{number // PODS_A_SERVICE}", "pod-template-hash": "5d4f8c7b9", "version": "v1"}
    made = pod(namespace_of(prefix, number), f"p{number}", node=f"{prefix}-n{number // pods_a_node}", labels=labels)
    made["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"s{number // PODS_A_SERVICE}-5d4f8c7b9", "uid": "u", "controller": True}
    ]
    made["metadata"]["managedFields"] = [
        {
            "manager": "kube-controller-manager",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {f"f:field-{index}": {} for index in range(60)}},
        }
    ]
    made["spec"]["containers"][0]["env"] = [
        {"name": f"VARIABLE_{index}", "value": f"some value of it, number {index}"} for index in range(40)
    ]
    return stored({**made, "status": running(address_of(number))})


def _service(prefix: str, number: int) -> Iterator[tuple[str, Manifest]]:
    first = number * PODS_A_SERVICE
    namespace = namespace_of(prefix, first)
    address = str(IPv4Address("10.100.0.0") + number + 1)
    item = service(namespace, f"s{number}", {"app": f"s{number}"}, address=address)
    item["spec"] |= {"clusterIPs": [address], "type": "ClusterIP", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
    yield f"/registry/services/specs/{namespace}/s{number}", stored(item)
    endpoints = [
        {
            "addresses": [address_of(one)],
            "conditions": {"ready": True},
            "targetRef": {"kind": "Pod", "namespace": namespace, "name": f"p{one}"},
        }
        for one in range(first, first + PODS_A_SERVICE)
    ]
    meta = {"name": f"s{number}-x", "namespace": namespace, "labels": {"kubernetes.io/service-name": f"s{number}"}}
    slices = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4"}
    ports = [{"name": "", "port": 8080, "protocol": "TCP"}]
    yield f"/registry/endpointslices/{namespace}/s{number}-x", stored({**slices, "endpoints": endpoints, "ports": ports})
