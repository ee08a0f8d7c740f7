"""What machines and controllers say to each other: read as it was written, and nothing malformed is read as something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.attendance import (
    GRPC,
    Assigned,
    Exec,
    Health,
    HTTPGet,
    Member,
    Probe,
    TCPSocket,
    decode_assignment,
    decode_attendance,
    encode_assignment,
    encode_attendance,
)
from meshapi.decoding import ModelError
from meshapi.proto import vm_pb2 as pb
from meshapi.vm import GroupName

TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=20)
PORTS = st.integers(1, 65535)
GROUPS = st.builds(GroupName, st.sampled_from(["a", "b-c"]), st.sampled_from(["web", "api.x", "1"]))
MEMBERS = st.lists(
    st.builds(Member, GROUPS, TEXT, st.booleans(), st.sampled_from(Health), TEXT, TEXT), max_size=4, unique_by=lambda one: one.group
)
WAYS = st.one_of(
    st.builds(HTTPGet, PORTS, TEXT, TEXT, st.booleans(), st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)),
    st.builds(TCPSocket, PORTS, TEXT),
    st.builds(Exec, st.lists(TEXT, max_size=3).map(lambda words: ("/bin/x", *words))),
    st.builds(GRPC, PORTS, TEXT),
)
COUNTS = st.integers(1, 3600)
PROBES = st.builds(Probe, WAYS, st.integers(0, 3600), COUNTS, COUNTS, COUNTS, COUNTS)
NAMES = st.sampled_from(["web-1", "api"])
ASSIGNED = st.lists(st.builds(Assigned, GROUPS, TEXT, NAMES, NAMES, st.none() | PROBES, TEXT, TEXT, st.just(()), TEXT), max_size=4)


@given(MEMBERS)
def test_an_attendance_is_read_as_it_was_written(members: list[Member]) -> None:
    assert decode_attendance(encode_attendance(members)) == tuple(members)


@given(ASSIGNED)
def test_an_assignment_is_read_as_it_was_written(assigned: list[Assigned]) -> None:
    assert decode_assignment(encode_assignment(assigned)) == tuple(assigned)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(raw: bytes) -> None:
    for decode in (decode_attendance, decode_assignment):
        try:
            decode(raw)
        except ModelError:
            continue


def test_a_health_that_is_not_known_is_not_health() -> None:
    later = pb.Member(namespace="a", group="b").SerializeToString() + b"\x28\x63"
    (member,) = decode_attendance(b"\x0a" + bytes([len(later)]) + later)
    assert member.health is Health.UNKNOWN


@pytest.mark.parametrize(
    "probe",
    [
        pb.Probe(timeout_seconds=1, period_seconds=1, success_threshold=1, failure_threshold=1),
        pb.Probe(period_seconds=1, success_threshold=1, failure_threshold=1, tcp_socket=pb.TCPSocket(port=1)),
        pb.Probe(timeout_seconds=1, period_seconds=1, success_threshold=1, failure_threshold=1, tcp_socket=pb.TCPSocket(port=70000)),
        pb.Probe(timeout_seconds=1, period_seconds=1, success_threshold=1, failure_threshold=1, exec=pb.Exec(command=["sh"])),
        pb.Probe(timeout_seconds=1, period_seconds=1, success_threshold=1, failure_threshold=1, exec=pb.Exec()),
    ],
)
def test_a_probe_that_can_not_be_followed_is_an_error_not_health(probe: pb.Probe) -> None:
    message = pb.Assignment(members=[pb.Assigned(namespace="a", group="b", probe=probe)])
    with pytest.raises(ModelError):
        decode_assignment(message.SerializeToString())
