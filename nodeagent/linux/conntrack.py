"""Asking this namespace's connection tracking where a redirected datagram was meant to go, over netlink (ctnetlink).

For datagrams there is no SO_ORIGINAL_DST. Layouts are those of linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h; the fixed part is in
the byte order of the host, what it says of addresses and ports in that of the network.
"""

import errno
import socket
import struct
from typing import Final, Self

from nodeagent.linux.errors import KernelError
from nodeagent.linux.rtnetlink import decode_attributes, encode_attributes

Address = tuple[str, int]

_NETLINK_NETFILTER: Final = 12
_GET: Final = 0x0101
_REQUEST: Final = 0x1
_ERROR: Final = 2
_NESTED: Final = 0x8000
_HEADER: Final = struct.Struct("=IHHII")
_FIXED: Final = struct.Struct("=BBH")
_RECEIVE_BYTES: Final = 4096

_TUPLE_ORIGINAL: Final = 1
_TUPLE_REPLY: Final = 2
_TUPLE_IP: Final = 1
_TUPLE_PROTO: Final = 2
_IP: Final = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}
"""The types of a tuple's source and destination."""
_PROTO_NUMBER: Final = 1
_PROTO_SOURCE: Final = 2
_PROTO_DESTINATION: Final = 3


class Tracking:
    """A netlink socket of the namespace that the calling thread is in; it may be asked from any. Whoever makes it closes it."""

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        # The answer is there when the question has been sent; an event loop must not wait for one that is not.
        self._socket.setblocking(False)  # noqa: FBT003 - the socket's own method

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Safe to repeat."""
        self._socket.close()

    def meant(self, sender: Address, taken: Address) -> Address | None:
        """Where what `sender` sent was to go before it came to `taken`; None if nothing is known of it. Raises KernelError.

        Never waits: the kernel answers while it is asked.
        """
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        body = _question(sender, taken)
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST, self._sequence, 0) + body)
            return self._answer()
        except (ValueError, KeyError, struct.error) as error:
            raise KernelError(errno.EBADMSG, "connection tracking", detail=str(error)) from error
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "connection tracking") from error

    def _answer(self) -> Address | None:
        while True:
            data, (port, _groups) = self._socket.recvfrom(_RECEIVE_BYTES)
            length, kind, _, sequence, _ = _HEADER.unpack_from(data)
            # Another process may send to this socket, too; the kernel's port is 0. What is late answers a former question.
            if port == 0 and sequence == self._sequence:
                if kind != _ERROR:
                    return _original(data[_HEADER.size : length])
                [number] = struct.unpack_from("=i", data, _HEADER.size)
                if -number != errno.ENOENT:
                    raise OSError(-number, "no answer")
                return None


def _question(sender: Address, taken: Address) -> bytes:
    family = socket.AF_INET6 if ":" in sender[0] else socket.AF_INET
    source, destination = _IP[family]
    addresses = encode_attributes({source: socket.inet_pton(family, taken[0]), destination: socket.inet_pton(family, sender[0])})
    ports = encode_attributes(
        {
            _PROTO_NUMBER: bytes([socket.IPPROTO_UDP]),
            _PROTO_SOURCE: taken[1].to_bytes(2, "big"),
            _PROTO_DESTINATION: sender[1].to_bytes(2, "big"),
        }
    )
    ends = encode_attributes({_TUPLE_IP | _NESTED: addresses, _TUPLE_PROTO | _NESTED: ports})
    return _FIXED.pack(family, 0, 0) + encode_attributes({_TUPLE_REPLY | _NESTED: ends})


def _original(payload: bytes) -> Address:
    family, _, _ = _FIXED.unpack_from(payload)
    found = dict(decode_attributes(payload[_FIXED.size :]))
    ends = dict(decode_attributes(found[_TUPLE_ORIGINAL]))
    addresses, ports = dict(decode_attributes(ends[_TUPLE_IP])), dict(decode_attributes(ends[_TUPLE_PROTO]))
    _, destination = _IP[socket.AddressFamily(family)]
    return socket.inet_ntop(family, addresses[destination]), int.from_bytes(ports[_PROTO_DESTINATION], "big")
