"""What the agent decides is what happens: at once, again when it changes, and while the agent is away."""

import os
import socket
from pathlib import Path

import msgspec
import pytest

from nodeagent.ztunnel.protocol import (
    AskRoute,
    AskVerdict,
    Endpoint,
    Forward,
    Holds,
    ListenerKind,
    Pass,
    Refuse,
    RemoveWorkload,
    Settings,
    Shutdown,
)
from tests.nodeagent.pods import refused
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, Node, echo, hbone_route, mesh, server, start_proxy
from tests.nodeagent.ztunnel.proxy.stub import Judgement, attributes, until

DENY = Judgement(allow=False, reason="denied by the test", policy="test/deny")


def talk(connection: socket.socket, word: bytes = b"hello") -> bool:
    """Whether the other side still answers."""
    connection.sendall(word)
    return connection.recv(100) == word


def is_cut(connection: socket.socket, *, within_s: float = 1.0) -> bool:
    """Whether the connection is reset (not ended as if all were well) in time."""
    connection.settimeout(within_s)
    try:
        connection.recv(1)
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return False


def is_turned_away(node: Node, address: str, port: int = BACKEND_PORT) -> bool:
    """Whether a new connection is reset, be it so early that dialling sees it."""
    try:
        connection = node.side.dial(address, port)
    except ConnectionResetError:
        return True
    with connection:
        return is_cut(connection, within_s=3)


@pytest.mark.parametrize("through", ["hbone", "plaintext"])
def test_deny_refuses_and_the_application_never_hears_of_it(both: Mesh, through: str) -> None:
    if through == "plaintext":
        both.client.script.route = lambda _: Pass(attributes=attributes())
    both.server.script.verdict = lambda _: DENY
    with server(both.server.side, echo) as seen:
        assert is_turned_away(both.client, both.server.address)
        assert seen == []
    until(lambda: bool(both.server.agent.closed))
    entry = both.server.agent.closed[0]
    assert (entry.flag, entry.policy, entry.error) == ("UAEX", "test/deny", "denied by the test")
    until(lambda: any(row.failed.get("UAEX") for row in both.server.agent.rows))
    if through == "hbone":
        until(lambda: bool(both.client.agent.closed))
        assert both.client.agent.closed[0].flag == "UAEX"


@pytest.mark.parametrize("through", ["hbone", "plaintext"])
def test_a_verdict_that_turns_to_deny_closes_what_stands_on_it(both: Mesh, through: str) -> None:
    if through == "plaintext":
        both.client.script.route = lambda _: Pass(attributes=attributes())
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
        assert talk(connection)
        both.server.script.verdict = lambda _: DENY
        both.server.agent.answer_again()
        assert is_cut(connection)
    until(lambda: bool(both.server.agent.closed))
    assert both.server.agent.closed[0].flag == "UAEX"


def test_a_verdict_is_asked_once_and_held(both: Mesh) -> None:
    with server(both.server.side, echo):
        for _ in range(5):
            with both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
                assert talk(connection)
    assert len(both.server.agent.questions(AskVerdict)) == 1
    assert len(both.client.agent.questions(AskRoute)) == 1


def test_a_verdict_that_narrows_is_asked_again_for_other_sources(tmp_path: Path) -> None:
    second = "10.77.0.3"
    # Workers share nothing: with one, what it holds for any source is seen to serve another source.
    with mesh(tmp_path, workers=1) as both, server(both.server.side, echo):
        both.client.side.shell("ip", "address", "add", f"{second}/24", "dev", "eth0")
        both.client.script.route = lambda _: Pass(attributes=attributes())
        with both.client.side.dial(both.server.address, BACKEND_PORT) as first:
            assert talk(first)
            with dial_past_capture(both, second) as other:
                assert talk(other)
                assert len(both.server.agent.questions(AskVerdict)) == 1
                both.server.script.verdict = lambda asked: Judgement(allow=asked.source != second, holds=Holds.THIS_SOURCE)
                both.server.agent.answer_again()
                assert is_cut(other)
                assert talk(first)
        asked = both.server.agent.questions(AskVerdict)
        assert sorted(one.source for one in asked if isinstance(one, AskVerdict)) == sorted([both.client.address, second])


def dial_past_capture(both: Mesh, source: str) -> socket.socket:
    """A plaintext connection from that address: the proxy's mark keeps it from being captured."""
    made = both.client.side.open_socket(socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)
    made.bind((source, 0))
    made.connect((both.server.address, BACKEND_PORT))
    return made


def test_refuse_resets_and_says_why(both: Mesh) -> None:
    both.client.script.route = lambda _: Refuse(flag="UH", reason="no healthy endpoint", attributes=attributes(refused=True))
    assert is_turned_away(both.client, "10.77.0.9", 80)
    until(lambda: bool(both.client.agent.closed))
    assert (both.client.agent.closed[0].flag, both.client.agent.closed[0].error) == ("UH", "no healthy endpoint")


