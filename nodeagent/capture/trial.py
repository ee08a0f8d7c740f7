"""Trying a capture in an empty namespace: whether its rules hold, and whether connections come to the proxy by them, in and out.

A kernel may take rules that it does not carry out. So another namespace is joined to the first, and each direction is dialled once.
"""

import errno
import logging
import selectors
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from meshapi.wire import CONNECTION_MARK
from nodeagent.capture.base import Capture, CaptureState
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.linux import devices, netlink
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, run_in_empty
from nodeagent.linux.sockets import has_loopback6, transparent
from nodeagent.ztunnel.protocol import ListenerKind

log = logging.getLogger(__name__)

_DEVICE: Final = "trial0"
_POD: Final = {socket.AF_INET: "192.0.2.1/24", socket.AF_INET6: "2001:db8::1/64"}
_PEER: Final = {socket.AF_INET: "192.0.2.2/24", socket.AF_INET6: "2001:db8::2/64"}
"""Of documentation: in these namespaces there is nothing else."""
_PORT: Final = 8080  # one that needs no capability to listen on
_DEADLINE_S: Final = 10.0
"""Far more than it takes: a busy machine is no reason to go another way."""


def prove(capture: Capture) -> None:
    """Raises OSError, with what did not work. Blocks."""
    run_in_empty(_in_the_pods, capture)


def _in_the_pods(capture: Capture) -> None:
    netlink.raise_loopback()
    with _here() as pod:
        run_in_empty(_in_the_peers, capture, pod)


@contextmanager
def _here() -> Iterator[Namespace]:
    with Namespace.open("/proc/thread-self/ns/net") as namespace:
        yield namespace


def _in_the_peers(capture: Capture, pod: Namespace) -> None:
    families = (socket.AF_INET, socket.AF_INET6) if pod.run(has_loopback6) else (socket.AF_INET,)
    joined = _join(pod, families)
    with ExitStack() as undo:
        listeners = open_listeners(pod)
        for listener in listeners:
            undo.enter_context(listener.socket)
        undo.callback(capture.remove, pod)
        capture.apply(pod, listeners)
        found = capture.inspect(pod)
        if found.state is not CaptureState.CAPTURED:
            raise OSError(f"tried in an empty namespace, it was {found.state}: {found.problem}")
        for family in families if joined else ():
            _dial_each_way(pod, family, listeners)


def _join(pod: Namespace, families: Iterable[socket.AddressFamily]) -> bool:
    """Whether the two are joined: a kernel without such devices is not to blame a capture for it."""
    try:
        devices.join(_DEVICE, pod.fileno())
        devices.configure(_DEVICE, *(_PEER[family] for family in families))
        pod.run(devices.configure, _DEVICE, *(_POD[family] for family in families))
    except KernelError as error:
        log.warning("captures are tried without connections: %s", error)
        return False
    return True


def _dial_each_way(pod: Namespace, family: socket.AddressFamily, listeners: Iterable[Listener]) -> None:
    here, there = (addresses[family].split("/")[0] for addresses in (_PEER, _POD))
    words = "IPv6" if family == socket.AF_INET6 else "IPv4"
    of_family = {one.kind: one.socket for one in listeners if one.socket.family == family}
    with ExitStack() as undo:
        into, out = undo.enter_context(socket.socket(family)), undo.enter_context(pod.run(socket.socket, family))
        _expect(into, there, of_family[ListenerKind.INBOUND], f"an {words} connection from outside did not come to the proxy")
        _expect(out, here, of_family[ListenerKind.OUTBOUND], f"an {words} connection to the outside did not come to the proxy")
        application = undo.enter_context(pod.run(socket.create_server, (there, _PORT), family=family))
        onward = undo.enter_context(pod.run(transparent, here, mark=CONNECTION_MARK))
        _expect(onward, there, application, f"in a client's name the proxy does not reach an application by {words}")
        if not _answers(onward):
            raise KernelError(errno.ENETUNREACH, words, detail="an application's answer does not come back to the proxy")


def _expect(dialling: socket.socket, address: str, listening: socket.socket, otherwise: str) -> None:
    dialling.setblocking(False)  # noqa: FBT003 - the socket's own method
    dialling.connect_ex((address, _PORT))
    if not _ready(listening, selectors.EVENT_READ):
        raise KernelError(errno.ENETUNREACH, "a trial in an empty namespace", detail=otherwise)
    listening.accept()[0].close()


def _answers(dialling: socket.socket) -> bool:
    """Whether its connection was answered: it was accepted, but that may not have been heard."""
    return _ready(dialling, selectors.EVENT_WRITE) and dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def _ready(waiting: socket.socket, event: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(waiting, event)
        return bool(selector.select(_DEADLINE_S))
