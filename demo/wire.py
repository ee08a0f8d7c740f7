"""What is on the wire: a packet capture by tcpdump, and a reading of it (is the payload there, is it TLS 1.3, on which ports)."""

import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Self

from demo.shell import CommandError, Process, run

PODS = "net 10.78.0.0/16 or net fd78::/16"
"""The addresses that `demo.topology` gives to pods, as a capture filter."""
MARKER_PORT = 9
MARKER_WAIT_S = 10.0
_SERVER_HELLO = 2
_SUPPORTED_VERSIONS = 43
_HELLO_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@dataclass(frozen=True)
class Segment:
    """A TCP segment; one without payload opens, acknowledges or ends."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes


@dataclass(frozen=True)
class Reading:
    """What a capture shows."""

    segments: int
    ports: frozenset[int]
    """The lower port of each pair: that of the server."""
    tls_versions: frozenset[str]
    """Versions that servers chose in their ServerHello."""
    hbone_bytes: int
    """TCP payload to and from port 15008."""


class Wiretap:
    """tcpdump of the TCP of pods on a device of a namespace, from `with` to its end; read it afterwards.

    `beyond` is an address of the pods' networks behind the device, where nobody listens on MARKER_PORT.
    """

    def __init__(self, namespace: str, device: str, file: Path, *, beyond: IPv4Address) -> None:
        self.file = file
        self._namespace = namespace
        self._beyond = beyond
        command = [
            "tcpdump",
            "-i",
            device,
            "-U",
            "--immediate-mode",
            "-s",
            "0",
            "-B",
            "16384",
            "-Z",
            "root",
            "-w",
            str(file),
            f"tcp and ({PODS})",
        ]
        self._process = Process(f"tcpdump {device}", command, file.with_suffix(".log"), namespace)

    def __enter__(self) -> Self:
        # What an earlier one of the same name left would be taken for this one's.
        for left in (self.file, self._process.log):
            left.unlink(missing_ok=True)
        self._process.start()
        run(["sh", "-c", f"for i in $(seq 200); do grep -q listening {self._process.log} && exit 0; sleep 0.02; done; exit 1"])
        return self

    def __exit__(self, *_: object) -> None:
        # tcpdump drops what it has not read yet when it is ended. Packets come in order: once it has written one of ours, it has written
        # all that passed before.
        try:
            deadline = time.monotonic() + MARKER_WAIT_S
            while not self._marked():
                if time.monotonic() > deadline:
                    raise CommandError(f"{self._process.name} does not see what passes:\n{self._process.tail()}")
                run(["bash", "-c", f"exec 3<>/dev/tcp/{self._beyond}/{MARKER_PORT}"], namespace=self._namespace, answers=(1,))
        finally:
            self._process.stop(signal_number=signal.SIGINT)

    def _marked(self) -> bool:
        return any(segment.destination_port == MARKER_PORT for segment in _segments(self.file.read_bytes()))

    def contains(self, text: bytes) -> bool:
        """Whether the bytes stand anywhere in the capture."""
        return text in self.file.read_bytes()

    def segments(self) -> list[Segment]:
        """All segments with payload."""
        return [segment for segment in _segments(self.file.read_bytes()) if segment.payload]

    def read(self) -> Reading:
        """Reads the whole capture."""
        segments = self.segments()
        hbone = [s for s in segments if 15008 in {s.source_port, s.destination_port}]
        versions = {version for s in segments if (version := _server_version(s.payload))}
        return Reading(
            segments=len(segments),
            ports=frozenset(min(s.source_port, s.destination_port) for s in segments),
            tls_versions=frozenset(versions),
            hbone_bytes=sum(len(s.payload) for s in hbone),
        )


def _segments(capture: bytes) -> Iterator[Segment]:
    (magic,) = struct.unpack_from("<I", capture)
    if magic not in {0xA1B2C3D4, 0xA1B23C4D}:
        raise ValueError("not a pcap file of this machine's byte order")
    offset = 24
    while offset + 16 <= len(capture):
        (length,) = struct.unpack_from("<I", capture, offset + 8)
        segment = _segment(capture[offset + 16 : offset + 16 + length])
        if segment is not None:
            yield segment
        offset += 16 + length


def _segment(frame: bytes) -> Segment | None:
    (ether_type,) = struct.unpack_from("!H", frame, 12)
    packet = frame[14:]
    if ether_type == 0x0800:
        header_bytes = (packet[0] & 15) * 4
        (total,) = struct.unpack_from("!H", packet, 2)
        source, destination, protocol = packet[12:16], packet[16:20], packet[9]
    elif ether_type == 0x86DD:
        header_bytes = 40
        total = 40 + struct.unpack_from("!H", packet, 4)[0]
        source, destination, protocol = packet[8:24], packet[24:40], packet[6]
    else:
        return None
    if protocol != 6:
        return None
    tcp = packet[header_bytes:total]
    source_port, destination_port = struct.unpack_from("!HH", tcp)
    payload = tcp[(tcp[12] >> 4) * 4 :]
    return Segment(str(ip_address(source)), source_port, str(ip_address(destination)), destination_port, payload)


def _server_version(payload: bytes) -> str | None:
    """The version that a ServerHello at the begin of a segment chose, if there is one (RFC 8446, 4.1.3 and 4.2.1)."""
    if len(payload) < 50 or payload[0] != 22 or payload[5] != _SERVER_HELLO:
        return None
    hello = payload[9:]
    if hello[2:34] == _HELLO_RETRY_RANDOM:
        return None
    offset = 35 + hello[34] + 3
    (extensions_bytes,) = struct.unpack_from("!H", hello, offset)
    offset += 2
    end = min(offset + extensions_bytes, len(hello) - 4)
    while offset + 4 <= end:
        kind, length = struct.unpack_from("!HH", hello, offset)
        if kind == _SUPPORTED_VERSIONS:
            (version,) = struct.unpack_from("!H", hello, offset + 4)
            return "TLS 1.3" if version == 0x0304 else f"unknown version {version:#06x}"
        offset += 4 + length
    return "TLS 1.2 or older"