def test_a_route_that_changes_is_followed_by_new_connections_and_open_ones_stay(both: Mesh) -> None:
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        both.client.script.route = lambda _: Refuse(flag="NR", reason="gone", attributes=attributes())
        both.client.agent.answer_again()
        both.client.agent.report()
        assert is_turned_away(both.client, both.server.address)
        assert talk(before)
    # The tunnel that no route names any more is closed once it is idle.
    until(lambda: both.client.agent.report().tunnels_out == 0)


def test_an_endpoint_that_cannot_be_reached_is_passed_over_unnoticed(both: Mesh) -> None:
    # Nobody listens there, and the address is the pod's own: the kernel refuses at once.
    dead = Endpoint(uid="dead", address=f"{both.client.address}:9", attributes=attributes(to="dead"))

    def route(asked: AskRoute) -> Forward:
        alive = hbone_route(asked, both.server)
        assert isinstance(alive, Forward)
        return Forward(endpoints=(dead, msgspec.structs.replace(alive.endpoints[0], tier=1)))

    both.client.script.route = route
    with server(both.server.side, echo):
        for _ in range(5):
            with both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
                assert talk(connection)
    assert both.client.agent.closed == [] or all(entry.flag is None for entry in both.client.agent.closed)


def test_an_agent_that_is_away_changes_nothing_for_what_is_known(both: Mesh) -> None:
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        both.client.agent.stop()
        both.server.agent.stop()
        assert talk(before)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            assert talk(after)
        both.client.start_agent()
        both.server.start_agent()
        assert talk(before)
        for node in (both.client, both.server):
            (held,) = node.agent.held
            assert held[0].uid == node.script.workloads[0][0].uid
            assert held[0].listeners == node.script.workloads[0][0].listeners
            assert len(held[1]) == len(held[0].listeners) + 1
            hbone = socket.socket(fileno=held[1][1 + held[0].listeners.index(ListenerKind.HBONE)])
            assert hbone.getsockname()[1] == 15008
            hbone.close()
            for index, descriptor in enumerate(held[1]):
                if index != 1 + held[0].listeners.index(ListenerKind.HBONE):
                    os.close(descriptor)
        assert len(both.server.agent.questions(AskVerdict)) == 1, "what is held is asked again"
        both.server.script.verdict = lambda _: DENY
        both.server.agent.answer_again()
        assert is_cut(before)


def test_a_restarted_agent_that_denies_cuts_what_stood_on_the_old_answer(both: Mesh) -> None:
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        both.server.script.verdict = lambda _: DENY
        both.server.restart_agent()
        assert is_cut(before)


def test_new_questions_fail_closed_when_no_answer_comes(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(decision_deadline_s=0.3)) as both, server(both.server.side, echo) as seen:
        both.client.script.route = lambda _: None
        assert is_turned_away(both.client, both.server.address)
        both.client.agent.stop()
        assert is_turned_away(both.client, both.server.address)
        assert seen == []
        both.client.start_agent()
        until(lambda: {entry.flag for entry in both.client.agent.closed} == {"DT"})
        assert both.client.agent.report().waiting_questions == 0


def test_a_workload_that_the_restarted_agent_does_not_name_is_drained(tmp_path: Path) -> None:
    settings = Settings(drain_s=0.2)
    with (
        mesh(tmp_path, settings) as both,
        server(both.server.side, echo),
        both.client.side.dial(both.server.address, BACKEND_PORT) as open_,
    ):
        assert talk(open_)
        both.server.script.workloads.clear()
        both.server.restart_agent()
        assert is_cut(open_, within_s=2)


def test_a_removed_workload_finishes_what_is_open_and_takes_nothing_new(both: Mesh) -> None:
    uid = both.server.script.workloads[0][0].uid
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        both.server.agent.send(RemoveWorkload(uid=uid, drain_s=1.0))
        both.server.agent.report()
        assert talk(before)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            after.settimeout(0.3)
            assert refused(lambda: talk(after))
        assert is_cut(before, within_s=3)
    until(lambda: both.server.agent.report().tunnels_in == 0)


def test_shutdown_drains_and_ends_the_process(both: Mesh) -> None:
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
        assert talk(connection)
        both.server.agent.send(Shutdown(drain_s=30))
        assert talk(connection)
        connection.close()
        assert both.server.process.wait(5) == 0


def test_only_one_proxy_holds_the_lock(both: Mesh) -> None:
    directory = both.client.directory
    assert (directory / "proxy.lock").read_text().strip() == str(both.client.process.pid)
    assert start_proxy(directory).wait(5) == 3
    assert both.client.process.poll() is None


@pytest.mark.parametrize("side", ["client", "server"])
def test_another_generation_is_another_pod(both: Mesh, side: str) -> None:
    node = getattr(both, side)
    with server(both.server.side, echo):
        with both.client.side.dial(both.server.address, BACKEND_PORT) as before:
            assert talk(before)
            workload, descriptors = node.script.workloads[0]
            node.agent.send(msgspec.structs.replace(workload, generation=2), descriptors)
            assert is_cut(before)
        until(lambda: node.agent.report().tunnels_in + node.agent.report().tunnels_out == 0)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            assert talk(after)
