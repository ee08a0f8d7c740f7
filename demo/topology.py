"""Network namespaces for a mesh on one machine: nodes with a bridge and pods each, hosts, and a router between them, IPv4 and IPv6.

pod  pod            pod  pod
 |    |              |    |
[bridge] node 1     [bridge] node 2     host (outside, controller, ...)
      \\                /                  |
       +---- router namespace -----------+
"""

import contextlib
import secrets
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Self

from demo.shell import CommandError, run

MAX_NODES = 8
MAX_PODS_PER_NODE = 200


@dataclass(frozen=True)
class Pod:
    """A pod's namespace and its addresses."""

    name: str
    node: str
    namespace: str
    ipv4: IPv4Address
    ipv6: IPv6Address

    @property
    def netns_path(self) -> str:
        return f"/run/netns/{self.namespace}"


@dataclass
class Host:
    """A namespace behind the router: a node (with pods behind its bridge) or a plain host."""

    name: str
    namespace: str
    number: int
    ipv4: IPv4Address
    ipv6: IPv6Address
    pods: dict[str, Pod] = field(default_factory=dict)

    @property
    def bridge_ipv4(self) -> IPv4Address:
        """Of the bridge behind which a node has its pods."""
        return IPv4Address(f"10.78.{self.number}.1")


class Topology:
    """Makes namespaces on demand and removes every one of them at the end; use it as a context manager."""

    def __init__(self, prefix: str | None = None, *, congestion: str | None = None) -> None:
        """`congestion`: how TCP paces itself in the namespaces, if not as on this machine."""
        self.prefix = prefix or f"nm{secrets.token_hex(2)}"
        self._congestion = {"net.ipv4.tcp_congestion_control": congestion} if congestion else {}
        self.router = f"{self.prefix}-router"
        self.hosts: dict[str, Host] = {}
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._add_namespace(self.router, forwarding=True)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes every namespace (and with them their devices)."""
        while self._namespaces:
            with contextlib.suppress(CommandError):
                run(["ip", "netns", "del", self._namespaces.pop()])

    def add_host(self, name: str) -> Host:
        """A namespace with a link to the router: 10.77.<number>.2 and fd77:<number>::2."""
        number = len(self.hosts) + 1
        if number > MAX_NODES:
            raise ValueError(f"at most {MAX_NODES} hosts")
        host = Host(name, f"{self.prefix}-{name}", number, IPv4Address(f"10.77.{number}.2"), IPv6Address(f"fd77:{number}::2"))
        self._add_namespace(host.namespace, forwarding=True)
        self._link(self.router, f"to-{name}", host.namespace, "uplink")
        self._address(self.router, f"to-{name}", IPv4Interface(f"10.77.{number}.1/24"), IPv6Interface(f"fd77:{number}::1/64"))
        self._address(host.namespace, "uplink", IPv4Interface(f"{host.ipv4}/24"), IPv6Interface(f"{host.ipv6}/64"))
        self._batch(host.namespace, [f"route add default via 10.77.{number}.1", f"route add ::/0 via fd77:{number}::1"])
        self.hosts[name] = host
        return host

    def add_node(self, name: str) -> Host:
        """A host with a bridge for pods: 10.78.<number>.0/24 and fd78:<number>::/64."""
        host = self.add_host(name)
        number = host.number
        self._batch(host.namespace, ["link add pods type bridge", "link set pods up"])
        self._address(host.namespace, "pods", IPv4Interface(f"{host.bridge_ipv4}/24"), IPv6Interface(f"fd78:{number}::1/64"))
        routes = [f"route add 10.78.{number}.0/24 via {host.ipv4}", f"route add fd78:{number}::/64 via {host.ipv6}"]
        self._batch(self.router, routes)
        return host

    def add_pod(self, node: str, name: str) -> Pod:
        """A pod behind a node's bridge, with one IPv4 and one IPv6 address: the lowest that are free, so that addresses are used again."""
        host = self.hosts[node]
        taken = {pod.ipv4 for pod in host.pods.values()}
        index = next(index for index in range(2, MAX_PODS_PER_NODE + 3) if IPv4Address(f"10.78.{host.number}.{index}") not in taken)
        if len(host.pods) >= MAX_PODS_PER_NODE:
            raise ValueError(f"at most {MAX_PODS_PER_NODE} pods on a node")
        pod = Pod(
            name=name,
            node=node,
            namespace=f"{self.prefix}-{name}",
            ipv4=IPv4Address(f"10.78.{host.number}.{index}"),
            ipv6=IPv6Address(f"fd78:{host.number}::{index:x}"),
        )
        self._add_namespace(pod.namespace, forwarding=False)
        self._link(host.namespace, f"p{index}", pod.namespace, "eth0")
        self._batch(host.namespace, [f"link set p{index} master pods"])
        self._address(pod.namespace, "eth0", IPv4Interface(f"{pod.ipv4}/24"), IPv6Interface(f"{pod.ipv6}/64"))
        gateway4, gateway6 = host.bridge_ipv4, f"fd78:{host.number}::1"
        self._batch(pod.namespace, [f"route add default via {gateway4}", f"route add ::/0 via {gateway6}"])
        # A former pod may have had these addresses: the node must not go on sending to its device.
        self._batch(host.namespace, [f"neigh flush to {pod.ipv4}", f"neigh flush to {pod.ipv6}"])
        host.pods[name] = pod
        return pod

    def remove_pod(self, pod: Pod) -> None:
        """Ends a pod's namespace; its addresses are free. What still holds the namespace (a process, a socket) keeps it, without a link."""
        run(["ip", "-netns", pod.namespace, "link", "del", "eth0"])
        run(["ip", "netns", "del", pod.namespace])
        self._namespaces.remove(pod.namespace)
        del self.hosts[pod.node].pods[pod.name]

    def _add_namespace(self, namespace: str, *, forwarding: bool) -> None:
        run(["ip", "netns", "add", namespace])
        self._namespaces.append(namespace)
        self._batch(namespace, ["link set lo up"])
        # No duplicate address detection: an address must be usable when the call returns.
        settings: dict[str, object] = {"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0, **self._congestion}
        if forwarding:
            settings |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
        run(["sysctl", "-q", *(f"{key}={value}" for key, value in settings.items())], namespace=namespace)

    def _link(self, namespace: str, device: str, peer_namespace: str, peer_device: str) -> None:
        run(["ip", "link", "add", device, "netns", namespace, "type", "veth", "peer", "name", peer_device, "netns", peer_namespace])
        self._batch(namespace, [f"link set {device} up"])
        self._batch(peer_namespace, [f"link set {peer_device} up"])

    def _address(self, namespace: str, device: str, ipv4: IPv4Interface, ipv6: IPv6Interface) -> None:
        self._batch(namespace, [f"addr add {ipv4} dev {device}", f"addr add {ipv6} dev {device} nodad"])

    @staticmethod
    def _batch(namespace: str, commands: list[str]) -> None:
        run(["ip", "-netns", namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")
