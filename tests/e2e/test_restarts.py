"""F1, F2: the controller goes, agents are restarted, killed, proxies die; what was known goes on, what is not decided stays closed."""

import os
import signal
import time

import pytest

from demo import manifests
from demo.cluster import API_VIPS
from demo.shell import Process
from demo.wire import Reading, Wiretap
from tests.e2e.mesh import HTTP, NODES, SECRET, Mesh, echoes

READY_S = 2.0
NOISE_S = 3.0
"""What a busy machine may add to it."""


def only_tunnels(tap: Wiretap) -> Reading:
    """Asserts that nothing but TLS 1.3 on the tunnels' port passed between the nodes, and no payload in the clear."""
    reading = tap.read()
    assert not tap.contains(SECRET)
    assert reading.ports == {15008}
    assert reading.tls_versions <= {"TLS 1.3"}
    return reading


def kill_proxy(mesh: Mesh, node: str) -> int:
    pid = mesh.cluster.proxy_pid(node)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def another_proxy(mesh: Mesh, node: str, former: int) -> None:
    mesh.wait(lambda: mesh.cluster.proxy_pid(node) not in {None, former}, f"another proxy on {node}")


def start_agent(mesh: Mesh, node: str) -> float:
    """Starts an agent again; returns the seconds until it said that it is ready."""
    begin = time.monotonic()
    mesh.cluster.start_agent(node, join=False)
    return time.monotonic() - begin


