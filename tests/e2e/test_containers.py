"""A node without Kubernetes and without an engine before containerd: its labelled containers are workloads of the mesh."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo import manifests
from demo.topology import Pod
from tests.e2e.mesh import HTTP, Mesh
from tests.nodeagent.runtime.containerd import Containerd, containerd

NODE = "n3"
FILE = "containers"


@contextmanager
def node(mesh: Mesh) -> Iterator[tuple[Containerd, Pod]]:
    """A third node, whose agent follows a containerd, and a network for a container there."""
    cluster = mesh.cluster
    cluster.topology.add_node(NODE)
    box = cluster.topology.add_pod(NODE, "box")
    documents = [manifests.node(NODE, zone="c"), manifests.service_account("box"), manifests.pod(box, service_account="box", app="box")]
    strict = manifests.peer_authentication("box", "STRICT", namespace="default", app="box")
    # containerd sees the network namespaces that are there when it starts.
    with mesh.applied(FILE, *documents, strict), containerd() as engine:
        cluster.start_agent(NODE, f"--runtime=containers:{engine.socket}")
        try:
            yield engine, box
        finally:
            cluster.nodeagent(NODE, "down", "--drain", "0")


def test_a_container_of_containerd_is_in_the_mesh_while_it_bears_the_label(mesh: Mesh) -> None:
    shop, outside = mesh.pods["shop"], mesh.outside
    with node(mesh) as (engine, box):
        assert mesh.cluster.nodeagent(NODE, "status")
        mesh.cluster.start_app(box)
        assert mesh.call(outside, box.ipv4, HTTP).ok
        engine.run("box", network=box.netns_path, mode="ambient", account="box")
        mesh.wait(lambda: mesh.cluster.enrolled(box), "the container to be captured with its identity", timeout_s=20)
        mesh.wait(lambda: mesh.call(shop, box.ipv4, HTTP).ok, "a workload to reach it", timeout_s=20)
        assert mesh.call(shop, box.ipv6, HTTP).ok
        assert not mesh.call(outside, box.ipv4, HTTP).ok, "STRICT: who has no identity is refused"
        assert mesh.call(box, mesh.pods["api-2"].ipv4, HTTP).ok
        engine.stop()
        assert mesh.call(shop, box.ipv4, HTTP).ok, "containerd may come and go"
        engine.start()
        engine.ctr("containers", "label", "box", "istio.io/dataplane-mode=none")
        mesh.wait(lambda: mesh.workload(box).get("state", "leaving") == "leaving", "it to be let go", timeout_s=20)
        mesh.wait(lambda: mesh.call(outside, box.ipv4, HTTP).ok, "it to be like any other", timeout_s=20)
