"""Two enrolled pods in namespaces of their own, each served by a proxy process of its own that a stub agent tells what to do."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nodeagent.capture.listeners import open_listeners
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.ztunnel.protocol import AskRoute, Endpoint, Forward, Pass, Route, Settings, SetTrust, SetWorkload, Tunnel
from nodeagent.ztunnel.supervisor import BUNDLED
from tests.nodeagent.pods import Side, pair
from tests.nodeagent.ztunnel.proxy.authority import Authority
from tests.nodeagent.ztunnel.proxy.stub import Script, StubAgent, attributes, until

BINARY = Path(os.environ.get("NODEMESH_PROXY", BUNDLED))
BACKEND_PORT = 8080


def identity_of(name: str) -> str:
    return f"spiffe://cluster.local/ns/test/sa/{name}"


@dataclass
class Node:
    """A pod, the proxy that serves it, and the agent of that proxy."""

    name: str
    side: Side
    directory: Path
    script: Script
    agent: StubAgent
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return self.side.addresses[socket.AF_INET]

    @property
    def address6(self) -> str:
        return self.side.addresses[socket.AF_INET6]

    def restart_agent(self) -> None:
        self.agent.stop()
        self.start_agent()

    def start_agent(self) -> None:
        self.agent = StubAgent(self.directory / "decisions.sock", self.script)
        until(lambda: bool(self.agent.hellos))
        until(lambda: self.agent.report().request > 0)


@dataclass
class Mesh:
    client: Node
    server: Node
    authority: Authority


@contextmanager
def mesh(directory: Path, settings: Settings | None = None, *, workers: int = 2) -> Iterator[Mesh]:
    """Both pods captured and served; routes are HBONE to the other pod, verdicts allow."""
    assert BINARY.exists(), f"{BINARY} is missing: build the proxy first"
    authority = Authority()
    with ExitStack() as stack:
        sides = stack.enter_context(pair())
        nodes = []
        for name, side in (("client", sides.client), ("server", sides.pod)):
            nodes.append(stack.enter_context(node(name, side, directory, authority, settings or Settings(), workers)))
        both = Mesh(nodes[0], nodes[1], authority)
        for one, other in ((both.client, both.server), (both.server, both.client)):
            one.script.route = partial(hbone_route, to=other)
        yield both


@contextmanager
def node(name: str, side: Side, directory: Path, authority: Authority, settings: Settings, workers: int) -> Iterator[Node]:
    run = directory / name
    run.mkdir()
    with ExitStack() as stack:
        listeners = open_listeners(side.namespace)
        for listener in listeners:
            stack.enter_context(listener.socket)
        NftablesCapture().apply(side.namespace)
        workload = SetWorkload(
            uid=f"Kubernetes//Pod/test/{name}",
            generation=1,
            identity=identity_of(name),
            addresses=tuple(side.addresses.values()),
            listeners=tuple(listener.kind for listener in listeners),
            inbound_attributes=attributes(inbound=name),
            outbound_attributes=attributes(outbound=name),
            baggage=f"service.name={name}",
        )
        descriptors = [side.namespace.fileno(), *(listener.socket.fileno() for listener in listeners)]
        script = Script(
            workloads=[(workload, descriptors)],
            identities=[authority.issue(identity_of(name))],
            trust=SetTrust(roots={"cluster.local": authority.root_pem}),
            settings=settings,
        )
        agent = StubAgent(run / "decisions.sock", script)
        process = start_proxy(run, workers)
        made = Node(name, side, run, script, agent, process)
        stack.callback(_stop_agent, made)
        stack.callback(_end, process)
        until(lambda: bool(agent.hellos))
        # What answers a report has handled all that was sent before it.
        assert agent.report().connections == 0
        yield made


def start_proxy(run: Path, workers: int = 2) -> subprocess.Popen[bytes]:
    command = [str(BINARY), "--socket", str(run / "decisions.sock"), "--lock", str(run / "proxy.lock"), "--workers", str(workers)]
    with (run / "proxy.log").open("ab") as log:
        return subprocess.Popen(command, stderr=log)


def _stop_agent(node: Node) -> None:
    # Whichever it has by then.
    node.agent.stop()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def hbone_route(asked: AskRoute, to: Node, *, expect: tuple[str, ...] | None = None) -> Route:
    """To the pod's HBONE port if the destination is that pod's, else past the mesh."""
    host, _, _ = asked.destination.rpartition(":")
    address = host.strip("[]")
    if address not in to.side.addresses.values():
        return Pass(attributes=attributes(route="pass"))
    hbone = f"[{address}]:15008" if ":" in address else f"{address}:15008"
    tunnel = Tunnel(
        identity=identity_of("client" if to.name == "server" else "server"),
        authority=asked.destination,
        expect=expect or (identity_of(to.name),),
    )
    return Forward(endpoints=(Endpoint(uid=to.name, address=hbone, attributes=attributes(to=asked.destination), tunnel=tunnel),))


@contextmanager
def server(
    side: Side, serve: Callable[[socket.socket], None], *, port: int = BACKEND_PORT, family: int = socket.AF_INET
) -> Iterator[list[str]]:
    """An application in the pod: `serve` runs for each connection in a thread. Yields the clients' addresses as it saw them."""
    listening = side.open_socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.settimeout(None)
    side.namespace.run(listening.bind, ("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    listening.listen(128)
    seen: list[str] = []

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        while True:
            try:
                connection, peer = listening.accept()
            except OSError:
                return
            seen.append(peer[0])
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def echo(connection: socket.socket) -> None:
    """Sends back what comes, and its end."""
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Sends all, ends, and reads to the end, at once."""

    def send() -> None:
        with suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    received = bytearray()
    while part := connection.recv(1 << 20):
        received += part
    sender.join(5)
    return bytes(received)
