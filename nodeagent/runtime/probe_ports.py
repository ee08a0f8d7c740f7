"""The ports that the kubelet calls on a pod, by what its containers declare: probes, and hooks of their lifecycle. No I/O."""

from collections.abc import Iterable, Iterator

from msgspec import Struct

from meshapi.decoding import MAX_PORT

IntOrName = int | str


class ContainerPort(Struct, frozen=True, rename="camel"):
    container_port: int
    name: str = ""


class Call(Struct, frozen=True):
    """By HTTP, TCP or gRPC. With a `host` it goes to somewhere else."""

    port: IntOrName
    host: str = ""


class Handler(Struct, frozen=True, rename="camel"):
    """A probe, or a hook."""

    http_get: Call | None = None
    tcp_socket: Call | None = None
    grpc: Call | None = None

    @property
    def calls(self) -> Iterator[Call]:
        return (call for call in (self.http_get, self.tcp_socket, self.grpc) if call is not None)


class Lifecycle(Struct, frozen=True, rename="camel"):
    post_start: Handler | None = None
    pre_stop: Handler | None = None


class Container(Struct, frozen=True, rename="camel"):
    """Only what makes the kubelet call."""

    ports: tuple[ContainerPort, ...] = ()
    liveness_probe: Handler | None = None
    readiness_probe: Handler | None = None
    startup_probe: Handler | None = None
    lifecycle: Lifecycle = Lifecycle()

    @property
    def handlers(self) -> Iterator[Handler]:
        lifecycle = self.lifecycle
        every = (self.liveness_probe, self.readiness_probe, self.startup_probe, lifecycle.post_start, lifecycle.pre_stop)
        return (one for one in every if one is not None)


def probe_ports(containers: Iterable[Container]) -> tuple[int, ...]:
    """Sorted, each once. A name is one of the same container's ports; one that is not there calls nothing."""
    found = {
        port
        for container in containers
        for handler in container.handlers
        for call in handler.calls
        if not call.host and (port := _number(call.port, container)) is not None
    }
    return tuple(sorted(found))


def _number(port: IntOrName, container: Container) -> int | None:
    if isinstance(port, str):
        named = next((one.container_port for one in container.ports if one.name == port), None)
        # A name that is a number is one, for the kubelet.
        port = named if named is not None else int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    return port if 0 < port <= MAX_PORT else None
