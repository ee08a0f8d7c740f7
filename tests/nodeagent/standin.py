"""A stand-in for the proxy and one for an application: threads and plain sockets, as docs/architecture.md says for "Capture"."""

import contextlib
import ipaddress
import queue
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Self

from meshapi.wire import CONNECTION_MARK, INBOUND_PLAINTEXT_PORT, PROXY_MARK
from nodeagent.capture.listeners import Listener
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent.pods import Side, family_of

SO_MARK, SO_ORIGINAL_DST, IP_TRANSPARENT, IPV6_TRANSPARENT = 36, 80, 19, 75


@dataclass
class Acceptor:
    """Accepts on sockets until closed; each connection is served in a thread."""

    sockets: list[socket.socket] = field(default_factory=list)
    connections: list[socket.socket] = field(default_factory=list)

    def listen(self, listening: socket.socket, serve: object) -> None:
        listening.settimeout(None)
        self.sockets.append(listening)
        threading.Thread(target=self._accept, args=(listening, serve), daemon=True).start()

    def _accept(self, listening: socket.socket, serve: object) -> None:
        with contextlib.suppress(OSError):
            while True:
                made, _ = listening.accept()
                self.connections.append(made)
                threading.Thread(target=self._guard, args=(serve, made), daemon=True).start()

    @staticmethod
    def _guard(serve: object, made: socket.socket) -> None:
        with contextlib.suppress(OSError), made:
            serve(made)  # type: ignore[operator]

    def stop_accepting(self) -> None:
        for listening in self.sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def close(self) -> None:
        self.stop_accepting()
        for made in self.connections:
            with contextlib.suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
            made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Application(Acceptor):
    """Listens in a namespace on all addresses; echoes what it gets behind the peer's address; `peers` are those it has seen."""

    def __init__(self, side: Side, port: int) -> None:
        super().__init__()
        self.peers: queue.Queue[str] = queue.Queue()
        both = socket.AF_INET6 in side.addresses
        listening = side.open_socket(socket.AF_INET6 if both else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::" if both else "0.0.0.0", port))
        listening.listen(64)
        self.listen(listening, self._serve)

    def _serve(self, made: socket.socket) -> None:
        host = plain(made.getpeername()[0])
        self.peers.put(host)
        while data := made.recv(65536):
            made.sendall(f"{host} ".encode() + data)


class Proxy(Acceptor):
    """Carries plaintext connections as the node proxy does; `seen` holds (kind, original destination)."""

    def __init__(self, pod: Side, listeners: tuple[Listener, ...], *, shares_network: bool = False) -> None:
        """`shares_network`: the application sees the host as its client, since the network is not the workload's alone."""
        super().__init__()
        self.pod = pod
        self._shares_network = shares_network
        self.seen: queue.Queue[tuple[ListenerKind, str, int]] = queue.Queue()
        serve = {ListenerKind.OUTBOUND: self._outbound, ListenerKind.INBOUND: self._inbound, ListenerKind.HBONE: self._hbone}
        serve[ListenerKind.PROBE] = self._inbound
        for listener in listeners:
            self.listen(listener.socket, serve[listener.kind])

    def _outbound(self, made: socket.socket) -> None:
        host, port = original_destination(made)
        self.seen.put((ListenerKind.OUTBOUND, host, port))
        with self.pod.open_socket(family_of(host)) as onward:
            onward.setsockopt(socket.SOL_SOCKET, SO_MARK, PROXY_MARK)
            onward.connect((host, port))
            pump(made, onward)

    def _inbound(self, made: socket.socket) -> None:
        host, port = original_destination(made)
        self.seen.put((ListenerKind.INBOUND, host, port))
        with self._towards_application(made) as onward:
            onward.connect((host, port))
            pump(made, onward)

    def _towards_application(self, made: socket.socket) -> socket.socket:
        if not self._shares_network:
            return transparent(self.pod, made.getpeername()[0])
        onward = self.pod.open_socket(made.family)
        onward.setsockopt(socket.SOL_SOCKET, SO_MARK, PROXY_MARK)
        onward.bind((made.getsockname()[0], 0))
        return onward

    def _hbone(self, made: socket.socket) -> None:
        self.seen.put((ListenerKind.HBONE, plain(made.getsockname()[0]), made.getsockname()[1]))
        made.sendall(b"hbone\n")


def plain(host: str) -> str:
    return host.removeprefix("::ffff:")


def transparent(pod: Side, source: str) -> socket.socket:
    """A socket of the pod that speaks to its application from `source`."""
    made = pod.open_socket(family_of(source))
    if made.family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_MARK, CONNECTION_MARK)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    made.bind((source, 0))
    return made


def original_destination(made: socket.socket) -> tuple[str, int]:
    host, port = made.getsockname()[:2]
    if not ipaddress.ip_address(host).is_loopback and port != INBOUND_PLAINTEXT_PORT:
        return host, port
    if made.family == socket.AF_INET6:
        raw = made.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return str(ipaddress.IPv6Address(raw[8:24])), struct.unpack_from("!H", raw, 2)[0]
    raw = made.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
    return str(ipaddress.IPv4Address(raw[4:8])), struct.unpack_from("!H", raw, 2)[0]


def pump(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    source.settimeout(None)
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
