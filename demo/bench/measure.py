"""One measurement each, by the load program in a namespace; figures come back as plain numbers."""

import json
import resource
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from demo.cgroups import entering
from demo.shell import in_namespace, run

SECONDS = 2.0


@dataclass(frozen=True)
class Lane:
    """A way from a client to the server: the namespace of the client, and the address it dials.

    `processes` are those whose CPU time is its cost: proxies, or all that takes part; `client` says whether the client's is, too.
    `cpu`: the client runs on this one alone. `cgroup`: the client runs in it.
    """

    name: str
    namespace: str
    address: str
    processes: tuple[int, ...] = ()
    client: bool = False
    cpu: int | None = None
    cgroup: Path | None = None


@dataclass(frozen=True)
class Metric:
    """What is measured on a path, and how."""

    name: str
    unit: str
    better: str
    words: tuple[str, ...]
    """Of the load program's command line; the address comes behind the first."""
    key: str
    cost: "Cost | None" = None


@dataclass(frozen=True)
class Cost:
    """CPU time of a lane's processes for what a measurement moved: unlike its speed, hardly moved by what else the machine does."""

    name: str
    unit: str
    work: str


def bulk(streams: int, cost: str) -> Metric:
    """Bytes one way, and what a gigabyte costs."""
    what = f"{streams} stream{'s' if streams > 1 else ''}"
    words = ("bulk", str(SECONDS), str(streams))
    return Metric(f"bulk, {what}", "Gb/s", "more", words, "gigabits_per_s", Cost(f"{cost}, {what}", "s/GB", "gigabytes"))


def round_trip(quantile: str, cost: str | None = None) -> Metric:
    """One byte there and back: `p50` or `p99`."""
    cost_of = Cost(f"{cost}, round trips", "us each", "million_round_trips") if cost else None
    return Metric(f"round trip {quantile}", "us", "less", ("rtt", "5000"), f"{quantile}_us", cost_of)


def new_connections(cost: str) -> Metric:
    """Connections that carry a byte there and back, by four clients at once, and what one costs."""
    words = ("rate", str(SECONDS), "4")
    return Metric(
        "new connections", "1/s", "more", words, "connections_per_s", Cost(f"{cost}, new connections", "ms each", "thousand_connections")
    )


def refused_connections(cost: str) -> Metric:
    """Connections that come to nothing, by four clients at once, and what one costs."""
    words = ("refused", str(SECONDS), "4")
    cost_of = Cost(f"{cost}, refused connections", "ms each", "thousand_connections")
    return Metric("refused connections", "1/s", "more", words, "connections_per_s", cost_of)


def build_load(directory: Path) -> Path:
    """Compiles the load program."""
    binary = directory / "load"
    run(["rustc", "-O", "-o", str(binary), str(Path(__file__).parent / "load.rs")], timeout_s=120)
    return binary


def measure(load: Path, lane: Lane, metric: Metric) -> dict[str, float]:
    """The figure of one measurement, and its cost where processes are named for it, by their names."""
    before_s = _cpu_s(lane)
    pinned = [] if lane.cpu is None else ["taskset", "--cpu-list", str(lane.cpu)]
    verb, *words = metric.words
    command = entering(lane.cgroup, [*pinned, str(load), verb, lane.address, *words])
    result = json.loads(run(command, namespace=lane.namespace, timeout_s=60))
    figures = {metric.name: float(result[metric.key])}
    if metric.cost is not None and lane.processes:
        figures[metric.cost.name] = (_cpu_s(lane) - before_s) / float(result[metric.cost.work])
    return figures


def _cpu_s(lane: Lane) -> float:
    """Of the lane's processes so far; of clients, all that have ended."""
    times = [psutil.Process(pid).cpu_times() for pid in lane.processes]
    used_s = sum(time.user + time.system for time in times)
    if lane.client:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s += ended.ru_utime + ended.ru_stime
    return used_s


def rounds(
    load: Path, lanes: Sequence[Lane], metrics: Sequence[Metric], count: int, progress: Callable[[str], None]
) -> dict[tuple[str, str], float]:
    """Medians over `count` rounds; in each round every metric is taken on every lane, side by side, so that noise meets all alike."""
    figures: dict[tuple[str, str], list[float]] = {}
    for number in range(count):
        for metric in metrics:
            progress(f"round {number + 1} of {count}: {metric.name}")
            for lane in lanes if number % 2 == 0 else reversed(lanes):  # so that being first is nobody's advantage
                for name, value in measure(load, lane, metric).items():
                    figures.setdefault((lane.name, name), []).append(value)
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
