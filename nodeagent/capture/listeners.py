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
    """A unit's: for what it dials, on a port of its own, which depends on nothing but the unit if that is free."""
    addresses = (_LOOPBACK4, _LOOPBACK6) if has_loopback6() else (_LOOPBACK4,)
    for offset in range(len(PORTS)):
        port = PORTS[(unit + offset) % len(PORTS)]
        with ExitStack() as undo:
            try:
                sockets = [undo.enter_context(listener(address, port, mark=PROXY_MARK, transparent=True)) for address in addresses]
            except KernelError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            undo.pop_all()
            return tuple(Listener(ListenerKind.OUTBOUND, one) for one in sockets)
    raise KernelError(errno.EADDRINUSE, f"listener of a unit, ports {PORTS.start} to {PORTS.stop - 1}", "they are all in use")


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
