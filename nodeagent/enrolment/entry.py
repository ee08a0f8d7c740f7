"""One enrolled workload as the agent holds it: its namespace, its listeners, and how they are made, adopted and given back."""

import errno
import os
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import msgspec

from nodeagent.capture.base import Capture, CaptureState, Inspection
from nodeagent.capture.listeners import Listener, open_listeners
from nodeagent.enrolment.tally import Tally
from nodeagent.linux import netlink
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.units import Unit
from nodeagent.runtime.base import LocalWorkload
from nodeagent.ztunnel.protocol import Attributes, Held, ListenerKind, SetWorkload
from nodeagent.ztunnel.transport import Sender


class Description(msgspec.Struct, frozen=True):
    """What the proxy must know of a workload beside its sockets."""

    identity: str
    addresses: tuple[str, ...]
    inbound_attributes: Attributes
    outbound_attributes: Attributes
    identity_ready: bool
    """The proxy has, or is being sent, the certificate of `identity`."""
    baggage: str = ""


@dataclass(slots=True)
class Entry:
    """Owns its namespace and its listeners. `opened_s` is of the monotonic clock, `captured_since_s` Unix time."""

    workload: LocalWorkload
    generation: int
    namespace: Namespace
    listeners: tuple[Listener, ...]
    addresses: tuple[str, ...]
    inspection: Inspection
    opened_s: float
    adopted: bool = False
    captured_since_s: float | None = None
    announced: Description | None = None
    sent_descriptors: bool = False
    """The proxy of the current session holds the sockets of this generation."""

    tally: Tally = field(init=False)

    def __post_init__(self) -> None:
        self.tally = Tally(self.inspection.counters)

    @property
    def captured(self) -> bool:
        return self.inspection.state == CaptureState.CAPTURED

    @property
    def opened(self) -> bool:
        """Captured, but connections pass by the absent proxy."""
        return self.inspection.state == CaptureState.OPEN

    def look(self, capture: Capture) -> None:
        """Asks the kernel how it is captured now. Blocks; raises KernelError."""
        self.inspection = capture.inspect(self.namespace, self.workload.terms)
        self.tally.add(self.inspection.counters)

    def locate(self) -> None:
        """Asks which addresses it has. Blocks; raises KernelError."""
        self.addresses = _addresses(self.namespace, self.workload)

    def enforce(self, capture: Capture) -> None:
        """Captures it. Blocks; raises KernelError."""
        self.look(capture)
        capture.apply(self.namespace, self.listeners, self.workload.terms)
        self.look(capture)
        if not self.captured:
            raise KernelError(errno.EIO, self.workload.netns, detail=self.inspection.problem or "the capture did not hold")
        self.captured_since_s = self.captured_since_s or time.time()

    def pass_by(self, capture: Capture) -> None:
        """Lets its connections past the proxy. Blocks; raises KernelError."""
        capture.open(self.namespace, self.workload.terms)
        self.look(capture)
        if not self.opened:
            raise KernelError(errno.EIO, self.workload.netns, detail=self.inspection.problem or "it could not be opened")

    def adjust(self, workload: LocalWorkload) -> None:
        """Takes what is said of it now. What is in force stays so until its capture is applied again, on its new terms."""
        if workload.terms != self.workload.terms:
            self.inspection = Inspection(CaptureState.BROKEN, self.inspection.counters, "its terms have changed")
        self.workload = workload

    def announce(self, session: Sender, description: Description) -> None:
        """Sends the workload, with its descriptors if the proxy does not hold them yet."""
        fds = () if self.sent_descriptors else (self.namespace.fileno(), *(listener.socket.fileno() for listener in self.listeners))
        kinds = tuple(listener.kind for listener in self.listeners)
        session.send(
            SetWorkload(
                uid=self.workload.uid,
                generation=self.generation,
                identity=description.identity,
                addresses=description.addresses,
                listeners=kinds,
                inbound_attributes=description.inbound_attributes,
                outbound_attributes=description.outbound_attributes,
                baggage=description.baggage,
                shares_network=self.workload.process_group,
            ),
            fds,
        )
        self.sent_descriptors = True
        self.announced = description

    def close_listeners(self) -> None:
        """Ours only: the proxy has its own descriptors of the same sockets."""
        for listener in self.listeners:
            listener.socket.close()
        self.listeners = ()

    def close(self) -> None:
        self.close_listeners()
        self.namespace.close()


def make(workload: LocalWorkload, capture: Capture, *, generation: int, now_s: float) -> Entry:
    """Opens the namespace and its listeners; raises KernelError. Blocks."""
    with ExitStack() as undo:
        namespace = undo.enter_context(workload.open())
        if namespace.key != workload.network:
            raise KernelError(errno.ESTALE, workload.netns, detail="was replaced just now")
        listeners = open_listeners(namespace)
        for listener in listeners:
            undo.enter_context(listener.socket)
        entry = _entry(workload, capture, namespace, listeners, generation, now_s)
        if workload.process_group and entry.captured:
            # The rules find a unit's listeners by their port, which may be another now.
            entry.inspection = Inspection(CaptureState.BROKEN, problem="its listeners are new")
        undo.pop_all()
        return entry


def adopt(workload: LocalWorkload, capture: Capture, held: Held, fds: tuple[int, ...], *, now_s: float) -> Entry | None:
    """Duplicates the sockets that a proxy gave back, if they are of the workload's namespace; `fds` stay the caller's. Blocks.

    Raises OSError for descriptors that are not what they should be.
    """
    if len(fds) != len(held.listeners) + 1:
        return None
    with ExitStack() as undo:
        namespace = undo.enter_context(Namespace(os.dup(fds[0]), workload.netns))
        if workload.process_group:
            given, namespace = namespace.key, undo.enter_context(Unit.open(workload.netns))
            # Those of an earlier version had no listener for what comes in.
            if given != namespace.network or ListenerKind.INBOUND not in held.listeners:
                return None
        if namespace.key != workload.network:
            return None
        listeners = tuple(Listener(kind, undo.enter_context(_socket(fd))) for kind, fd in zip(held.listeners, fds[1:], strict=True))
        entry = _entry(workload, capture, namespace, listeners, held.generation, now_s)
        entry.adopted = entry.sent_descriptors = True
        undo.pop_all()
        return entry


def _addresses(namespace: Namespace, workload: LocalWorkload) -> tuple[str, ...]:
    return workload.terms.addresses or namespace.run(netlink.addresses)


def _socket(fd: int) -> socket.socket:
    duplicate = os.dup(fd)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise


def _entry(
    workload: LocalWorkload, capture: Capture, namespace: Namespace, listeners: tuple[Listener, ...], generation: int, now_s: float
) -> Entry:
    return Entry(
        workload=workload,
        generation=generation,
        namespace=namespace,
        listeners=listeners,
        addresses=_addresses(namespace, workload),
        inspection=capture.inspect(namespace, workload.terms),
        opened_s=now_s,
    )
