"""`python -m demo.bench [--rounds N] [--json FILE]`: the figures of the README, measured on this machine in one run."""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from demo import manifests
from demo.bench.control import certificates_per_s, decisions_per_s
from demo.bench.envoy import CLIENT_PORT, EnvoyPair
from demo.bench.measure import METRICS, IdleConnections, Lane, build_load, rounds
from demo.cluster import Cluster, basic_mesh, eventually
from demo.report import make_console
from demo.shell import Process
from demo.topology import Pod, Topology

APP_PORT = 7000
IDLE_CONNECTIONS = 10_000
PODS = 30
ENROLMENTS = 5
Figures = dict[str, float]


class Bench:
    """One run: the paths, then memory, enrolment and the control figures."""

    def __init__(self, cluster: Cluster, console: Console) -> None:
        self.cluster = cluster
        self.console = console
        self.load = build_load(cluster.directory)
        self.pods: dict[str, Pod] = {}
        self.servers: list[Process] = []

    def prepare(self) -> None:
        """The demo's mesh, with the load server in two pods and a second pair of pods that stay outside the mesh."""
        self.pods = basic_mesh(self.cluster, enrolled=True)
        for node, name in (("n1", "plain-1"), ("n2", "plain-2"), ("n1", "plain-3")):
            self.pods[name] = self.cluster.topology.add_pod(node, name)
        for name in ("api-1", "api-2", "plain-2", "plain-3"):
            command = [str(self.load), "serve", str(APP_PORT)]
            log = self.cluster.directory / f"serve-{name}.log"
            self.servers.append(Process(f"serve {name}", command, log, self.pods[name].namespace).start())
        self.cluster.start_controller()
        for node in ("n1", "n2"):
            self.cluster.start_agent(node)
        for name in ("shop", "api-1", "api-2"):
            self.cluster.enrol(self.pods[name], service_account="shop" if name == "shop" else "api")

    def paths(self, count: int) -> dict[tuple[str, str], float]:
        """Bulk, round trips and connection rate on every path, side by side."""
        shop, plain = self.pods["shop"].namespace, self.pods["plain-1"].namespace
        envoys = EnvoyPair(self.cluster.directory / "envoy", self.pods["plain-1"], self.pods["plain-2"], APP_PORT)
        envoys.start()
        proxies = tuple(pid for node in ("n1", "n2") if (pid := self.cluster.proxy_pid(node)))
        try:
            paths = [
                Lane("direct, one node", plain, f"{self.pods['plain-3'].ipv4}:{APP_PORT}"),
                Lane("direct, across nodes", plain, f"{self.pods['plain-2'].ipv4}:{APP_PORT}"),
                Lane("two Envoys, across nodes", plain, f"127.0.0.1:{CLIENT_PORT}", envoys.pids),
                Lane("nodemesh, one node", shop, f"{self.pods['api-1'].ipv4}:{APP_PORT}", proxies[:1]),
                Lane("nodemesh, across nodes", shop, f"{self.pods['api-2'].ipv4}:{APP_PORT}", proxies),
            ]
            return rounds(self.load, paths, count, self.say)
        finally:
            envoys.stop()

    def memory(self) -> Figures:
        """Resident memory of agent and proxy with 10,000 idle connections, and with 30 pods."""
        figures: Figures = {}
        self.say(f"{IDLE_CONNECTIONS} idle connections")
        path = Lane("idle", self.pods["shop"].namespace, f"{self.pods['api-2'].ipv4}:{APP_PORT}")
        with IdleConnections(self.load, path, IDLE_CONNECTIONS):
            figures |= self.resident(f"{IDLE_CONNECTIONS} idle connections")
        self.say(f"{PODS} more pods on n1")
        more = [self.cluster.topology.add_pod("n1", f"more-{number}") for number in range(PODS)]
        self.cluster.apply("more", [manifests.pod(pod, service_account="api", app="more") for pod in more])
        for pod in more:
            self.cluster.enrol(pod, service_account="api")
        return figures | {what: value for what, value in self.resident(f"{PODS} more pods").items() if "n1," in what}

    def enrolment(self) -> Figures:
        """From the entry in the node's list to the first answered call in mutual TLS, of a client that tries all the time.

        The server is STRICT: what is answered is not plaintext.
        """
        self.say("enrolling pods")
        self.cluster.start_app(self.pods["api-3"])
        self.cluster.enrol(self.pods["api-3"], service_account="api")
        self.cluster.apply("strict", [manifests.peer_authentication("strict", "STRICT", namespace="default")])
        took_ms = []
        for number in range(ENROLMENTS):
            pod = self.cluster.topology.add_pod("n1", f"late-{number}")
            self.cluster.apply(f"late-{number}", [manifests.pod(pod, service_account="shop", app="shop")])
            calls = self.cluster.keep_calling(pod.namespace, self.pods["api-3"].ipv4, 8080, name=f"late-{number}")
            eventually(partial(_any, calls, ok=False), "a refusal before enrolment")
            begin = time.time()
            self.cluster.list_pod(pod, service_account="shop")
            first = eventually(partial(_any, calls, ok=True), "an answer after enrolment")
            took_ms.append((first["at"] - begin) * 1000)
        return {"from a pod's entry in the list to its first answered call in mutual TLS (ms)": median(took_ms)}

    def resident(self, when: str) -> Figures:
        """Resident memory of each part in MB, and what of it is the agent's alone (the rest is library pages that processes share)."""
        figures = {f"{part}, {when} (MB)": value for part, value in self._resident().items()}
        for node, agent in self.cluster.agents.items():
            figures[f"agent {node}, {when}, not shared (MB)"] = psutil.Process(agent.pid).memory_full_info().uss / 1e6
        return figures

    def _resident(self) -> Figures:
        figures = {}
        for node, agent in self.cluster.agents.items():
            figures[f"agent {node}"] = psutil.Process(agent.pid).memory_info().rss / 1e6
            if pid := self.cluster.proxy_pid(node):
                figures[f"proxy {node}"] = psutil.Process(pid).memory_info().rss / 1e6
        return figures

    def say(self, text: str) -> None:
        """A line of progress."""
        self.console.print(f"  {text}", highlight=False)

    def close(self) -> None:
        """Ends the load servers."""
        for server in self.servers:
            server.stop()


