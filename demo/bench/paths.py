"""The way between two pods: direct, through two Envoys, and through the mesh, on one node and across nodes."""

from demo.bench.envoy import CLIENT_PORT, EnvoyPair
from demo.bench.measure import Lane, bulk, new_connections, round_trip, rounds
from demo.bench.mesh import APP_PORT, BenchMesh, Say, bench_mesh
from demo.bench.results import Comparison, Result

COST = "CPU of the proxies"
METRICS = (bulk(1, COST), bulk(4, COST), round_trip("p50"), round_trip("p99"), new_connections(COST))


def measure_paths(say: Say, count: int) -> list[Result]:
    """Bulk, round trips and connection rate on every path, side by side."""
    with bench_mesh(say) as mesh:
        envoys = EnvoyPair(mesh.cluster.directory / "envoy", mesh.pods["plain-1"], mesh.pods["plain-2"], APP_PORT)
        envoys.start()
        try:
            figures = rounds(mesh.load, _lanes(mesh, envoys), METRICS, count, say)
        finally:
            envoys.stop()
    return [Comparison(f"between two pods, medians of {count} rounds", METRICS, figures)]


def _lanes(mesh: BenchMesh, envoys: EnvoyPair) -> list[Lane]:
    shop, plain = mesh.pods["shop"].namespace, mesh.pods["plain-1"].namespace
    return [
        Lane("direct, one node", plain, f"{mesh.pods['plain-3'].ipv4}:{APP_PORT}"),
        Lane("direct, across nodes", plain, f"{mesh.pods['plain-2'].ipv4}:{APP_PORT}"),
        Lane("two Envoys, across nodes", plain, f"127.0.0.1:{CLIENT_PORT}", envoys.pids),
        Lane("nodemesh, one node", shop, f"{mesh.pods['api-1'].ipv4}:{APP_PORT}", mesh.proxies[:1]),
        Lane("nodemesh, across nodes", shop, f"{mesh.pods['api-2'].ipv4}:{APP_PORT}", mesh.proxies),
    ]
