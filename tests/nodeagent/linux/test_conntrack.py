"""Asking connection tracking, of a namespace that tracks nothing of what it is asked for, and what the kernel may answer."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.linux import conntrack
from nodeagent.linux.conntrack import Tracking
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import run_in_empty


class Saying:
    """A socket from which comes what it is given."""

    def __init__(self, *datagrams: bytes) -> None:
        self._datagrams = list(datagrams)

    def send(self, _: bytes) -> None: ...

    def recvfrom(self, _: int) -> tuple[bytes, tuple[int, int]]:
        return self._datagrams.pop(0), (0, 0)

    def close(self) -> None: ...


def hearing(*datagrams: bytes) -> Tracking:
    made = Tracking()
    made.close()
    made._socket = Saying(*datagrams)  # type: ignore[assignment]
    return made


def message(kind: int, payload: bytes, sequence: int = 1) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload


def test_what_is_not_tracked_is_not_known() -> None:
    def ask() -> list[conntrack.Address | None]:
        with Tracking() as tracking:
            return [tracking.meant(("192.0.2.1", 1234), ("127.0.0.1", 15053)), tracking.meant(("2001:db8::1", 1234), ("::1", 15053))]

    assert run_in_empty(ask) == [None, None]


def test_a_late_answer_is_none_and_an_error_is_told() -> None:
    late, refused = message(2, struct.pack("=i", -errno.ENOENT), 7), message(2, struct.pack("=i", -errno.EPERM))
    with pytest.raises(KernelError) as caught:
        hearing(late, refused).meant(("192.0.2.1", 1), ("127.0.0.1", 2))
    assert caught.value.errno == errno.EPERM


@given(st.binary(max_size=80))
def test_any_bytes_are_an_address_or_an_error(payload: bytes) -> None:
    try:
        found = hearing(message(0x100, payload)).meant(("192.0.2.1", 1), ("127.0.0.1", 2))
    except KernelError:
        return
    assert found is not None