def _any(calls: Callable[[], list[Any]], *, ok: bool) -> Any:
    return next((call for call in calls() if call["ok"] is ok), None)


def show(console: Console, figures: dict[tuple[str, str], float], others: Figures, count: int) -> None:
    """The tables."""
    names = list(dict.fromkeys(path for path, _ in figures))

    def row(what: str, form: str) -> list[str]:
        return [format(figures[name, what], form) if (name, what) in figures else "-" for name in names]

    table = Table(title=f"medians of {count} rounds")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for metric in METRICS:
        table.add_row(f"{metric.name} ({metric.unit}, {metric.better} is better)", *row(metric.name, ",.1f"))
        if metric.cost is not None:
            table.add_row(f"{metric.cost.name} ({metric.cost.unit}, less is better)", *row(metric.cost.name, ",.3f"))
    console.print(table)
    table = Table()
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in others.items():
        table.add_row(name, f"{value:,.1f}")
    console.print(table)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    console = make_console()
    with Topology() as topology, Cluster(topology) as cluster:
        bench = Bench(cluster, console)
        try:
            bench.say("building the mesh")
            bench.prepare()
            others = bench.resident("idle")
            figures = bench.paths(options.rounds)
            others |= bench.memory() | bench.enrolment()
        finally:
            bench.close()
    bench.say("decisions and certificates")
    others |= {"decisions per second (agent, one core)": decisions_per_s(), "certificates per second (one core)": certificates_per_s()}
    show(console, figures, others, options.rounds)
    if options.json:
        rows = {f"{path} | {metric}": value for (path, metric), value in figures.items()}
        options.json.write_text(json.dumps(rows | others, indent=2) + "\n")


if __name__ == "__main__":
    main()
