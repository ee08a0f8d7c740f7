"""The sockets of a workload's DNS, made in its network namespace. Everything here blocks."""

import errno
import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from meshapi.wire import DNS_PORT, PROXY_MARK
from nodeagent.linux import datagrams
from nodeagent.linux.conntrack import Tracking
from nodeagent.linux.datagrams import Datagram
from nodeagent.linux.errors import KernelError
from nodeagent.linux.sockets import has_loopback6, listener, original_destination

log = logging.getLogger(__name__)

PORT: Final = 53
POOL: Final = 4
"""Sockets that ask one resolver, each from a port that nobody else can know."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a workload's questions come in."""

    by_udp: tuple[socket.socket, ...]
    by_tcp: tuple[socket.socket, ...]
    tracking: Tracking | None = None
    """Where questions are redirected: it knows which resolver was meant."""

    def close(self) -> None:
        for one in (*self.by_udp, *self.by_tcp, *((self.tracking,) if self.tracking else ())):
            one.close()

    def meant(self, datagram: Datagram) -> str | None:
        """Which resolver a question was for; None if it was sent to us, by whoever knows our port."""
        if not is_own(datagram.meant[0]):
            return datagram.meant[0]
        try:
            found = self.tracking.meant(datagram.sender, datagram.meant) if self.tracking else None
        except OSError as error:
            log.debug("a question for nobody knows whom: %s", error)
            return None
        return found[0] if found and found[1] == PORT else None

    def meant_by(self, accepted: socket.socket) -> str:
        """Which resolver a connection is for; raises OSError if it is for none."""
        address, port = accepted.getsockname()[:2]
        if self.tracking and is_own(address):
            address, port = original_destination(accepted)
        if port != PORT:
            raise KernelError(errno.EADDRNOTAVAIL, "a connection for questions to DNS", detail="is for no resolver")
        return str(address)


def is_own(address: str) -> bool:
    """Whether this is where we are asked: nothing is said then of whom a question is for."""
    return address in {"127.0.0.1", "::1"}


def open_asked(port: int = DNS_PORT, *, redirected: bool = False) -> Asked:
    """Makes all of them in this namespace, or none; raises KernelError."""
    addresses = ("127.0.0.1", "::1") if has_loopback6() else ("127.0.0.1",)
    with ExitStack() as undo:
        by_udp = tuple(undo.enter_context(datagrams.taking(address, port, mark=PROXY_MARK)) for address in addresses)
        by_tcp = tuple(undo.enter_context(listener(address, port, mark=PROXY_MARK, transparent=True)) for address in addresses)
        tracking = undo.enter_context(Tracking()) if redirected else None
        undo.pop_all()
        return Asked(by_udp, by_tcp, tracking)


def open_answering(server: str) -> socket.socket:
    """Answers in the name of a resolver; raises KernelError."""
    return datagrams.answering(server, PORT, mark=PROXY_MARK)


def open_pool(server: str) -> tuple[socket.socket, ...]:
    """Asks a resolver by UDP; raises KernelError."""
    with ExitStack() as undo:
        try:
            made = tuple(undo.enter_context(datagrams.dialling(server, PORT, mark=PROXY_MARK)) for _ in range(POOL))
        except OSError as error:
            raise KernelError(error.errno or 0, f"resolver {server}") from error
        undo.pop_all()
        return made


def open_stream(server: str) -> socket.socket:
    """Not connected yet; raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_MARK)
    except OSError:
        made.close()
        raise
    return made
