"""A pod that we serve and a stranger beside it: what most attacks need."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from nodeagent.ztunnel.protocol import AskVerdict, Settings
from tests.nodeagent.pods import Side, pair
from tests.nodeagent.ztunnel.proxy.attacks.peer import HBONE_PORT, Peer, client_context
from tests.nodeagent.ztunnel.proxy.authority import Authority
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Node, identity_of, node
from tests.nodeagent.ztunnel.proxy.stub import until


@dataclass
class Victim:
    served: Node
    stranger: Side
    authority: Authority
    directory: Path

    @property
    def backend(self) -> str:
        """The authority of the pod's application."""
        return f"{self.served.address}:{BACKEND_PORT}"

    def context(self, name: str = "client", *, issuer: Authority | None = None) -> ssl.SSLContext:
        return client_context(self.directory, (issuer or self.authority).issue(identity_of(name)))

    def dial(self, *, timeout_s: float = 5.0) -> socket.socket:
        return self.stranger.dial(self.served.address, HBONE_PORT, timeout_s=timeout_s)

    def begin(self, name: str = "client") -> Peer:
        """A TLS connection of a member of the mesh; made ready before it is dialled, since deadlines run from then on."""
        context = self.context(name)
        return Peer.over(self.dial(), context)

    def peer(self, name: str = "client") -> Peer:
        """The same behind its preface."""
        return self.begin(name).greet()

    def questions(self) -> list[AskVerdict]:
        return [one for one in self.served.agent.questions(AskVerdict) if isinstance(one, AskVerdict)]

    def resident_bytes(self) -> int:
        return self.served.agent.report().resident_bytes

    def cpu_s(self) -> float:
        """CPU time that the proxy has used since its start."""
        times = psutil.Process(self.served.process.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def victim(directory: Path, settings: Settings | None = None, *, workers: int = 2) -> Iterator[Victim]:
    authority = Authority()
    with pair() as sides, node("server", sides.pod, directory, authority, settings or Settings(), workers) as served:
        yield Victim(served, sides.client, authority, directory)


@contextmanager
def full_backlog(side: Side) -> Iterator[int]:
    """A port of an application that accepts nothing: further connections to it get no answer at all."""
    with ExitStack() as stack:
        listening = stack.enter_context(side.open_socket(socket.AF_INET))
        side.namespace.run(listening.bind, ("0.0.0.0", 0))
        listening.listen(0)
        port = int(listening.getsockname()[1])
        # The kernel takes one more than it was told.
        stack.enter_context(side.dial("127.0.0.1", port))
        yield port


def hold(over: threading.Event) -> None:
    """An application that does nothing with its connection until the test is over."""
    over.wait(20)


def heard_of(side: Side, seen: list[str]) -> list[str]:
    """Who has reached the application, complete: a connection of our own is accepted behind all that came before it."""
    before = seen.count("127.0.0.1")
    side.dial("127.0.0.1", BACKEND_PORT).close()
    until(lambda: seen.count("127.0.0.1") > before)
    return [source for source in seen if source != "127.0.0.1"]
