"""What ends when nothing is heard or carried any more: tunnels to a peer that is gone, idle tunnels, half-closed connections."""

import socket
from contextlib import ExitStack
from pathlib import Path

import msgspec

from nodeagent.ztunnel.protocol import AskRoute, Forward, Settings
from tests.nodeagent.ztunnel.proxy.blocked import NOT_AT_ALL, SILENTLY, blocked
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, echo, hbone_route, mesh, server
from tests.nodeagent.ztunnel.proxy.stub import until
from tests.nodeagent.ztunnel.proxy.test_decisions import is_cut, talk


def test_a_tunnel_whose_peer_is_gone_ends_on_both_sides_with_what_it_carried(tmp_path: Path) -> None:
    cut: list[bool] = []

    def watch(connection: socket.socket) -> None:
        connection.sendall(connection.recv(100))
        cut.append(is_cut(connection, within_s=8))

    settings = Settings(ping_interval_s=0.3, ping_deadline_s=0.5)
    with mesh(tmp_path, settings) as both, server(both.server.side, watch):
        with both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
            assert talk(connection)
            with blocked(both.server.side, SILENTLY):
                assert is_cut(connection, within_s=8)
                until(lambda: cut == [True], deadline_s=8)
        for agent in (both.client.agent, both.server.agent):
            until(lambda agent=agent: [entry.flag for entry in agent.closed] == ["DT"])
        assert (both.client.agent.report().tunnels_out, both.server.agent.report().tunnels_in) == (0, 0)


def test_a_silent_connection_stays_as_long_as_pings_are_answered(tmp_path: Path) -> None:
    with (
        mesh(tmp_path, Settings(ping_interval_s=0.0, ping_deadline_s=1.5), workers=1) as both,
        server(both.server.side, echo),
        both.client.side.dial(both.server.address, BACKEND_PORT) as connection,
    ):
        assert talk(connection)
        # Packets that the applications have no part in: pings and their answers, for longer than the deadline.
        with blocked(both.server.side, NOT_AT_ALL) as packets:
            until(lambda: packets() >= 8, deadline_s=12)
        assert talk(connection)


def test_an_idle_tunnel_is_closed_and_one_in_use_is_not(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(idle_tunnel_s=0.3), workers=1) as both, ExitStack() as stack:

        def route(asked: AskRoute) -> Forward:
            """Each port is another endpoint, with tunnels of its own."""
            there = hbone_route(asked, both.server)
            assert isinstance(there, Forward)
            return Forward(endpoints=(msgspec.structs.replace(there.endpoints[0], uid=asked.destination),))

        both.client.script.route = route
        for port in (BACKEND_PORT, BACKEND_PORT + 1):
            stack.enter_context(server(both.server.side, echo, port=port))
        kept = stack.enter_context(both.client.side.dial(both.server.address, BACKEND_PORT))
        assert talk(kept)
        with both.client.side.dial(both.server.address, BACKEND_PORT + 1) as short:
            assert talk(short)
            assert both.client.agent.report().tunnels_out == 2
        until(lambda: both.client.agent.report().tunnels_out == 1)
        until(lambda: both.server.agent.report().tunnels_in == 1)
        assert talk(kept)


def test_a_half_closed_connection_that_carries_nothing_is_reaped_on_both_sides(tmp_path: Path) -> None:
    reset: list[bool] = []

    def take_the_end_and_stay(connection: socket.socket) -> None:
        while connection.recv(100):
            pass
        # Who has read the end would read it again: the reset is an error of the socket.
        until(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)
        reset.append(True)

    with mesh(tmp_path, Settings(half_closed_s=0.3)) as both, server(both.server.side, take_the_end_and_stay):
        with both.client.side.dial(both.server.address, BACKEND_PORT) as connection:
            connection.sendall(b"the last word")
            connection.shutdown(socket.SHUT_WR)
            assert is_cut(connection, within_s=5)
        until(lambda: reset == [True])
        # Whichever finds it first tells the other by a reset.
        until(lambda: any(entry.flag == "DT" for entry in (*both.client.agent.closed, *both.server.agent.closed)))
