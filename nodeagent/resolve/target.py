"""What a written destination means to a source: the address and port that its connections are dialled to."""

from dataclasses import dataclass
from typing import Final

from meshapi.workload import IPAddress, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.policy.addresses import AddressError, parse_address, parse_socket_address, plain
from nodeagent.resolve.endpoints import choose_address, target_port
from nodeagent.resolve.explanation import Explanation, Outcome, Step
from nodeagent.snapshot.view import Missing, View

CLUSTER_DOMAIN: Final = "cluster.local"
"""Of short service names; full ones say theirs."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the destination was written as, and the address that its callers dial."""

    text: str
    address: IPAddress
    port: int


def find_target(view: View, source: Workload, destination: str) -> Target | Explanation:
    """Finds the address and port that a written destination means, or explains why it can't."""
    try:
        address, port = parse_socket_address(destination)
    except AddressError:
        return _find_named(view, source, destination)
    return Target(destination, address, port)


def _find_named(view: View, source: Workload, destination: str) -> Target | Explanation:
    name, port = _split_port(destination)
    try:
        address = parse_address(name.strip("[]"))
    except AddressError:
        pass
    else:
        return _at_address(view, source, address, destination)
    if "/" in name:
        uid = WorkloadUID(name) if name.count("/") > 1 else pod_uid(source.cluster, name)
        pod = view.workload(uid)
        if not isinstance(pod, Workload):
            return _not_there(destination, uid, pod)
        return _pod_target(pod, destination, source, port)
    key = service_key_of(source, name)
    service = view.service(key)
    if service is None:
        return Explanation(Outcome.UNKNOWN, (Step("destination", f"no service {key} is known"),), (key,))
    return _service_target(view, source, service, destination, port)


def pod_uid(cluster: str, name: str) -> WorkloadUID:
    """The uid of the pod that `namespace/name` means."""
    return WorkloadUID(f"{cluster}//Pod/{name}")


def service_key_of(source: Workload, host: str) -> ServiceKey:
    """The service that a host name means to a source: `name`, `name.namespace` and `name.namespace.svc...` are a cluster's own."""
    labels = host.rstrip(".").split(".")
    match labels:
        case [name]:
            return ServiceKey(f"{source.namespace}/{name}.{source.namespace}.svc.{CLUSTER_DOMAIN}")
        case [name, namespace] | [name, namespace, "svc"]:
            return ServiceKey(f"{namespace}/{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
        case [_, namespace, "svc", *_]:
            return ServiceKey(f"{namespace}/{'.'.join(labels)}")
    return ServiceKey(f"{source.namespace}/{'.'.join(labels)}")


def _split_port(text: str) -> tuple[str, int | None]:
    name, colon, digits = text.rpartition(":")
    if colon and digits.isascii() and digits.isdigit() and len(digits) <= 5 and (":" not in name or name.endswith("]")):
        return name, int(digits)
    return text, None


def _at_address(view: View, source: Workload, address: IPAddress, text: str) -> Target | Explanation:
    """An address without a port: the port is said by whose address it is."""
    found = view.address(source.network, address)
    match found:
        case Workload():
            return _pod_target(found, text, source, None)
        case (Service() as service, *_):
            return _service_target(view, source, service, text, None)
        case Missing.UNKNOWN:
            return Explanation(Outcome.UNKNOWN, (Step("destination", f"{address} is not known"),), (f"{source.network}/{address}",))
    return _which_port(text, "a port is needed")


def _service_target(view: View, source: Workload, service: Service, text: str, port: int | None) -> Target | Explanation:
    ports = [entry.service for entry in service.ports]
    if port is None and len(ports) == 1:
        port = ports[0]
    if port is None:
        return _which_port(text, f"{service.key} has the ports {', '.join(map(str, ports)) or 'none'}")
    own = [plain(address.address) for address in service.addresses]
    if not own:  # headless: its callers dial an endpoint
        members = sorted(view.members(service.key), key=lambda member: member.uid)
        for member in members:
            address = choose_address(member.addresses, like(source))
            if address is not None:
                return Target(text, address, target_port(service, member, port) or port)
        return Explanation(Outcome.DENIED, (Step("destination", f"{service.key} is headless and has no endpoints"),))
    address = choose_address(own, like(source))
    return Target(text, address or own[0], port)


def _pod_target(pod: Workload, text: str, source: Workload, port: int | None) -> Target | Explanation:
    address = choose_address(pod.addresses, like(source))
    if address is None:
        return Explanation(Outcome.UNKNOWN, (Step("destination", f"{pod.uid} has no address"),))
    ports = sorted({entry.target for entries in pod.services.values() for entry in entries if entry.target})
    if port is None and len(ports) == 1:
        port = ports[0]
    if port is None:
        return _which_port(text, f"{pod.uid} serves the ports {', '.join(map(str, ports)) or 'none that is known'}")
    return Target(text, address, port)


def _not_there(text: str, uid: WorkloadUID, found: Missing) -> Explanation:
    if found is Missing.ABSENT:
        return Explanation(Outcome.UNKNOWN, (Step("destination", f"{text}: there is no workload {uid}"),))
    return Explanation(Outcome.UNKNOWN, (Step("destination", f"{text}: workload {uid} is not known"),), (uid,))


def _which_port(text: str, why: str) -> Explanation:
    return Explanation(Outcome.UNKNOWN, (Step("destination", f"say which port, as in {text}:80: {why}"),))


def like(source: Workload) -> IPAddress:
    """An address of the family that the source would rather use."""
    return plain(source.addresses[0]) if source.addresses else parse_address("0.0.0.0")
