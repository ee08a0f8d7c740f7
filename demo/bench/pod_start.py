"""How much longer a pod takes to start in the mesh: from its creation, by API server and CNI plugin, to its first answered call."""

import time
from statistics import median

from demo.bench.mesh import Say
from demo.bench.results import Figures, Result
from tests.e2e.whole_cluster import Whole, whole_cluster
from tests.kube.cluster import Cluster as Kube

PODS = 20
CALL_S = 20.0


def measure_pod_start(say: Say, _rounds: int) -> list[Result]:
    """Medians over pods that start one after the other, on a node with those that have started."""
    kube = Kube()
    try:
        kube.start()
        kube.install_crds()
        with whole_cluster(kube) as whole:
            say(f"a cluster with an API server; {PODS} pods start on one node")
            return [_measure(whole)]
    finally:
        kube.stop()


def _measure(whole: Whole) -> Figures:
    near, far = whole.nodes
    target, added = whole.start_pod(far, "target")
    if not added.ok:
        raise RuntimeError(added.output)
    whole.cluster.start_app(target)
    network_ms, plugin_ms, called_ms = [], [], []
    for number in range(PODS):
        name = f"pod-{number}"
        # An account of its own: its certificate is made for this pod, and none that the node has already.
        whole.kube.service_account(whole.namespace, name)
        begin = time.perf_counter()
        whole.create(near, name, account=name)
        created = time.perf_counter()
        pod = whole.connect(near, name)
        connected = time.perf_counter()
        added = whole.plugin("ADD", name)
        admitted = time.perf_counter()
        whole.report_running(name)
        while not whole.mesh.call(pod, target.ipv4, timeout_s=CALL_S).ok:
            if time.perf_counter() - begin > CALL_S or not added.ok:
                raise RuntimeError(f"{name} is not served: {added.output}")
        called = time.perf_counter()
        network_ms.append(1000 * (connected - created))
        plugin_ms.append(1000 * (admitted - connected))
        called_ms.append(1000 * (called - begin - (connected - created)))
    for name in tuple(whole.pods):
        whole.end_pod(name)
    return Figures(
        {
            "namespace and addresses of a pod, without the mesh (ms)": median(network_ms),
            "the plugin's answer: captured, with an identity (ms)": median(plugin_ms),
            "pod created to its first answered call in mutual TLS, beyond its namespace (ms)": median(called_ms),
        }
    )
