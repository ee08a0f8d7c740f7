"""`python -m demo.bench [--part PART ...] [--rounds N] [--json FILE]`: the figures of the README, measured on this machine in one run."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from demo.bench.captures import measure_captures
from demo.bench.control import measure_control
from demo.bench.denials import measure_denials
from demo.bench.footprint import measure_footprint
from demo.bench.kubernetes import measure_kubernetes
from demo.bench.l7_config import measure_l7_config
from demo.bench.mesh import Say
from demo.bench.names import measure_names
from demo.bench.paths import measure_paths
from demo.bench.pod_start import measure_pod_start
from demo.bench.results import Result
from demo.bench.telemetry import measure_telemetry
from demo.bench.waypoints import measure_waypoints
from demo.report import make_console

PARTS: Mapping[str, Callable[[Say, int], list[Result]]] = {
    "paths": measure_paths,
    "captures": measure_captures,
    "telemetry": measure_telemetry,
    "denials": measure_denials,
    "names": measure_names,
    "footprint": measure_footprint,
    "control": measure_control,
    "kubernetes": measure_kubernetes,
    "pod-start": measure_pod_start,
    "l7-config": measure_l7_config,
    "waypoint": measure_waypoints,
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="this one alone; may be given again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    console = make_console()
    results: list[Result] = []
    for part in options.part or PARTS:
        results += PARTS[part](lambda text: console.print(f"  {text}", highlight=False), options.rounds)
    for result in results:
        result.show(console)
    if options.json:
        rows = {name: value for result in results for name, value in result.rows().items()}
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
