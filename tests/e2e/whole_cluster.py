"""A cluster in which Kubernetes is all that anybody is told by: controller and agents on a real API server, and the real plugin."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from demo import cgroups
from demo.cluster import BIN, Cluster, eventually
from demo.shell import Process
from demo.topology import Pod, Topology
from tests.e2e.forwarder import Forwarder
from tests.e2e.kubernetes_node import AGENT, AGENT_NAMESPACE, BRIDGE, agent_token
from tests.e2e.mesh import Mesh
from tests.kube import objects
from tests.kube.cluster import Cluster as Kube
from tests.kube.rights import controller_kubeconfig
from tests.nodeagent.cni.plugin import Result, call


@dataclass
class Whole:
    """`nodes` are of this cluster alone; `namespace` is in the mesh."""

    kube: Kube
    cluster: Cluster
    mesh: Mesh
    nodes: tuple[str, str]
    namespace: str
    pods: dict[str, Pod] = field(default_factory=dict)
    uids: dict[str, str] = field(default_factory=dict)

    def start_pod(self, node: str, name: str, *, account: str = "default") -> tuple[Pod, Result]:
        """As scheduler, container runtime and kubelet start one; its status comes after the plugin's answer."""
        self.create(node, name, account=account)
        pod = self.connect(node, name)
        result = self.plugin("ADD", name)
        if result.ok:
            self.report_running(name)
        return pod, result

    def create(self, node: str, name: str, *, account: str = "default") -> None:
        """What a user and the scheduler do."""
        made = self.kube.admin.create(objects.pod(self.namespace, name, node=node, account=account))
        self.uids[name] = made["metadata"]["uid"]

    def connect(self, node: str, name: str) -> Pod:
        """The network that the plugin before ours makes."""
        self.pods[name] = self.cluster.topology.add_pod(node, name)
        return self.pods[name]

    def report_running(self, name: str) -> None:
        """What a kubelet says of a pod that runs."""
        pod = self.pods[name]
        self.kube.admin.status({**objects.pod(self.namespace, name), "status": objects.running(str(pod.ipv4), str(pod.ipv6))})

    def end_pod(self, name: str) -> None:
        """As kubelet and container runtime end one."""
        assert self.plugin("DEL", name).ok
        self.cluster.topology.remove_pod(self.pods.pop(name))
        self.kube.admin.delete("v1", "Pod", name, self.namespace)

    def plugin(self, command: str, name: str) -> Result:
        pod, uid = self.pods[name], self.uids[name]
        entry = json.loads((self.cluster.node_directory(pod.node) / "net.d/10-net.conflist").read_text())["plugins"][-1]
        result = {"cniVersion": "1.0.0", "ips": [{"address": f"{pod.ipv4}/24"}, {"address": f"{pod.ipv6}/64"}]}
        args = f"K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"
        config = {"cniVersion": "1.0.0", "name": "net", **entry, "prevResult": result}
        return asyncio.run(call(command, config, netns=pod.netns_path, args=args, CNI_CONTAINERID=f"c-{uid}"))


@contextmanager
def whole_cluster(kube: Kube) -> Iterator[Whole]:
    """Two nodes without pods; everything runs."""
    with ExitStack() as end:
        topology = end.enter_context(Topology())
        cluster = end.enter_context(Cluster(topology))
        nodes = (f"k{secrets.token_hex(2)}", f"k{secrets.token_hex(2)}")
        for name in nodes:
            host = topology.add_node(name)
            kube.admin.create(objects.node(name, address=str(host.ipv4)))
            kube.admin.status(objects.node(name, address=str(host.ipv4)))
        topology.add_host("controller")
        topology.add_host("outside")
        _start_controller(end, kube, cluster)
        for name in nodes:
            _start_agent(end, kube, cluster, name)
        namespace = kube.namespace("whole", labels={"istio.io/dataplane-mode": "ambient"})
        yield Whole(kube, cluster, Mesh(cluster, {}), nodes, namespace)


def _start_controller(end: ExitStack, kube: Kube, cluster: Cluster) -> None:
    host = cluster.topology.hosts["controller"]
    forwarder = end.enter_context(Forwarder(host.namespace, kube.port))
    kubeconfig, namespace = controller_kubeconfig(kube, cluster.directory, server=f"https://127.0.0.1:{forwarder.port}")
    command = [
        *(str(BIN / "meshctl"), "serve", "--source=kubernetes", f"--kubeconfig={kubeconfig}", f"--namespace={namespace}"),
        *(f"--agent-account={AGENT_NAMESPACE}/{AGENT}", f"--state={cluster.directory / 'controller'}", f"--hostname={host.ipv4}"),
        f"--admin-socket={cluster.admin_socket}",
    ]
    cluster.controller = Process("controller", command, cluster.directory / "controller.log", host.namespace).start()
    eventually(lambda: cluster.admin_socket.exists() and cluster.meshctl_ok("root"), "the controller to have its root", timeout_s=40)


def _start_agent(end: ExitStack, kube: Kube, cluster: Cluster, node: str) -> None:
    host, directory = cluster.topology.hosts[node], cluster.node_directory(node)
    for place in ("run", "bin", "net.d"):
        (directory / place).mkdir(parents=True)
    (directory / "net.d/10-net.conflist").write_text(json.dumps(BRIDGE))
    (directory / "root.pem").write_text(cluster.meshctl("root"))
    forwarder = end.enter_context(Forwarder(host.namespace, kube.port))
    kube.kubeconfig(directory / "kubeconfig", agent_token(kube, node), server=f"https://127.0.0.1:{forwarder.port}")
    pod = kube.admin.get("v1", "Pod", f"agent-{node}", AGENT_NAMESPACE)
    _private(directory / "token", kube.admin.token(AGENT_NAMESPACE, AGENT, audience="istio-ca", pod=pod))
    command = [
        *(str(BIN / "nodeagent"), f"--run-dir={directory / 'run'}", "run", f"--node={node}"),
        *(f"--controller={cluster.topology.hosts['controller'].ipv4}", f"--root-ca={directory / 'root.pem'}"),
        *(f"--token={directory / 'token'}", f"--runtime=kubernetes:{directory / 'kubeconfig'}", f"--state-dir={directory / 'state'}"),
        *(f"--cni-bin-dir={directory / 'bin'}", f"--cni-conf-dir={directory / 'net.d'}"),
    ]
    cgroup = cgroups.make(f"{cluster.topology.prefix}-{node}")
    cluster.agents[node] = Process(f"agent {node}", command, directory / "agent.log", host.namespace, cgroup=cgroup).start()
    eventually(lambda: cluster.ready(node), f"the agent of {node} to be ready", timeout_s=40)


def _private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)
