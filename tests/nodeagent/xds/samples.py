"""Resources for the tests of discovery."""

from hashlib import sha256
from ipaddress import ip_address

from meshapi.authorization import Action, Policy, PolicyScope, encode_policy
from meshapi.discovery import Resource
from meshapi.workload import NetworkAddress, Port, Service, ServiceKey, Workload, WorkloadUID, encode_service, encode_workload


def resource(name: str, body: bytes, *aliases: str) -> Resource:
    return Resource(name, sha256(body).hexdigest()[:12], body, aliases)


def workload(name: str, ip: str = "10.0.0.1", *services: str, node: str = "") -> Workload:
    return Workload(
        uid=WorkloadUID(f"Kubernetes//Pod/ns/{name}"),
        name=name,
        namespace="ns",
        addresses=(ip_address(ip),),
        node=node,
        services={ServiceKey(key): (Port(80, 8080),) for key in services},
    )


def workload_resource(value: Workload) -> Resource:
    return resource(value.uid, encode_workload(value))


def service(name: str, *vips: str) -> Service:
    return Service(
        name=name, namespace="ns", hostname=f"{name}.svc", addresses=tuple(NetworkAddress(ip_address(ip)) for ip in vips), ports=(Port(80),)
    )


def service_resource(value: Service) -> Resource:
    return resource(value.key, encode_service(value))


def policy(name: str, action: Action = Action.DENY) -> Policy:
    return Policy(name=name, namespace="ns", scope=PolicyScope.NAMESPACE, action=action)


def policy_resource(value: Policy) -> Resource:
    return resource(value.key, encode_policy(value))


def bad_policy_resource(name: str) -> Resource:
    return resource(f"ns/{name}", b"\x0a\x01x\x20\x63")
