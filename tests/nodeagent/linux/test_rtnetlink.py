"""Attributes are read as they are written; what can't be is an error, never a loop or another attribute."""

import errno
import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.linux.errors import KernelError
from nodeagent.linux.rtnetlink import Kind, RouteSocket, decode_attributes, encode_attributes
from tests.nodeagent.pods import pair


@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40), max_size=6))
def test_attributes_survive(attributes: dict[int, bytes]) -> None:
    encoded = encode_attributes(attributes)
    assert len(encoded) % 4 == 0
    assert dict(decode_attributes(encoded)) == attributes


@given(st.binary(max_size=64))
def test_garbage_ends(data: bytes) -> None:
    with suppress(ValueError):
        assert sum(len(value) for _, value in decode_attributes(data)) <= len(data)


def test_what_the_kernel_refuses_names_its_subject() -> None:
    nothing = struct.pack("=8BI", socket.AF_INET, 0, 0, 0, 99, 0, 0, 2, 0)

    def delete() -> None:
        with RouteSocket("a table") as link:
            link.change(Kind.DELETE_ROUTE, nothing)

    with pair() as network, pytest.raises(KernelError, match="a table: ") as caught:
        network.pod.namespace.run(delete)
    assert caught.value.errno == errno.ESRCH


def test_what_another_process_sends_is_no_answer() -> None:
    """Only the kernel's messages count: the privileged may send to any netlink socket of the namespace."""

    def ask() -> int:
        with RouteSocket("addresses") as link, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as stranger:
            link.dump(Kind.GET_ADDRESS, bytes(8))  # gives the socket its port, and is question 1
            refusal = struct.pack("=IHHIIi", 20, 2, 0, 2, 0, -errno.EPERM)
            stranger.sendto(refusal, (link._socket.getsockname()[0], 0))
            return len(link.dump(Kind.GET_ADDRESS, bytes(8)))

    with pair() as network:
        assert network.pod.namespace.run(ask) > 0