def stop_controller(mesh: Mesh, number: int = signal.SIGTERM) -> None:
    assert mesh.cluster.controller is not None
    mesh.cluster.controller.stop(signal_number=number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_agents_that_restart_without_the_controller_serve_from_what_they_kept(mesh: Mesh, number: signal.Signals) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    known = (far.ipv4, HTTP), (far.ipv6, HTTP), (API_VIPS[0], 80), (API_VIPS[1], 80)
    assert all(mesh.call(shop, *destination).ok for destination in known)
    deny_nine_thousand = manifests.authorization_policy("later", "DENY", app="api", ports=["9000"])
    stop_controller(mesh, number)
    try:
        for node in NODES:
            mesh.cluster.agents[node].stop(signal_number=number)
        with mesh.wiretap(f"alone-{number.name}") as tap:
            # Without their proxies nothing that is open can help: what follows needs kept certificates and new handshakes.
            former = {node: kill_proxy(mesh, node) for node in NODES}
            for node in NODES:
                start_agent(mesh, node)
                another_proxy(mesh, node, former[node])
            calls = [mesh.call(shop, *destination) for destination in known]
        assert [call.error for call in calls] == [""] * len(calls)
        reading = only_tunnels(tap)
        assert reading.tls_versions == {"TLS 1.3"}
        assert not mesh.admin("n1", "/status")["controller"]["connected"]
        with mesh.applied("later", deny_nine_thousand):
            mesh.cluster.start_controller()
            mesh.wait(
                lambda: not mesh.admin("n2", "/status")["problems"] and "later" in mesh.policy_names("n2"), "the policy from meanwhile"
            )
            with pytest.raises(OSError, match=r"reset|closed"):
                mesh.hold(shop, far.ipv4)
    finally:
        if not mesh.cluster.controller.alive:
            mesh.cluster.start_controller()
        for node in NODES:
            if not mesh.cluster.agents[node].alive:
                start_agent(mesh, node)
    mesh.wait(lambda: "later" not in mesh.policy_names("n2"), "the policy to be gone")
    mesh.hold(shop, far.ipv4)


def test_a_killed_agent_costs_no_connection(mesh: Mesh) -> None:
    shop, far, near = mesh.pods["shop"], mesh.pods["api-2"], mesh.pods["api-1"]
    held = [mesh.hold(shop, address) for address in (far.ipv4, far.ipv6, near.ipv4)]
    with mesh.wiretap("agent-killed") as tap, mesh.stream(shop, far.ipv4) as stream:
        for node in NODES:
            mesh.cluster.agents[node].stop(signal_number=signal.SIGKILL)
        began = len(stream.calls)
        mesh.wait(lambda: len(stream.calls) > began + 20, "calls while both agents are dead")
        took = [start_agent(mesh, node) for node in NODES]
        print(f"ready {', '.join(f'{seconds:.2f} s' for seconds in took)} after their start")
        after = len(stream.calls)
        mesh.wait(lambda: len(stream.calls) > after + 20, "calls after both agents are back")
        assert all(echoes(connection) for connection in held)
    assert stream.failed == []
    only_tunnels(tap)
    assert max(took) < READY_S + NOISE_S


def test_a_dead_proxy_is_replaced_and_nothing_passes_it_by(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    for node in NODES:
        held = mesh.hold(shop, far.ipv4)
        with mesh.wiretap(f"proxy-killed-{node}") as tap, mesh.stream(shop, far.ipv4) as stream:
            former = kill_proxy(mesh, node)
            another_proxy(mesh, node, former)
            mesh.wait(lambda: stream.calls[-1].ok and mesh.call(shop, far.ipv4).ok, "calls with the new proxy")
            assert not echoes(held)
            restarts = mesh.admin(node, "/status")["proxy"]["restarts"]
        assert restarts >= 1
        longest_s = max(call.took_s for call in stream.calls)
        print(f"{node}: {len(stream.failed)} of {len(stream.calls)} calls failed, the longest took {longest_s:.2f} s")
        # One may have been in the proxy's hands when it died, and one more in its backlog.
        assert len(stream.failed) <= 2
        only_tunnels(tap)


def test_without_agent_and_proxy_pods_are_closed(mesh: Mesh) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    tries = (
        (shop, far.ipv4, HTTP),
        (shop, far.ipv6, HTTP),
        (shop, near.ipv4, HTTP),
        (near, near.ipv4, HTTP),
        (mesh.outside, near.ipv4, HTTP),
        (mesh.outside, near.ipv6, HTTP),
        (mesh.outside, near.ipv4, 15008),
        (far, near.ipv4, HTTP),
    )
    assert mesh.call(shop, far.ipv4).ok
    with mesh.wiretap("closed", "n1") as tap:
        mesh.cluster.agents["n1"].stop(signal_number=signal.SIGKILL)
        kill_proxy(mesh, "n1")
        mesh.wait(lambda: mesh.cluster.proxy_pid("n1") is None, "the proxy to be gone")
        try:
            calls = [mesh.call(*one, timeout_s=1.0) for one in tries]
        finally:
            start_agent(mesh, "n1")
    assert [call for call in calls if call.ok] == []
    # What is asked of a closed pod from outside is on the wire, since the client there is not in the mesh; no answer is.
    assert not any(
        segment.payload for segment in tap.segments() if segment.source in {str(near.ipv4), str(near.ipv6)} and segment.source_port == HTTP
    )
    assert not any(SECRET in segment.payload for segment in tap.segments() if segment.source in {str(shop.ipv4), str(shop.ipv6)})
    mesh.wait(lambda: mesh.call(shop, far.ipv4).ok and mesh.call(mesh.outside, near.ipv4).ok, "everything to work again")


def test_a_proxy_that_hangs_opens_nothing(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    assert mesh.call(shop, far.ipv4).ok
    pid = mesh.cluster.proxy_pid("n1")
    assert pid is not None
    with mesh.wiretap("hangs") as tap:
        os.kill(pid, signal.SIGSTOP)
        try:
            calls = [mesh.call(shop, address, timeout_s=0.5) for address in (far.ipv4, far.ipv6)]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert [call.ok for call in calls] == [False, False]
        mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "calls to work again")
    only_tunnels(tap)


def test_readiness_is_told_on_the_nodes_port(mesh: Mesh) -> None:
    node = mesh.topology.hosts["n1"]

    def status() -> bytes:
        with mesh.dial(node.namespace, node.ipv4, 15021) as connection:
            connection.sendall(b"GET /healthz/ready HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
            return connection.recv(64).split(b" ")[1]

    assert status() == b"200"
    mesh.cluster.agents["n1"].stop()
    with pytest.raises(OSError, match="refused"):
        mesh.dial(node.namespace, node.ipv4, 15021)
    start_agent(mesh, "n1")
    assert status() == b"200"


def test_a_second_agent_started_by_mistake_ends_and_leaves_the_first_alone(mesh: Mesh) -> None:
    first = mesh.cluster.agents["n1"]
    held = mesh.hold(mesh.pods["shop"], mesh.pods["api-2"].ipv4)
    before = mesh.admin("n1", "/status")
    second = Process("second", first.command, mesh.cluster.directory / "second.log", first.namespace).start()
    try:
        mesh.wait(lambda: not second.alive, "the second agent to end")
    finally:
        code = second.stop()
    assert code not in {0, -signal.SIGTERM, -signal.SIGKILL}, second.tail()
    assert "Traceback" not in second.tail(200), second.tail(200)
    after = mesh.admin("n1", "/status")
    assert (after["started_s"], after["proxy"]["pid"], after["proxy"]["connected"]) == (before["started_s"], before["proxy"]["pid"], True)
    assert first.alive
    assert echoes(held)
