"""How soon a real Envoy has the news of one endpoint: from the file that says it, through the controller, to the acknowledgement."""

import time
from contextlib import ExitStack
from typing import Final

from control.envoy.built import ENDPOINTS
from demo import manifests, waypoint
from demo.admin import ask
from demo.bench import routed
from demo.bench.mesh import Say
from demo.cluster import Cluster, eventually
from demo.manifests import Manifest
from demo.topology import Topology

_NODE: Final = "n1"
_WAIT_S: Final = 60.0


def acknowledged_s(say: Say, services: int, changes: int) -> list[float]:
    """Seconds of each of so many changes, one after the other, at a waypoint of so many services with routes."""
    say(f"a controller and an Envoy with {services} services")
    with ExitStack() as undo:
        topology = undo.enter_context(Topology())
        topology.add_node(_NODE)
        cluster = undo.enter_context(Cluster(topology, patience=3.0))
        cluster.apply("namespaces", [manifests.namespace("default", enrolled=True), manifests.node(_NODE, zone="a")])
        _change(cluster, ready=True)
        cluster.start_controller()
        gate = undo.enter_context(waypoint.running(cluster, node=_NODE))
        for name, documents in routed.files(services, gate.name, _NODE):
            (cluster.config / f"{name}.yaml").write_text(routed.text(documents))
        # One list of endpoints for each version of each service: all of a service's routes are to subsets.
        eventually(lambda: _endpoints(cluster)["held"] == services * len(routed.VERSIONS), "Envoy to have all", timeout_s=_WAIT_S)
        eventually(lambda: gate.synced, "Envoy to acknowledge all", timeout_s=_WAIT_S)
        say(f"{changes} changes of an endpoint")
        return [_acknowledged_s(cluster, ready=number % 2 == 1) for number in range(changes)]


def _acknowledged_s(cluster: Cluster, *, ready: bool) -> float:
    """By one clock: the controller notes when an acknowledgement came. It waits for a file to be quiet first, which is part of this."""
    before = _endpoints(cluster)["acks"]
    written_s = time.time()
    _change(cluster, ready=ready)
    eventually(lambda: _endpoints(cluster)["acks"] > before, "Envoy to acknowledge it", timeout_s=_WAIT_S)
    return float(_endpoints(cluster)["acked_s"]) - written_s


def _change(cluster: Cluster, *, ready: bool) -> None:
    cluster.apply("changing", [routed.changing_endpoint(_NODE, ready=ready)])


def _endpoints(cluster: Cluster) -> Manifest:
    """How far the only Envoy is with endpoints."""
    types: list[Manifest] = [one for proxy in ask(cluster.admin_socket, "/proxies") for one in proxy["types"]]
    return next((one for one in types if one["type_url"] == ENDPOINTS), {"held": 0, "acks": 0})
