"""Captured traffic on a real kernel: a pod and a client in namespaces, a stand-in for the proxy on the listeners."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshapi.wire import CONNECTION_MARK, HBONE_PORT, PROXY_MARK
from nodeagent.capture.base import Capture, CaptureState
from nodeagent.capture.listeners import open_listeners
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent.bpf.objects import eventually
from tests.nodeagent.capture.ways import by_either_backend, harms, only_rules, unheard
from tests.nodeagent.pods import Pair, Side, pair, refused
from tests.nodeagent.standin import SO_MARK, Application, Proxy

PORT = 8080


def ask(side: Side, address: str, port: int = PORT, word: bytes = b"hello") -> bytes:
    with side.dial(address, port) as made:
        return talk(made, word)


def talk(made: socket.socket, word: bytes) -> bytes:
    made.sendall(word)
    data = b""
    while word not in data:
        if not (got := made.recv(4096)):
            raise ConnectionResetError
        data += got
    return data


def packets(capture: Capture, pod: Side, rule: str) -> int:
    return capture.inspect(pod.namespace).counters[rule].packets


@pytest.fixture
def captured(capture: Capture, network: Pair) -> Iterator[tuple[Pair, Proxy]]:
    listeners = open_listeners(network.pod.namespace)
    with Proxy(network.pod, listeners) as proxy:
        capture.apply(network.pod.namespace, listeners)
        yield network, proxy


@by_either_backend
def test_inbound_passes_the_listener_and_keeps_the_source(capture: Capture, captured: tuple[Pair, Proxy], family: int) -> None:
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    with Application(pod, PORT) as application:
        answer = ask(client, pod.addresses[family])
    assert answer == f"{client.addresses[family]} hello".encode()
    assert application.peers.get(timeout=3) == client.addresses[family]
    assert proxy.seen.get(timeout=3) == (ListenerKind.INBOUND, pod.addresses[family], PORT)
    assert packets(capture, pod, "leak") == packets(capture, pod, "leftover") == packets(capture, pod, "reset") == 0


@by_either_backend
def test_outbound_passes_the_listener_with_its_destination(capture: Capture, captured: tuple[Pair, Proxy], family: int) -> None:
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    with Application(client, PORT) as application:
        answer = ask(pod, client.addresses[family])
    assert answer == f"{pod.addresses[family]} hello".encode()
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, client.addresses[family], PORT)
    assert application.peers.get(timeout=3) == pod.addresses[family]
    assert packets(capture, pod, "leak") == packets(capture, pod, "leftover") == packets(capture, pod, "reset") == 0


def test_ipv4_through_an_ipv6_socket_is_ipv4(captured: tuple[Pair, Proxy]) -> None:
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    address = client.addresses[socket.AF_INET]
    with Application(client, PORT), pod.open_socket(socket.AF_INET6) as made:
        made.connect((f"::ffff:{address}", PORT))
        assert talk(made, b"hello") == f"{pod.addresses[socket.AF_INET]} hello".encode()
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, address, PORT)


def test_a_pod_that_calls_its_own_address_is_captured(captured: tuple[Pair, Proxy], family: int) -> None:
    pod, proxy = captured[0].pod, captured[1]
    with Application(pod, PORT):
        answer = ask(pod, pod.addresses[family])
    assert answer.endswith(b"hello")
    assert proxy.seen.get(timeout=3) == (ListenerKind.OUTBOUND, pod.addresses[family], PORT)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_loopback_is_the_pods_own(captured: tuple[Pair, Proxy], address: str) -> None:
    pod, proxy = captured[0].pod, captured[1]
    with Application(pod, PORT):
        assert ask(pod, address) == f"{address} hello".encode()
    assert proxy.seen.empty()


def test_hbone_reaches_its_listener_directly(captured: tuple[Pair, Proxy], family: int) -> None:
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    with client.dial(pod.addresses[family], HBONE_PORT) as made:
        assert made.recv(100) == b"hbone\n"
    assert proxy.seen.get(timeout=3) == (ListenerKind.HBONE, pod.addresses[family], HBONE_PORT)


def test_a_closed_port_of_the_application_is_refused_to_the_proxy_at_once(captured: tuple[Pair, Proxy], family: int) -> None:
    """The kernel's reset goes back to the proxy, not to the client whose address the proxy borrowed."""
    pod, client = captured[0].pod, captured[0].client
    with client.dial(pod.addresses[family], PORT) as made:
        made.settimeout(3)
        assert made.recv(10) == b"", "the proxy noticed the refusal and closed"


