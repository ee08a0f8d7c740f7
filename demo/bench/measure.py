"""One measurement each, by the load program in a namespace; figures come back as plain numbers."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from demo.shell import in_namespace, run

SECONDS = 2.0


@dataclass(frozen=True)
class Lane:
    """A way from a client to the server: the namespace of the client, the address it dials, and the processes of the proxies between."""

    name: str
    namespace: str
    address: str
    proxies: tuple[int, ...] = ()


@dataclass(frozen=True)
class Metric:
    """What is measured on a path, and how."""

    name: str
    unit: str
    better: str
    arguments: Callable[[str], list[str]]
    key: str
    cost: "Cost | None" = None


@dataclass(frozen=True)
class Cost:
    """CPU time of the proxies for what a measurement moved: unlike its speed, hardly moved by what else the machine does."""

    name: str
    unit: str
    work: str


METRICS = (
    Metric(
        "bulk, 1 stream",
        "Gb/s",
        "more",
        lambda a: ["bulk", a, str(SECONDS), "1"],
        "gigabits_per_s",
        Cost("CPU of the proxies, 1 stream", "s/GB", "gigabytes"),
    ),
    Metric(
        "bulk, 4 streams",
        "Gb/s",
        "more",
        lambda a: ["bulk", a, str(SECONDS), "4"],
        "gigabits_per_s",
        Cost("CPU of the proxies, 4 streams", "s/GB", "gigabytes"),
    ),
    Metric("round trip p50", "us", "less", lambda a: ["rtt", a, "5000"], "p50_us"),
    Metric("round trip p99", "us", "less", lambda a: ["rtt", a, "5000"], "p99_us"),
    Metric(
        "new connections",
        "1/s",
        "more",
        lambda a: ["rate", a, str(SECONDS), "4"],
        "connections_per_s",
        Cost("CPU of the proxies, new connections", "ms each", "thousand_connections"),
    ),
)


def build_load(directory: Path) -> Path:
    """Compiles the load program."""
    binary = directory / "load"
    run(["rustc", "-O", "-o", str(binary), str(Path(__file__).parent / "load.rs")], timeout_s=120)
    return binary


def measure(load: Path, path: Lane, metric: Metric) -> dict[str, float]:
    """The figure of one measurement, and its cost where proxies carry the path, by their names."""
    before_s = _cpu_s(path.proxies)
    command = [str(load), *metric.arguments(path.address)]
    result = json.loads(run(command, namespace=path.namespace, timeout_s=60))
    figures = {metric.name: float(result[metric.key])}
    if metric.cost is not None and path.proxies:
        figures[metric.cost.name] = (_cpu_s(path.proxies) - before_s) / float(result[metric.cost.work])
    return figures


def _cpu_s(processes: tuple[int, ...]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in processes]
    return sum(time.user + time.system for time in times)


def rounds(load: Path, paths: list[Lane], count: int, progress: Callable[[str], None]) -> dict[tuple[str, str], float]:
    """Medians over `count` rounds; in each round every metric is taken on every path, side by side, so that noise meets all alike."""
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(count):
        for metric in METRICS:
            progress(f"round {number + 1} of {count}: {metric.name}")
            for path in paths:
                for name, value in measure(load, path, metric).items():
                    figures.setdefault((path.name, name), []).append(value)
    return {key: median(values) for key, values in figures.items()}


class IdleConnections:
    """Connections that stay open without traffic, from `with` to its end; each was proved by an echo, and is again at the end."""

    def __init__(self, load: Path, path: Lane, count: int) -> None:
        self._command = in_namespace(path.namespace, [str(load), "idle", path.address, str(count)])
        self._count = count
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout is None or f'"open": {self._count}' not in self._process.stdout.readline():
            raise RuntimeError(f"{self._count} idle connections could not be opened")

    def __exit__(self, kind: object, *_: object) -> None:
        if self._process is None:
            return
        output, _errors = self._process.communicate("", timeout=60)
        if kind is None and f'"alive": {self._count}' not in output:
            raise RuntimeError(f"not all of {self._count} idle connections were alive at the end: {output}")
