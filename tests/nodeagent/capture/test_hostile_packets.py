"""Packets made by hand against a captured pod: none reaches the application past the listener."""

import itertools
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from nodeagent.capture.base import Capture
from nodeagent.capture.listeners import open_listeners
from tests.nodeagent.capture.ways import forged, only_rules, only_unredirected, unheard
from tests.nodeagent.pods import Pair, Side, family_of
from tests.nodeagent.standin import Application, Proxy

PORT = 8080
SYN, ACK, PSH = 0x02, 0x10, 0x08
ports = itertools.count(20001)


def segment(client: str, pod: str, source_port: int, flags: int, *, seq: int, ack: int = 0, data: bytes = b"") -> bytes:
    header = struct.pack("!HHIIBBHHH", source_port, PORT, seq, ack, 5 << 4, flags, 64000, 0, 0)
    family = family_of(client)
    length = struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(header) + len(data))
    pseudo = socket.inet_pton(family, client) + socket.inet_pton(family, pod) + length
    summed = pseudo + header + data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:] + data


def answer(raw: socket.socket, source_port: int) -> tuple[int, int]:
    """(flags, sequence number) of the next segment to `source_port`."""
    while True:
        packet = raw.recv(2000)
        tcp = packet[(packet[0] & 15) * 4 :]
        if struct.unpack_from("!H", tcp, 2)[0] == source_port:
            return tcp[13], struct.unpack_from("!I", tcp, 4)[0]


def counted(capture: Capture, pod: Side, *rules: str) -> int:
    counters = capture.inspect(pod.namespace).counters
    return sum(counters[rule].packets for rule in rules)


def wait_counted(capture: Capture, pod: Side, *rules: str, at_least: int) -> None:
    deadline = time.monotonic() + 3
    while counted(capture, pod, *rules) < at_least:
        assert time.monotonic() < deadline, f"{rules} counted {counted(capture, pod, *rules)}"


@pytest.fixture
def raw(network: Pair) -> Iterator[socket.socket]:
    """A raw socket of the client, whose own kernel keeps silent about connections that it knows nothing of."""
    network.client.shell(
        "nft", "-f", "-", stdin="table ip silence {\nchain c {\ntype filter hook output priority 0\ntcp flags & rst == rst drop\n}\n}\n"
    )
    made = network.client.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    made.settimeout(3)
    with made:
        yield made