@pytest.mark.parametrize("listening", [False, True], ids=["no listener", "application on the port"])
def test_without_the_proxy_hbone_is_closed(capture: Capture, network: Pair, family: int, *, listening: bool) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace)
    if not listening:
        assert refused(lambda: client.dial(pod.addresses[family], HBONE_PORT, timeout_s=0.6))
        return
    with Application(pod, HBONE_PORT) as application:
        assert refused(lambda: client.dial(pod.addresses[family], HBONE_PORT, timeout_s=0.6))
        assert application.peers.empty()
    if capture.name in {"ebpf", "nftables"}:
        assert packets(capture, pod, "hbone" if capture.name == "nftables" else "closed") > 0
    else:  # the listener of the application was reached, and could not answer
        assert packets(capture, pod, "leftover") > 0


def test_the_kernels_own_answers_reach_the_proxy(captured: tuple[Pair, Proxy], family: int) -> None:
    """Those of a socket that waits for its end, and those for one that is gone: neither goes to the peer that the proxy speaks for."""
    (pod, client) = (captured[0].pod, captured[0].client)
    with Application(client, PORT):
        for _ in range(20):
            ask(pod, client.addresses[family])
        deadline = time.monotonic() + 2  # unanswered, the proxy's side repeats itself for minutes
        while waiting := pod.shell("ss", "-Htn", "state", "last-ack"):
            assert time.monotonic() < deadline, waiting
            time.sleep(0.02)
    with client.open_socket(family) as listening:
        listening.bind((client.addresses[family], 9000))
        listening.listen()
        made = pod.dial(client.addresses[family], 9000)
        with listening.accept()[0] as served:
            made.close()
            served.settimeout(3)
            assert served.recv(1) == b""
            with pytest.raises(ConnectionError):
                served.sendall(bytes(1 << 26))  # more than the buffers on the way hold


@only_rules
def test_a_half_closed_connection_gets_its_answer_however_late(captured: tuple[Pair, Proxy], family: int) -> None:
    """The kernel's own timeout is made one second here; it would forget the redirection."""
    pod, client = captured[0].pod, captured[0].client
    names = [f"net.netfilter.nf_conntrack_tcp_timeout_{state}=1" for state in ("close_wait", "fin_wait")]
    pod.shell("sysctl", "-qw", *names)
    with client.open_socket(family) as listening:
        listening.bind((client.addresses[family], PORT))
        listening.listen()
        with pod.dial(client.addresses[family], PORT) as made, listening.accept()[0] as served:
            served.settimeout(3)
            made.sendall(b"question")
            made.shutdown(socket.SHUT_WR)
            assert served.recv(100) == b"question"
            assert served.recv(100) == b""
            # control: another half-closed connection, not redirected, is forgotten meanwhile
            wait_until_forgotten(pod, family)
            served.sendall(b"answer")
            assert made.recv(100) == b"answer"


def wait_until_forgotten(pod: Side, family: int) -> None:
    address = pod.addresses[family]
    with pod.open_socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, SO_MARK, CONNECTION_MARK)
        listening.bind((address, 9090))
        listening.listen()
        with pod.open_socket(family) as made:
            made.setsockopt(socket.SOL_SOCKET, SO_MARK, CONNECTION_MARK)
            made.connect((address, 9090))
            with listening.accept()[0] as served:
                made.shutdown(socket.SHUT_WR)
                assert served.recv(1) == b""
                deadline = time.monotonic() + 10
                while any("dport=9090" in line for line in conntrack(pod)):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)


def conntrack(pod: Side) -> list[str]:
    return pod.namespace.run(Path("/proc/thread-self/net/nf_conntrack").read_text).splitlines()


@by_either_backend
def test_without_the_proxy_everything_is_closed(capture: Capture, network: Pair, family: int) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace)
    with Application(pod, PORT) as inside, Application(client, PORT) as outside:
        assert refused(lambda: client.dial(pod.addresses[family], PORT, timeout_s=0.6))
        assert refused(lambda: pod.dial(client.addresses[family], PORT, timeout_s=0.6))
        assert inside.peers.empty()
        assert outside.peers.empty()
    assert packets(capture, pod, unheard(capture)) > 0


def test_connections_survive_while_their_listener_is_away_and_new_ones_do_not_pass(captured: tuple[Pair, Proxy], family: int) -> None:
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    with Application(pod, PORT) as application, client.dial(pod.addresses[family], PORT) as open_one:
        talk(open_one, b"before")
        application.peers.get(timeout=3)
        proxy.stop_accepting()
        assert talk(open_one, b"after").endswith(b"after")
        assert refused(lambda: client.dial(pod.addresses[family], PORT, timeout_s=0.6))
        assert application.peers.empty()


def test_the_proxys_own_connections_leave_untouched(capture: Capture, network: Pair, family: int) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace)
    with Application(client, PORT), pod.open_socket(family) as made:
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, PROXY_MARK)
        made.connect((client.addresses[family], PORT))
        assert talk(made, b"direct") == f"{pod.addresses[family]} direct".encode()


def test_the_mark_towards_the_application_never_leaves(capture: Capture, network: Pair, family: int) -> None:
    pod, client = network.pod, network.client
    capture.apply(pod.namespace)
    with Application(client, PORT) as application, pod.open_socket(family) as made:
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, CONNECTION_MARK)
        made.settimeout(0.6)
        assert refused(lambda: made.connect((client.addresses[family], PORT)))
        assert application.peers.empty()


def test_a_socket_that_is_bound_to_a_device_gets_nowhere(captured: tuple[Pair, Proxy], family: int) -> None:
    """It can't come back by the loopback device; it does not leave either."""
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    with Application(client, PORT) as application, pod.open_socket(family) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
        made.settimeout(0.6)
        assert refused(lambda: made.connect((client.addresses[family], PORT)))
        assert application.peers.empty()
    assert proxy.seen.empty()


def test_connections_from_before_are_reset(capture: Capture, network: Pair, family: int) -> None:
    """Both directions, as soon as either side speaks; nothing said after capture gets through."""
    pod, client = network.pod, network.client
    with Application(pod, PORT), Application(client, PORT):
        made = {
            "in, the client speaks": client.dial(pod.addresses[family], PORT),
            "out, the pod speaks": pod.dial(client.addresses[family], PORT),
        }
        for connection in made.values():
            talk(connection, b"early")
        with Proxy(pod, listeners := open_listeners(pod.namespace)):
            capture.apply(pod.namespace, listeners)
            for name, connection in made.items():
                with connection, pytest.raises(ConnectionError):
                    pytest.fail(f"{name}: {talk(connection, b'late')!r}")


def test_an_application_that_speaks_on_a_connection_from_before_is_reset(capture: Capture, network: Pair, family: int) -> None:
    pod, client = network.pod, network.client
    with pod.open_socket(family) as listening:
        listening.bind((pod.addresses[family], PORT))
        listening.listen()
        with client.dial(pod.addresses[family], PORT) as made, listening.accept()[0] as served:
            served.settimeout(3)
            capture.apply(pod.namespace)
            served.sendall(b"late")
            with pytest.raises(ConnectionResetError):
                served.recv(1)
            assert packets(capture, pod, "outbound") + packets(capture, pod, "leftover") == 1
            made.settimeout(0.2)
            with pytest.raises(TimeoutError):
                made.recv(100)


def test_syn_cookies_reach_only_the_listener(captured: tuple[Pair, Proxy], family: int) -> None:
    pod, client = captured[0].pod, captured[0].client
    pod.shell("sysctl", "-qw", "net.ipv4.tcp_syncookies=2")
    with Application(pod, PORT) as application, Application(client, PORT):
        for _ in range(5):
            assert ask(client, pod.addresses[family]) == f"{client.addresses[family]} hello".encode()
        assert ask(pod, client.addresses[family]) == f"{pod.addresses[family]} hello".encode()
        assert application.peers.qsize() == 5


@pytest.mark.parametrize(("ipv4", "ipv6"), [(True, False), (False, True)], ids=["ipv4-only", "ipv6-only"])
def test_single_stack_pods(capture: Capture, *, ipv4: bool, ipv6: bool) -> None:
    with pair(ipv4=ipv4, ipv6=ipv6) as network, Proxy(network.pod, listeners := open_listeners(network.pod.namespace)) as proxy:
        capture.apply(network.pod.namespace, listeners)
        [address] = network.pod.addresses.values()
        [source] = network.client.addresses.values()
        with Application(network.pod, PORT):
            assert ask(network.client, address) == f"{source} hello".encode()
        assert proxy.seen.get(timeout=3)[0] == ListenerKind.INBOUND
        with network.client.dial(address, HBONE_PORT) as made:
            assert made.recv(100) == b"hbone\n"
        capture.remove(network.pod.namespace)
        assert capture.inspect(network.pod.namespace).state == CaptureState.ABSENT


SYSCTLS = ("net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect")


def rules(pod: Side) -> str:
    """Whatever does anything: the empty tables that iptables leaves do not."""
    listed = json.loads(pod.shell("nft", "-j", "list", "ruleset"))["nftables"]
    kept = [entry for entry in listed if not entry.keys() & {"metainfo", "table"} and not entry.get("chain", {}).get("hook")]
    legacy = [pod.shell(f"{word}-legacy-save") for word in ("iptables", "ip6tables") if pod.namespace.run(tables_of, word)]
    lines = [line for text in legacy for line in text.splitlines() if line.startswith(("-A", ":")) and " ACCEPT [" not in line]
    return json.dumps([kept, lines])


def tables_of(word: str) -> bool:
    """Whether the older backend has made tables: asking its program would make them."""
    return bool(Path(f"/proc/thread-self/net/{word.replace('tables', '_tables')}_names").read_text())


def everything(pod: Side) -> tuple[str, ...]:
    """What an operator could compare; the sysctls whole, since a change of one can move another."""
    return (
        rules(pod),
        pod.shell("ip", "rule"),
        pod.shell("ip", "-6", "rule"),
        pod.shell("ip", "route", "show", "table", "all"),
        pod.shell("ip", "-6", "route", "show", "table", "all"),
        "\n".join(line for line in pod.shell("sysctl", "net.ipv4", "net.ipv6").splitlines() if "conntrack" not in line),
    )


@by_either_backend
@pytest.mark.parametrize("drained", [False, True])
def test_removal_restores_exactly_what_was_there(capture: Capture, network: Pair, *, drained: bool) -> None:
    pod = network.pod
    pod.shell("nft", "-f", "-", stdin="table ip other {\nchain c {\ntype filter hook input priority 0\ntcp dport 9 drop\n}\n}\n")
    pod.shell("ip", "rule", "add", "fwmark", "0x111/0xfff", "lookup", "100", "priority", "150")
    pod.shell("ip", "route", "add", "10.99.0.0/16", "dev", "eth0", "table", "100")
    pod.shell("sysctl", "-qw", "net.ipv6.fwmark_reflect=1")
    # The kernel gives the device its address of the link, and its route, in its own time.
    eventually(pod.has_link_address)
    before = everything(pod)
    capture.apply(pod.namespace)
    capture.apply(pod.namespace)
    assert everything(pod) != before
    if drained:
        capture.drain(pod.namespace)
        capture.apply(pod.namespace)
        capture.drain(pod.namespace)
    capture.remove(pod.namespace)
    capture.remove(pod.namespace)
    assert everything(pod) == before


def test_draining_keeps_open_connections_and_lets_new_ones_past(capture: Capture, captured: tuple[Pair, Proxy], family: int) -> None:
    (pod, client), proxy = (captured[0].pod, captured[0].client), captured[1]
    with (
        Application(pod, PORT),
        Application(client, PORT),
        client.dial(pod.addresses[family], PORT) as into,
        pod.dial(client.addresses[family], PORT) as out,
    ):
        talk(into, b"before")
        talk(out, b"before")
        capture.drain(pod.namespace)
        assert capture.inspect(pod.namespace).state == CaptureState.DRAINING
        assert talk(into, b"after").endswith(b"after")
        assert talk(out, b"after").endswith(b"after")
        proxy.seen.get(timeout=3)
        proxy.seen.get(timeout=3)
        assert ask(client, pod.addresses[family]).endswith(b"hello")
        assert ask(pod, client.addresses[family]).endswith(b"hello")
        assert proxy.seen.empty()


@by_either_backend
def test_inspection_tells_what_was_tampered_with_and_applying_mends_it(capture: Capture, network: Pair) -> None:
    pod = network.pod
    assert capture.inspect(pod.namespace).state == CaptureState.ABSENT
    capture.drain(pod.namespace)
    assert capture.inspect(pod.namespace).state == CaptureState.ABSENT
    with Proxy(pod, listeners := open_listeners(pod.namespace)):
        capture.apply(pod.namespace, listeners)
        assert capture.inspect(pod.namespace).state == CaptureState.CAPTURED
        for harm, word in (
            (("sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=0"), "tcp_fwmark_accept"),
            (("ip", "-6", "rule", "del", "fwmark", "0x111/0xfff", "lookup", "100"), "INET6"),
            (("ip", "route", "flush", "table", "100"), "INET"),
            *((harm, "rules") for harm in harms(capture)),
        ):
            pod.shell(*harm)
            found = capture.inspect(pod.namespace)
            assert found.state == CaptureState.BROKEN
            assert word in found.problem
            capture.apply(pod.namespace)
            assert capture.inspect(pod.namespace).state == CaptureState.CAPTURED


@by_either_backend
def test_applying_again_keeps_the_counters(capture: Capture, captured: tuple[Pair, Proxy]) -> None:
    pod, client = captured[0].pod, captured[0].client
    with Application(pod, PORT):
        ask(client, pod.addresses[socket.AF_INET])
    counted = packets(capture, pod, "inbound")
    assert counted > 0
    capture.apply(pod.namespace)
    assert packets(capture, pod, "inbound") >= counted
