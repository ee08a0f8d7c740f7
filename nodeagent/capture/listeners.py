"""The proxy's listeners in a workload's namespace; docs/architecture.md, "Capture", says how connections get there."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from meshapi.wire import HBONE_PORT, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, PROBE_PORT, PROXY_MARK
from nodeagent.capture.marks import PROBE_MARK
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.sockets import has_loopback6, listener
from nodeagent.ztunnel.protocol import ListenerKind

_LOOPBACK4: Final = "127.0.0.1"
_LOOPBACK6: Final = "::1"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what connects to it. Whoever holds it closes it."""

    kind: ListenerKind
    socket: socket.socket


def open_listeners(namespace: Namespace) -> tuple[Listener, ...]:
    """Makes all of them, or none; raises KernelError. Blocks."""
    return namespace.run(_open)


def _open() -> tuple[Listener, ...]:
    ipv6 = has_loopback6()
    with ExitStack() as undo:
        made: list[Listener] = []

        def add(kind: ListenerKind, address: str, port: int, *, mark: int = PROXY_MARK, transparent: bool = False) -> None:
            made.append(Listener(kind, undo.enter_context(listener(address, port, mark=mark, transparent=transparent))))

        for address in (_LOOPBACK4, _LOOPBACK6) if ipv6 else (_LOOPBACK4,):
            add(ListenerKind.OUTBOUND, address, OUTBOUND_PORT, transparent=True)
            add(ListenerKind.INBOUND, address, INBOUND_PLAINTEXT_PORT, transparent=True)
            add(ListenerKind.PROBE, address, PROBE_PORT, mark=PROBE_MARK, transparent=True)
        add(ListenerKind.HBONE, "::" if ipv6 else "0.0.0.0", HBONE_PORT)
        undo.pop_all()
        return tuple(made)
