"""An agent that captures another way than the former one takes over without a gap, and leaves nothing of the former way."""

import itertools
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nodeagent.capture.base import Capture, CaptureState, Way
from nodeagent.capture.choice import choose
from nodeagent.capture.listeners import open_listeners
from nodeagent.ztunnel.protocol import ListenerKind
from tests.nodeagent.capture.test_captured_traffic import SYSCTLS, rules
from tests.nodeagent.pods import Pair, Side, refused
from tests.nodeagent.standin import Application, Proxy

PORT = 8080
WAYS = [way for way in Way if way is not Way.AUTO]


def traces(pod: Side) -> tuple[str, ...]:
    """Of a capture, any."""
    held = ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", "net.netfilter.nf_conntrack_tcp_timeout_fin_wait")
    routes = (pod.shell("ip", version, "route", "show", "table", "100", check=False) for version in ("-4", "-6"))
    return rules(pod), pod.shell("ip", "rule"), pod.shell("ip", "-6", "rule"), *routes, pod.shell("sysctl", *SYSCTLS, *held)


def every_way(pins: Path) -> dict[Way, Capture]:
    return {way: choose(way, pins).way for way in WAYS}


def test_each_way_replaces_each_other_one_whole(pins: Path, network: Pair) -> None:
    pod = network.pod
    before, ways = traces(pod), every_way(pins)
    with Proxy(pod, listeners := open_listeners(pod.namespace)):
        for former, way in itertools.permutations(WAYS, 2):
            ways[former].apply(pod.namespace, listeners)
            ways[way].apply(pod.namespace, listeners)
            assert ways[way].inspect(pod.namespace).state is CaptureState.CAPTURED, f"{way} after {former}"
            assert ways[former].inspect(pod.namespace).state is not CaptureState.CAPTURED
            ways[way].remove(pod.namespace)
            assert traces(pod) == before, f"{way} after {former}"
            assert list(pins.glob("steer*")) == []


def test_each_way_drains_and_removes_what_another_left(pins: Path, network: Pair) -> None:
    pod = network.pod
    before, ways = traces(pod), every_way(pins)
    with Proxy(pod, listeners := open_listeners(pod.namespace)):
        for former, way in itertools.permutations(WAYS, 2):
            for drained in (False, True):
                ways[former].apply(pod.namespace, listeners)
                if drained:
                    ways[way].drain(pod.namespace)
                ways[way].remove(pod.namespace)
                assert traces(pod) == before, f"{way} after {former}"
                assert list(pins.glob("steer*")) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from nodeagent.capture.base import Way
from nodeagent.capture.choice import choose
from nodeagent.capture.listeners import open_listeners
from nodeagent.linux.namespaces import Namespace
namespace = Namespace.open(sys.argv[3])
choose(Way(sys.argv[1]), Path(sys.argv[2])).way.apply(namespace, open_listeners(namespace))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_capture_outlives_agent_and_proxy_and_is_taken_up_again(pins: Path, network: Pair, family: int, way: Way) -> None:
    pod, client = network.pod, network.client
    ended = subprocess.run([sys.executable, "-c", KILLED, way, str(pins), pod.namespace.path], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    capture = choose(way, pins).way
    with Application(pod, PORT) as inside, Application(client, PORT) as outside:
        left = capture.inspect(pod.namespace)
        assert (left.state, left.problem[:11]) == ((CaptureState.BROKEN, "no listener") if way is Way.EBPF else (CaptureState.CAPTURED, ""))
        assert refused(lambda: client.dial(pod.addresses[family], PORT, timeout_s=0.6))
        assert refused(lambda: pod.dial(client.addresses[family], PORT, timeout_s=0.6))
        assert inside.peers.empty()
        assert outside.peers.empty()
        with Proxy(pod, listeners := open_listeners(pod.namespace)) as proxy:
            capture.apply(pod.namespace, listeners)
            assert capture.inspect(pod.namespace).state is CaptureState.CAPTURED
            with client.dial(pod.addresses[family], PORT) as made:
                made.sendall(b"x")
                assert made.recv(100)
            assert proxy.seen.qsize() == 1


def test_no_connection_passes_the_proxy_by_meanwhile(pins: Path, network: Pair, family: int) -> None:
    """Connections all the while: one that is under way may end with its way, and each that the application saw was the proxy's."""
    pod, client = network.pod, network.client
    ways = every_way(pins)
    stop, answered, ended = threading.Event(), [], []

    def dial() -> None:
        while not stop.is_set():
            try:
                with client.dial(pod.addresses[family], PORT) as made:
                    made.sendall(b"x")
                    answered.append(made.recv(100))
            except OSError as error:
                ended.append(error)

    with Proxy(pod, listeners := open_listeners(pod.namespace)) as proxy, Application(pod, PORT) as application:
        ways[Way.EBPF].apply(pod.namespace, listeners)
        thread = threading.Thread(target=dial)
        thread.start()
        rounds = [*WAYS, *reversed(WAYS)]
        for way in rounds:
            ways[way].apply(pod.namespace, listeners)
        stop.set()
        thread.join(10)
        seen = [kind for kind, *_ in proxy.seen.queue]
        assert len(answered) > len(rounds)
        assert len(ended) <= len(rounds)
        assert application.peers.qsize() <= seen.count(ListenerKind.INBOUND)
