"""What a waypoint's configuration costs the controller: all of it at once, and the news of one endpoint. Times are of CPU."""

import gc
import time
import tracemalloc
from dataclasses import dataclass
from statistics import median
from typing import Final

from control.envoy.built import SERVED
from control.envoy.proxies import ProxyKey
from control.envoy.view import ProxyView
from control.envoy.world import World
from control.model.mesh import Batch, Mesh
from control.model.settings import MeshSettings
from control.resources import Changes
from control.source.tree import FileTree
from demo import manifests
from demo.bench import routed
from demo.bench.l7_news import acknowledged_s
from demo.bench.mesh import Say
from demo.bench.results import Figures, Result
from demo.manifests import Manifest

SERVICES: Final = 1000
CHANGES: Final = 50
_NODE: Final = "n1"
_GATE: Final = ProxyKey("default", "gate")
_MB: Final = 1e6


def measure_l7_config(say: Say, _rounds: int) -> list[Result]:
    """On one core, in this process; then the same services at a controller with a real Envoy."""
    figures, told_s = built_figures(say, SERVICES, CHANGES), acknowledged_s(say, SERVICES, CHANGES)
    quantiles = {"median": median(told_s), "nine of ten": sorted(told_s)[len(told_s) * 9 // 10], "slowest": max(told_s)}
    told = {f"one endpoint: file written to Envoy's acknowledgement, {name} (ms)": value * 1000 for name, value in quantiles.items()}
    return [Figures({**figures, **told})]


def built_figures(say: Say, services: int, changes: int) -> dict[str, float]:
    """Of so many services: time, memory and size of all; then so many changes of one endpoint."""
    say(f"configuration of {services} services with routes")
    mesh = RoutedMesh(services)
    kept_bytes = mesh.kept_bytes()
    view, took_s = mesh.build()
    if view.failed or any(view.problems):
        raise RuntimeError(f"not translated as it should be: {view.failed}, {list(view.problems)[:3]}")
    sizes = [len(found.body) for kind in SERVED for name in view.names(kind) if (found := view.get(kind, name)) is not None]
    say(f"{changes} changes of an endpoint")
    news = [mesh.change(view, ready=number % 2 == 1) for number in range(changes)]
    return {
        f"{services} services: built and serialised (ms of CPU)": took_s * 1000,
        f"{services} services: memory that it keeps (MB)": kept_bytes / _MB,
        f"{services} services: resources": len(sizes),
        f"{services} services: size of them (MB)": sum(sizes) / _MB,
        "one endpoint: resources that are sent": median(one.resources for one in news),
        "one endpoint: into the model (ms of CPU)": median(one.model_s for one in news) * 1000,
        "one endpoint: built and serialised (ms of CPU)": median(one.built_s for one in news) * 1000,
    }


@dataclass(frozen=True)
class News:
    """What one change made: resources, the seconds until the model had it, and from there until they were ready to be sent."""

    resources: int
    model_s: float
    built_s: float


class RoutedMesh:
    """Services with routes as the controller knows them, read from manifests as it reads them; one waypoint for all."""

    def __init__(self, services: int) -> None:
        settings = MeshSettings()
        self._tree = FileTree(settings.root_namespace)
        self._mesh = Mesh(settings)
        texts = {name: routed.text(documents) for name, documents in routed.files(services, _GATE.name, _NODE)}
        texts["base"] = routed.text([manifests.node(_NODE, zone="a"), _gateway()])
        texts["changing"] = _changing(ready=True)
        self._mesh.apply(self._tree.update(texts))
        self._world = World(self._mesh)
        self._batches: list[Batch] = []
        self._mesh.watch_batches(self._batches.append)

    def build(self) -> tuple[ProxyView, float]:
        """All that the waypoint is served, and the seconds that it took: no answer is there from before."""
        self._world = World(self._mesh)
        gc.collect()
        begin = time.thread_time()
        view = ProxyView(self._world, _GATE)
        return view, time.thread_time() - begin

    def kept_bytes(self) -> int:
        """What the controller keeps for it while it is served. Never while it is timed: counting slows."""
        gc.collect()
        tracemalloc.start()
        try:
            view, _ = self.build()
            gc.collect()
            kept, _peak = tracemalloc.get_traced_memory()
            view.close()
        finally:
            tracemalloc.stop()
        return kept

    def change(self, view: ProxyView, *, ready: bool) -> News:
        """An endpoint that is not ready any more, or again."""
        told: list[Changes] = []
        unwatch = view.watch(told.append)
        changes = self._tree.update({"changing": _changing(ready=ready)})
        begin = time.thread_time()
        self._mesh.apply(changes)
        known = time.thread_time()
        for batch in self._batches:
            self._world.apply(batch)
        view.refresh()
        built = time.thread_time()
        self._batches.clear()
        unwatch()
        resources = sum(len(names) for one in told for names in one.values())
        if not resources:
            raise RuntimeError("the view says nothing of an endpoint that changed")
        return News(resources, known - begin, built - known)


def _changing(*, ready: bool) -> str:
    return routed.text([routed.changing_endpoint(_NODE, ready=ready)])


def _gateway() -> Manifest:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": _GATE.name, "namespace": _GATE.namespace, "labels": {"istio.io/waypoint-for": "service"}},
        "spec": {
            "gatewayClassName": "nodemesh-waypoint",
            "addresses": [{"value": "192.0.2.9"}],
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }
