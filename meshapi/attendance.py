"""What the agent of a virtual machine and the controller say to each other (`vm.proto`), as immutable values."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError
from msgspec import Struct

from meshapi.decoding import MAX_PORT, ModelError
from meshapi.proto import vm_pb2 as pb
from meshapi.spiffe import IdentityError, check_segment
from meshapi.vm import MAX_GROUPS, GroupName

SERVICE: Final = "nodemesh.vm.Machines"
ATTEND: Final = f"/{SERVICE}/Attend"
LEAVE: Final = f"/{SERVICE}/Leave"
MAX_WORDS: Final = 1000
_MAX_HEADERS: Final = 64
_MAX_COMMAND: Final = 256


class Health(IntEnum):
    UNKNOWN = 0
    HEALTHY = 1
    UNHEALTHY = 2


class Member(Struct, frozen=True):
    """A machine as a member of a group. `address`: empty for where it connects from; `other_address`: one of the other IP version."""

    group: GroupName
    address: str = ""
    shares_address: bool = False
    health: Health = Health.UNKNOWN
    message: str = ""
    other_address: str = ""


class HTTPGet(Struct, frozen=True):
    """`host` empty: this machine."""

    port: int
    path: str = "/"
    host: str = ""
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class TCPSocket(Struct, frozen=True):
    port: int
    host: str = ""


class Exec(Struct, frozen=True):
    command: tuple[str, ...]


class GRPC(Struct, frozen=True):
    """The standard health service of gRPC."""

    port: int
    service: str = ""


Way = HTTPGet | TCPSocket | Exec | GRPC


class Probe(Struct, frozen=True):
    """How health is found out, as the kubelet does it."""

    way: Way
    initial_delay_s: int = 0
    timeout_s: int = 1
    period_s: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3


class Assigned(Struct, frozen=True):
    """What a member is in the mesh. `uid` empty: no workload yet, `problem` says why."""

    group: GroupName
    uid: str = ""
    name: str = ""
    service_account: str = ""
    probe: Probe | None = None
    problem: str = ""
    address: str = ""
    ports: tuple[int, ...] = ()
    other_address: str = ""


def encode_attendance(members: Iterable[Member]) -> bytes:
    return pb.Attendance(members=[_member(member) for member in members]).SerializeToString(deterministic=True)


def decode_attendance(body: bytes) -> tuple[Member, ...]:
    """Raises ModelError."""
    try:
        message = pb.Attendance.FromString(body)
        if len(message.members) > MAX_GROUPS:
            raise ModelError(f"{len(message.members)} members of one machine")
        members = tuple(
            Member(
                GroupName.parse(f"{one.namespace}/{one.group}"),
                one.address,
                one.shares_address,
                # What a later version may mean by another number is not known to be health.
                Health(int(one.health)) if int(one.health) in set(Health) else Health.UNKNOWN,
                one.message[:MAX_WORDS],
                one.other_address,
            )
            for one in message.members
        )
    except (DecodeError, IdentityError) as error:
        raise ModelError(f"no Attendance: {error}") from error
    if len({member.group for member in members}) != len(members):
        raise ModelError("a group stands there twice")
    return members


def encode_assignment(assigned: Iterable[Assigned]) -> bytes:
    return pb.Assignment(members=[_assigned(one) for one in assigned]).SerializeToString(deterministic=True)


def decode_assignment(body: bytes) -> tuple[Assigned, ...]:
    """Raises ModelError."""
    try:
        message = pb.Assignment.FromString(body)
        return tuple(_decode_assigned(one) for one in message.members)
    except (DecodeError, IdentityError) as error:
        raise ModelError(f"no Assignment: {error}") from error


def _member(member: Member) -> pb.Member:
    return pb.Member(
        namespace=member.group.namespace,
        group=member.group.name,
        address=member.address,
        shares_address=member.shares_address,
        health=pb.Health.ValueType(int(member.health)),
        message=member.message[:MAX_WORDS],
        other_address=member.other_address,
    )


def _assigned(one: Assigned) -> pb.Assigned:
    return pb.Assigned(
        namespace=one.group.namespace,
        group=one.group.name,
        uid=one.uid,
        name=one.name,
        service_account=one.service_account,
        probe=None if one.probe is None else _probe(one.probe),
        problem=one.problem[:MAX_WORDS],
        address=one.address,
        ports=one.ports,
        other_address=one.other_address,
    )


def _probe(probe: Probe) -> pb.Probe:
    message = pb.Probe(
        initial_delay_seconds=probe.initial_delay_s,
        timeout_seconds=probe.timeout_s,
        period_seconds=probe.period_s,
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
    )
    match probe.way:
        case HTTPGet() as way:
            headers = [pb.Header(name=name, value=value) for name, value in way.headers]
            message.http_get.CopyFrom(pb.HTTPGet(host=way.host, port=way.port, path=way.path, tls=way.tls, headers=headers))
        case TCPSocket() as way:
            message.tcp_socket.CopyFrom(pb.TCPSocket(host=way.host, port=way.port))
        case Exec() as way:
            message.exec.CopyFrom(pb.Exec(command=way.command))
        case GRPC() as way:
            message.grpc.CopyFrom(pb.GRPC(port=way.port, service=way.service))
    return message


def _decode_assigned(one: pb.Assigned) -> Assigned:
    if one.uid:
        check_segment(one.name)
        check_segment(one.service_account)
    probe = _decode_probe(one.probe) if one.HasField("probe") else None
    group = GroupName.parse(f"{one.namespace}/{one.group}")
    ports = tuple(_port(port) for port in one.ports)
    return Assigned(group, one.uid, one.name, one.service_account, probe, one.problem, one.address, ports, one.other_address)


def _decode_probe(message: pb.Probe) -> Probe:
    """A probe of a kind that this version does not know is an error: without it, all would pass for healthy."""
    way = _decode_way(message)
    counts = (message.timeout_seconds, message.period_seconds, message.success_threshold, message.failure_threshold)
    if min(counts) < 1:
        raise ModelError("a probe with a time or a threshold of 0")
    return Probe(way, message.initial_delay_seconds, *counts)


def _decode_way(message: pb.Probe) -> Way:
    match message.WhichOneof("way"):
        case "http_get":
            get = message.http_get
            if len(get.headers) > _MAX_HEADERS:
                raise ModelError("a probe with too many headers")
            headers = tuple((header.name, header.value) for header in get.headers)
            return HTTPGet(_port(get.port), get.path, get.host, get.tls, headers)
        case "tcp_socket":
            return TCPSocket(_port(message.tcp_socket.port), message.tcp_socket.host)
        case "exec":
            command = tuple(message.exec.command)
            if not 0 < len(command) <= _MAX_COMMAND or not command[0].startswith("/") or "\0" in "".join(command):
                raise ModelError("a probe with a command that can't be run")
            return Exec(command)
        case "grpc":
            return GRPC(_port(message.grpc.port), message.grpc.service)
    raise ModelError("a probe of no known kind")


def _port(number: int) -> int:
    if not 0 < number <= MAX_PORT:
        raise ModelError(f"port {number}: must be 1 to {MAX_PORT}")
    return number
