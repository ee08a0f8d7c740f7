"""What a question to DNS costs the agent: for a name of the mesh, and for one that it has asked a resolver for before."""

import json
import socket
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from demo.bench.mesh import Say
from demo.bench.results import Figures, Result
from demo.cluster import Cluster, basic_mesh
from demo.shell import run
from demo.topology import Pod, Topology
from nodeagent.linux.namespaces import Namespace

QUESTIONS: Final = 4000
NAMES: Final = {"of the mesh": "api.default.svc.cluster.local", "that is kept": "www.example"}


def measure_names(say: Say, count: int) -> list[Result]:
    """One pod asks; beyond the agent's limit for a pod it would wait."""
    say("building the mesh")
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology())))
        shop = basic_mesh(cluster, enrolled=True)["shop"]
        outside = cluster.topology.add_host("outside")
        undo.enter_context(_resolver(outside.namespace, str(outside.ipv4)))
        cluster.start_controller()
        cluster.start_agent("n1")
        cluster.enrol(shop, service_account="shop")
        agent = psutil.Process(cluster.agents["n1"].pid)
        figures: dict[str, float] = {}
        for what, name in NAMES.items():
            _ask(shop, str(outside.ipv4), name, QUESTIONS // 10)
            spent = [_round(agent, shop, str(outside.ipv4), name, say) for _ in range(count)]
            figures[f"agent's CPU for a question, name {what} (us)"] = statistics.median(spent)
        return [Figures(figures)]


def _round(agent: psutil.Process, pod: Pod, server: str, name: str, say: Say) -> float:
    before = agent.cpu_times()
    answered = _ask(pod, server, name, QUESTIONS)
    after = agent.cpu_times()
    spent_us = (after.user + after.system - before.user - before.system) / answered * 1e6
    say(f"{name}: {answered} answered, {spent_us:.0f} us each")
    return spent_us


def _ask(pod: Pod, server: str, name: str, count: int) -> int:
    command = ["env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, "-m", "demo.apps.asker", server, name, str(count)]
    said = json.loads(run(command, namespace=pod.namespace, timeout_s=60))
    return int(said["answered"])


@contextmanager
def _resolver(namespace: str, address: str) -> Iterator[None]:
    """Says the same address to every question of IPv4."""
    with Namespace.open(f"/run/netns/{namespace}") as opened:
        answering = opened.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    answering.bind((address, 53))

    def serve() -> None:
        while packet := answering.recvfrom(4096):
            asked, client = packet
            if not asked:  # the end
                return
            record = b"\xc0\x0c\0\1\0\1" + (300).to_bytes(4, "big") + b"\0\4" + socket.inet_aton("192.0.2.1")
            answering.sendto(asked[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + asked[12:] + record, client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):  # it wakes who waits, though there is no connection
            answering.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=5)
        answering.close()
