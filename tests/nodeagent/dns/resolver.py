"""A resolver in a namespace, and clients of it: what answers, and how it misbehaves, is the test's to say."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from nodeagent.linux.namespaces import Namespace

Answers = dict[tuple[str, str], tuple[str, ...]]
"""By name (with its dot) and type."""
SOA = "ns.example. h.example. 1 2 3 4 60"


class Resolver:
    """Answers by UDP and TCP from `answers`, everything else with NXDOMAIN. `before` is called ahead of each answer by UDP."""

    def __init__(self, by_udp: socket.socket, by_tcp: socket.socket) -> None:
        self._by_udp = by_udp
        self._by_tcp = by_tcp
        self.answers: Answers = {}
        self.seen: queue.Queue[tuple[str, str]] = queue.Queue()
        self.silent = False
        self.folds_case = False
        self.ttl_s = 300
        self.before: Callable[[socket.socket, dns.message.Message, tuple[str, int]], None] = lambda *_: None

    def asked(self) -> list[str]:
        """The names that were asked for since the last call."""
        names = []
        while not self.seen.empty():
            names.append(self.seen.get()[0])
        return names

    def answer(self, packet: bytes) -> dns.message.Message:
        query = dns.message.from_wire(packet)
        name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
        self.seen.put((name.lower(), kind))
        if self.folds_case:
            query = dns.message.from_wire(packet.replace(packet[12:-4], packet[12:-4].lower()))
        response = dns.message.make_response(query, recursion_available=True)
        found = self.answers.get((name.lower(), kind))
        if found:
            response.answer = [dns.rrset.from_text(query.question[0].name, self.ttl_s, "IN", kind, *found)]
        else:
            response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority = [dns.rrset.from_text("example.", 60, "IN", "SOA", SOA)]
        return response

    def serve_udp(self) -> None:
        while True:
            try:
                packet, client = self._by_udp.recvfrom(4096)
            except OSError:
                return
            if not packet:  # the end
                return
            response = self.answer(packet)
            if self.silent:
                continue
            self.before(self._by_udp, response, client)
            wire = response.to_wire(max_size=65535)
            limit = max(512, dns.message.from_wire(packet).payload or 512)
            if len(wire) > limit:
                response.answer, response.flags = [], response.flags | dns.flags.TC
                wire = response.to_wire()
            with suppress(OSError):  # the end, or a client that is no more
                self._by_udp.sendto(wire, client)

    def serve_tcp(self) -> None:
        while True:
            try:
                made, _ = self._by_tcp.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_stream, args=(made,), daemon=True).start()

    def _serve_stream(self, made: socket.socket) -> None:
        with made, made.makefile("rb") as reader, suppress(OSError):
            while len(head := reader.read(2)) == 2:
                wire = self.answer(reader.read(int.from_bytes(head, "big"))).to_wire(max_size=65535)
                made.sendall(len(wire).to_bytes(2, "big") + wire)


@contextmanager
def resolver(namespace: Namespace, address: str) -> Iterator[Resolver]:
    """One that listens on port 53 of an address until the block ends."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    by_udp, by_tcp = (namespace.run(socket.socket, family, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
    with by_udp, by_tcp:
        by_tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        by_udp.bind((address, 53))
        by_tcp.bind((address, 53))
        by_tcp.listen()
        made = Resolver(by_udp, by_tcp)
        threads = [threading.Thread(target=one, daemon=True) for one in (made.serve_udp, made.serve_tcp)]
        for thread in threads:
            thread.start()
        try:
            yield made
        finally:
            # What waits in another thread is not woken by closing alone.
            for one in (by_udp, by_tcp):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=5)


def ask(
    namespace: Namespace, server: str, name: str, kind: str = "A", *, timeout_s: float = 10.0, **options: object
) -> dns.message.Message:
    """Asks by UDP as libraries do, from a connected socket; raises OSError. Blocks."""
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    with namespace.run(socket.socket, socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(timeout_s)
        made.connect((server, 53))
        made.send(query.to_wire())
        response = dns.message.from_wire(made.recv(65535))
    assert query.is_response(response)
    return response


def ask_by_tcp(namespace: Namespace, server: str, *names: str, kind: str = "A", timeout_s: float = 10.0) -> list[dns.message.Message]:
    """Asks for all names before it reads an answer. Blocks."""
    with namespace.run(socket.socket, socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_STREAM) as made:
        made.settimeout(timeout_s)
        made.connect((server, 53))
        queries = {query.id: query for query in (dns.message.make_query(name, kind) for name in names)}
        wires = [query.to_wire() for query in queries.values()]
        made.sendall(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires))
        made.shutdown(socket.SHUT_WR)
        found = {}
        with made.makefile("rb") as reader:
            for _ in queries:
                response = dns.message.from_wire(reader.read(int.from_bytes(reader.read(2), "big")))
                assert queries[response.id].is_response(response)
                found[response.id] = response
        return [found[number] for number in queries]


def addresses(response: dns.message.Message) -> list[str]:
    """The addresses of an answer, sorted."""
    kinds = {dns.rdatatype.A, dns.rdatatype.AAAA}
    return sorted(str(one) for rrset in response.answer if rrset.rdtype in kinds for one in rrset)
