"""The proxy's listeners in a workload's namespace; docs/architecture.md, "Capture", says how connections get there."""

import errno
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from meshapi.wire import HBONE_PORT, INBOUND_PLAINTEXT_PORT, OUTBOUND_PORT, PROBE_PORT, PROXY_MARK
from nodeagent.capture.marks import PROBE_MARK
from nodeagent.capture.unit_rules import PORTS
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.sockets import has_loopback6, listener
from nodeagent.linux.units import Unit
from nodeagent.ztunnel.protocol import ListenerKind

_LOOPBACK4: Final = "127.0.0.1"
_LOOPBACK6: Final = "::1"
_ANY4: Final = "0.0.0.0"
_ANY6: Final = "::"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what connects to it. Whoever holds it closes it."""

    kind: ListenerKind
    socket: socket.socket


def open_listeners(namespace: Namespace) -> tuple[Listener, ...]:
    """Makes all of them, or none; raises KernelError. Blocks."""
    return namespace.run(_open_of_unit, namespace.id) if isinstance(namespace, Unit) else namespace.run(_open)


def _open_of_unit(unit: int) -> tuple[Listener, ...]:
    """A unit's, on ports of its own, which depend on nothing but the unit if they are free. What comes in is steered there."""
    for offset in range(len(PORTS)):
        with ExitStack() as undo:
            try:
                made = _listeners_of_unit(PORTS[(unit + offset) % len(PORTS)], undo)
            except KernelError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            undo.pop_all()
            return made
    raise KernelError(errno.EADDRINUSE, f"listener of a unit, ports {PORTS.start} to {PORTS.stop - 1}", "they are all in use")


def _listeners_of_unit(port: int, undo: ExitStack) -> tuple[Listener, ...]:
    """On `port` for what it dials; for plaintext and tunnels that come in on two others."""
    inbound, hbone = port + len(PORTS), port + 2 * len(PORTS)
    made: list[tuple[ListenerKind, socket.socket]] = []
    for address in (_LOOPBACK4, _LOOPBACK6) if has_loopback6() else (_LOOPBACK4,):
        made.append((ListenerKind.OUTBOUND, undo.enter_context(listener(address, port, mark=PROXY_MARK, transparent=True))))
        made.append((ListenerKind.INBOUND, undo.enter_context(listener(address, inbound, mark=PROXY_MARK))))
        made.append((ListenerKind.HBONE, undo.enter_context(listener(address, hbone, mark=PROXY_MARK))))
    return tuple(Listener(kind, one) for kind, one in made)


def _open() -> tuple[Listener, ...]:
    ipv6 = has_loopback6()
    with ExitStack() as undo:
        made: list[Listener] = []

        def add(
            kind: ListenerKind, address: str, port: int, *, mark: int = PROXY_MARK, transparent: bool = True, both: bool = False
        ) -> None:
            made.append(Listener(kind, undo.enter_context(listener(address, port, mark=mark, transparent=transparent, both=both))))

        for loopback, any_address in (_LOOPBACK4, _ANY4), (_LOOPBACK6, _ANY6):
            if loopback == _LOOPBACK6 and not ipv6:
                continue
            add(ListenerKind.OUTBOUND, loopback, OUTBOUND_PORT)
            add(ListenerKind.PROBE, loopback, PROBE_PORT, mark=PROBE_MARK)
            # Where connections are redirected, the kernel turns them to an address of the device that they came by.
            add(ListenerKind.INBOUND, any_address, INBOUND_PLAINTEXT_PORT)
        add(ListenerKind.HBONE, _ANY6 if ipv6 else _ANY4, HBONE_PORT, transparent=False, both=ipv6)
        undo.pop_all()
        return tuple(made)
