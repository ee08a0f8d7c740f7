"""The smoke test, in the guest: a whole mesh (controller, agent, proxy, pods) on every way to capture, the better ones taken away first.

From the last way to the best, since a module that is loaded does not go: each is what `--capture auto` must find then. At the end,
with everything there, each is asked for by name, one after the other, and takes over from the one before.
"""

import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from demo import manifests
from demo.cluster import Cluster, eventually
from demo.shell import CommandError, run
from demo.topology import Host, Pod, Topology
from nodeagent.capture.base import Way
from nodeagent.capture.choice import ways
from nodeagent.linux.namespaces import Namespace
from tests.kernels.guest import missing
from tests.kernels.report import Step, Verdict
from tests.nodeagent.pods import Side, family_of, refused
from tests.nodeagent.standin import Application

PORT = 8080
NODE = "n1"
NO_WAY = "auto: none"
REPOSITORY = Path(__file__).parents[3]
PATIENCE = 12.0
CALL_S = 20.0
PYTEST_DEADLINE_S = 600
REFUSAL_S = 2.0
"""Where there is nobody to refuse, an attempt is given up after so long."""
KERNEL_COMPLAINTS = ("BUG:", "WARNING:", "Oops", "Call Trace")


class Console:
    """Steps, as they are taken."""

    def __init__(self, nonce: str) -> None:
        self.nonce = nonce
        self.stage = ""
        self.steps = 0
        self.ended: list[str] = []

    @contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """A stage: it is left at the first step that fails, and the next one is tried."""
        self.stage = stage
        try:
            yield
        except StepFailed:
            return
        self.ended.append(stage)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Anything that is raised inside makes it a failed one, and ends the stage."""
        begin = time.monotonic()
        error = ""
        try:
            yield
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
            traceback.print_exc()
            raise StepFailed from raised
        finally:
            self.steps += 1
            print(Step(self.stage, name, round(time.monotonic() - begin, 1), error).line(), flush=True)

    def close(self) -> None:
        print(Verdict(self.nonce, platform.release(), tuple(self.ended), self.steps).line(), flush=True)


class StepFailed(Exception):
    """What went wrong has been said."""


class Mesh:
    """One node with three pods, `shop` and two servers, of which `strict` takes mutual TLS alone; and a host outside with a server."""

    def __init__(self, cluster: Cluster, undo: ExitStack) -> None:
        self.cluster = cluster
        topology = cluster.topology
        topology.add_node(NODE)
        self.pods = {name: topology.add_pod(NODE, name) for name in ("shop", "strict", "open")}
        outside = topology.add_host("outside")
        self.sides = {name: _side(pod, undo) for name, pod in self.pods.items()} | {"outside": _side(outside, undo)}
        documents = [manifests.node(NODE, zone="a"), *(manifests.service_account(name) for name in self.pods)]
        documents += [manifests.pod(pod, service_account=name, app=name) for name, pod in self.pods.items()]
        documents += [manifests.peer_authentication("strict", "STRICT", namespace="default", app="strict")]
        cluster.apply("namespaces", [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)])
        cluster.apply("mesh", documents)
        self.servers = {name: undo.enter_context(Application(self.sides[name], PORT)) for name in ("strict", "open", "outside")}
        cluster.start_controller()

    def start_agent(self, way: str, under: Sequence[str]) -> None:
        """An agent that captures, and all pods captured by it."""
        joined = (self.cluster.node_directory(NODE) / "token").exists()
        self.cluster.start_agent(NODE, f"--capture={way}", join=not joined, under=under)
        for name, pod in self.pods.items():
            self.cluster.enrol(pod, service_account=name)

    def kill(self) -> None:
        """Ends agent and proxy at once."""
        self.cluster.agents[NODE].stop(signal_number=signal.SIGKILL)
        proxy = self.cluster.proxy_pid(NODE)
        if proxy is None:
            raise RuntimeError("the proxy has gone before")
        os.kill(proxy, signal.SIGKILL)
        eventually(lambda: self.cluster.proxy_pid(NODE) is None, "the proxy to end", timeout_s=10 * PATIENCE)

    def way(self) -> str:
        """How the agent captures."""
        status = self.cluster.admin(NODE, "/status")
        print(f"capture by {status['capture']}: {status['capture_reason']}")
        return str(status["capture"])

    def ask(self, source: str, target: str, family: int, *, timeout_s: float = CALL_S) -> str:
        """Whom the application at the target saw; raises OSError if no answer came."""
        with self.sides[source].dial(self.sides[target].addresses[family], PORT, timeout_s=timeout_s) as made:
            made.sendall(b"hello")
            seen, _, word = made.recv(100).partition(b" ")
            if word != b"hello":
                raise ConnectionError(f"{seen!r} {word!r} came back")
            return seen.decode()

    def identities(self, source: str, target: str, family: int) -> tuple[str, str]:
        """Those that the proxy says a held connection has."""
        address = self.sides[target].addresses[family]
        with self.sides[source].dial(address, PORT, timeout_s=CALL_S) as made:
            made.sendall(b"hello")
            made.recv(100)
            for found in self.cluster.admin(NODE, "/connections"):
                if found["direction"] == "inbound" and address in found["destination"]:
                    return str(found["source_identity"]), str(found["destination_identity"])
        return "", ""

    def left(self) -> dict[str, str]:
        """What of a capture can be seen in the pods and on the node."""
        seen = {}
        for name, side in self.sides.items():
            for command in (("nft", "list", "ruleset"), ("ip", "rule"), ("ip", "-6", "rule"), ("ip", "route", "show", "table", "all")):
                seen[f"{name}: {' '.join(command)}"] = side.shell(*command, check=False)
            seen[f"{name}: sysctl"] = side.shell("sysctl", "net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect")
        pins = Path("/sys/fs/bpf/nodemesh")
        seen["pins"] = " ".join(str(path) for path in pins.rglob("*")) if pins.is_dir() else ""
        return seen


def _side(place: Pod | Host, undo: ExitStack) -> Side:
    namespace = undo.enter_context(Namespace.open(f"/run/netns/{place.namespace}"))
    return Side(place.namespace, namespace, {family_of(address): address for address in (str(place.ipv4), str(place.ipv6))})


def traffic(console: Console, mesh: Mesh) -> None:
    """What must work, and what must not, whichever way captures."""
    for family, word in zip(mesh.sides["shop"].addresses, ("IPv4", "IPv6"), strict=True):
        source = mesh.sides["shop"].addresses[family]
        with console.step(f"{word}: a pod calls one that is STRICT, which sees its address"):
            check(mesh.ask("shop", "strict", family), source)
        with console.step(f"{word}: the connection is mutual TLS as the two identities"):
            spiffe = "spiffe://cluster.local/ns/default/sa/"
            check(mesh.identities("shop", "strict", family), (f"{spiffe}shop", f"{spiffe}strict"))
        with console.step(f"{word}: a host outside is refused where it is STRICT"):
            check(refused(lambda family=family: mesh.ask("outside", "strict", family)), expected=True)
        with console.step(f"{word}: plaintext from outside reaches the other pod, which sees its address"):
            check(mesh.ask("outside", "open", family), mesh.sides["outside"].addresses[family])
        with console.step(f"{word}: a pod calls a host outside"):
            check(mesh.ask("shop", "outside", family), source)
    with console.step("nobody from outside reached the one that is STRICT"):
        peers = [mesh.servers["strict"].peers.get_nowait() for _ in range(mesh.servers["strict"].peers.qsize())]
        check(set(mesh.sides["outside"].addresses.values()) & set(peers), set())


def check(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


def alone(console: Console, mesh: Mesh, way: Way, better: Sequence[Way]) -> None:
    """A way is the best that is left: `auto` finds it, it works, and `down` leaves nothing."""
    under = missing.without(better)
    before = mesh.left()
    with console.step("an agent starts, and captures the pods"):
        mesh.start_agent(Way.AUTO.value, under)
    with console.step("it says that it captures this way"):
        check(mesh.way(), way.value)
    traffic(console, mesh)
    with console.step("nothing is left when the agent goes"):
        mesh.cluster.nodeagent(NODE, "down", "--drain", "0")
        mesh.cluster.agents[NODE].stop()
        left = mesh.left()
        check({what: found for what, found in left.items() if found != before[what]}, {})


def impossible(console: Console, mesh: Mesh) -> None:
    """Without any way an agent must not run as if there were one."""
    with console.step("an agent says that there is no way, and ends"):
        try:
            mesh.start_agent(Way.AUTO.value, missing.without(ways()))
        except CommandError as error:
            if "no way to capture" not in str(error):
                raise
        else:
            raise AssertionError("it runs")


def asked_for(console: Console, mesh: Mesh, way: Way) -> None:
    """The way is asked for; it takes over what another agent left captured."""
    with console.step("an agent that is asked to capture this way takes over"):
        mesh.start_agent(way.value, ())
        check(mesh.way(), way.value)
    traffic(console, mesh)
    with console.step("agent and proxy die, and the pods are closed"):
        mesh.kill()
        for family in mesh.sides["shop"].addresses:
            check(refused(lambda family=family: mesh.ask("outside", "open", family, timeout_s=REFUSAL_S)), expected=True)
            check(refused(lambda family=family: mesh.ask("shop", "outside", family, timeout_s=REFUSAL_S)), expected=True)


def stages(console: Console, mesh: Mesh) -> list[tuple[str, Callable[[], None]]]:
    """By name, in their order."""
    ladder = ways()
    lowest_first = range(len(ladder) - 1, -1, -1)
    return [
        (NO_WAY, partial(impossible, console, mesh)),
        *((f"auto: {ladder[index]}", partial(alone, console, mesh, ladder[index], ladder[:index])) for index in lowest_first),
        *((f"asked for: {way}", partial(asked_for, console, mesh, way)) for way in ladder),
    ]


def names(suites: Sequence[str]) -> list[str]:
    """Of the stages that must have run, with those of these tests."""
    ladder = ways()
    return [
        "the mesh",
        NO_WAY,
        *(f"auto: {way}" for way in reversed(ladder)),
        *(f"asked for: {way}" for way in ladder),
        *(f"tests: {suite}" for suite in suites),
        "the kernel",
    ]


def run_suite(suite: str) -> None:
    """Raises if one of the tests failed; pytest says which."""
    deadline = ["-o", f"timeout={PYTEST_DEADLINE_S}"]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *deadline, suite], cwd=REPOSITORY, check=False)
    check(done.returncode, 0)


def quiet_kernel() -> None:
    """Raises if the kernel complained."""
    found = [line for line in run(["dmesg"]).splitlines() if any(word in line for word in KERNEL_COMPLAINTS)]
    check(found, [])


def main() -> None:
    """Runs every stage, whatever became of the ones before; without the mesh there are none."""
    console = Console(sys.argv[1])
    run(["ip", "link", "set", "lo", "up"])
    with ExitStack() as undo:
        cluster = undo.enter_context(Cluster(undo.enter_context(Topology()), patience=PATIENCE))
        made: list[Mesh] = []
        with console.running("the mesh"), console.step("a controller, three pods, a host outside"):
            made.append(Mesh(cluster, undo))
        for name, stage in [found for mesh in made for found in stages(console, mesh)]:
            with console.running(name):
                stage()
            if name not in console.ended:
                print(tails(cluster), flush=True)
    for suite in filter(None, sys.argv[2:]):
        with console.running(f"tests: {suite}"), console.step("they pass"):
            run_suite(suite)
    with console.running("the kernel"), console.step("it complained of nothing"):
        quiet_kernel()
    console.close()


def tails(cluster: Cluster) -> str:
    """The ends of the logs."""
    logs = [*cluster.directory.glob("*.log"), *cluster.directory.glob("*/*.log"), *cluster.directory.glob("*/run/*.log")]
    return "\n".join(f"==> {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]) for log in logs)


if __name__ == "__main__":
    main()