@only_unredirected
@pytest.mark.parametrize("captured", [True, False], ids=["captured", "control: not captured"])
def test_a_cookie_earned_from_the_listener_is_worth_nothing_at_the_application(
    capture: Capture, network: Pair, raw: socket.socket, *, captured: bool
) -> None:
    """Cookies bind addresses and ports, not the listener: the application's own would take one that the proxy's gave out."""
    pod, client = network.pod, network.client
    here, there = client.addresses[socket.AF_INET], pod.addresses[socket.AF_INET]
    pod.shell("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
    with Application(pod, PORT) as application, Proxy(pod, listeners := open_listeners(pod.namespace)) as proxy:
        capture.apply(pod.namespace, listeners)
        with client.dial(there, PORT) as made:  # from now on the application's listener takes cookies
            made.sendall(b"x")
            assert made.recv(100)
        application.peers.get(timeout=3)
        port = next(ports)
        raw.sendto(segment(here, there, port, SYN, seq=1000), (there, 0))
        flags, cookie = answer(raw, port)
        assert flags == SYN | ACK
        proxy.stop_accepting()
        if not captured:
            capture.remove(pod.namespace)
        raw.sendto(segment(here, there, port, ACK | PSH, seq=1001, ack=cookie + 1, data=b"stolen"), (there, 0))
        if captured:
            # A listener that is just being closed may still be found, and is refused.
            refusing = ["reset"] if capture.name == "nftables" else ["closed", "unassigned"]
            wait_counted(capture, pod, *refusing, at_least=1)
            assert application.peers.empty()
        else:
            assert application.peers.get(timeout=3) == here


def test_an_injected_segment_does_not_reach_a_connection_of_the_proxy_to_the_application(
    capture: Capture, network: Pair, raw: socket.socket
) -> None:
    """From the wire, with the very addresses and ports that the proxy uses inside."""
    pod, client = network.pod, network.client
    here, there = client.addresses[socket.AF_INET], pod.addresses[socket.AF_INET]
    with Application(pod, PORT) as application, Proxy(pod, listeners := open_listeners(pod.namespace)):
        capture.apply(pod.namespace, listeners)
        with client.dial(there, PORT) as inside:
            inside.sendall(b"x")
            assert inside.recv(100)
            application_side = application.connections[-1]
            port = application_side.getpeername()[1]
            before = counted(capture, pod, *forged(capture))
            raw.sendto(segment(here, there, port, ACK | PSH, seq=1, ack=1, data=b"injected"), (there, 0))
            wait_counted(capture, pod, *forged(capture), at_least=before + 1)
            inside.sendall(b"y")
            assert inside.recv(100).endswith(b"y")


def test_a_handshake_in_fragments_is_seen_whole(capture: Capture, network: Pair) -> None:
    pod, client = network.pod, network.client
    here, there = client.addresses[socket.AF_INET], pod.addresses[socket.AF_INET]
    capture.apply(pod.namespace)
    whole = segment(here, there, next(ports), SYN, seq=1000)
    with Application(pod, PORT) as application, client.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        for offset, more in ((0, True), (8, False)):
            part = whole[offset : offset + 8] if more else whole[offset:]
            fragment = (0x2000 if more else 0) | offset // 8
            made.sendto(
                struct.pack(
                    "!BBHHHBBH4s4s", 0x45, 0, 20 + len(part), 77, fragment, 64, 6, 0, socket.inet_aton(here), socket.inet_aton(there)
                )
                + part,
                (there, 0),
            )
        wait_counted(capture, pod, unheard(capture), at_least=1)
        assert application.peers.empty()


@only_rules
def test_a_segment_that_conntrack_can_not_place_ends_no_connection(capture: Capture, network: Pair) -> None:
    """It is not redirected with the others of its connection, and must neither leave nor be answered by a reset."""
    pod, client = network.pod, network.client
    here, there = pod.addresses[socket.AF_INET], client.addresses[socket.AF_INET]
    with Application(client, PORT), Proxy(pod, open_listeners(pod.namespace)):
        capture.apply(pod.namespace)
        with pod.dial(there, PORT) as made, pod.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw_socket:
            made.sendall(b"x")
            assert made.recv(100)
            stray = segment(here, there, made.getsockname()[1], PSH, seq=1, ack=1, data=b"no acknowledgement: never valid")
            with pytest.raises(PermissionError):  # how the kernel tells a sender that a rule dropped it
                raw_socket.sendto(stray, (there, 0))
            assert counted(capture, pod, "invalid") == 1
            assert counted(capture, pod, "leftover") == counted(capture, pod, "leak") == 0
            made.sendall(b"y")
            assert made.recv(100).endswith(b"y")


@pytest.mark.parametrize("headers", [0, 1, 3])
def test_extension_headers_hide_nothing(capture: Capture, network: Pair, headers: int) -> None:
    """Rules that read ports at a fixed place would take the options for them; the kernel delivers such packets all the same."""
    pod, client = network.pod, network.client
    here, there = client.addresses[socket.AF_INET6], pod.addresses[socket.AF_INET6]
    capture.apply(pod.namespace)
    options, tcp = 60, socket.IPPROTO_TCP
    chain = b"".join(
        struct.pack("!BBBB4x", options if index + 1 < headers else tcp, 0, 1, 4) for index in range(headers)
    )  # each: destination options, padding only
    payload = chain + segment(here, there, next(ports), SYN, seq=1000)
    ends = socket.inet_pton(socket.AF_INET6, here) + socket.inet_pton(socket.AF_INET6, there)
    packet = struct.pack("!IHBB", 6 << 28, len(payload), options if headers else tcp, 64) + ends + payload
    with Application(pod, PORT) as application, client.open_socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as made:
        made.sendto(packet, (there, 0))
        wait_counted(capture, pod, unheard(capture), at_least=1)
        assert application.peers.empty()
