"""How long a tunnel is kept, and for what: all ports of an endpoint, as long as it stands on the certificate that is ours now."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from nodeagent.ztunnel.protocol import AskRoute, ForgetIdentity, Forward, Settings
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, echo, hbone_route, identity_of, mesh, server
from tests.nodeagent.ztunnel.proxy.stub import until
from tests.nodeagent.ztunnel.proxy.test_decisions import is_turned_away, talk

PORTS = range(BACKEND_PORT, BACKEND_PORT + 5)
CLIENT = identity_of("client")


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[Mesh]:
    with mesh(tmp_path, workers=1) as both:
        yield both


def _tunnels(both: Mesh) -> int:
    return both.client.agent.report().tunnels_out


def test_the_ports_of_an_endpoint_share_its_tunnel(one_worker: Mesh) -> None:
    both = one_worker
    with ExitStack() as stack:
        for port in PORTS:
            stack.enter_context(server(both.server.side, echo, port=port))
            assert talk(stack.enter_context(both.client.side.dial(both.server.address, port)))
        assert _tunnels(both) == 1


def test_a_workload_takes_its_share_of_tunnels_and_leaves_the_rest(tmp_path: Path) -> None:
    with mesh(tmp_path, Settings(max_tunnels_per_source=2), workers=1) as both, ExitStack() as stack:

        def route(asked: AskRoute) -> Forward:
            """Each port is another endpoint."""
            there = hbone_route(asked, both.server)
            assert isinstance(there, Forward)
            return Forward(endpoints=(msgspec.structs.replace(there.endpoints[0], uid=asked.destination),))

        both.client.script.route = route
        for port in PORTS[:2]:
            stack.enter_context(server(both.server.side, echo, port=port))
            assert talk(stack.enter_context(both.client.side.dial(both.server.address, port)))
        assert is_turned_away(both.client, both.server.address, PORTS[2])
        assert (_tunnels(both), both.client.agent.report().shed) == (2, {"tunnels_of_source": 1})
        until(lambda: [entry.flag for entry in both.client.agent.closed] == ["UO"])


def test_a_rotated_certificate_is_shown_by_new_connections_and_the_old_tunnel_ends_with_its_last_one(one_worker: Mesh) -> None:
    both = one_worker
    with server(both.server.side, echo):
        with both.client.side.dial(both.server.address, BACKEND_PORT) as before:
            assert talk(before)
            both.client.agent.send(both.authority.issue(CLIENT))
            assert _tunnels(both) == 1
            with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
                assert talk(after)
                assert _tunnels(both) == 2
                assert talk(before)
        until(lambda: _tunnels(both) == 1)


def test_the_same_certificate_told_again_changes_nothing(one_worker: Mesh) -> None:
    both = one_worker
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        both.client.restart_agent()
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            assert talk(after)
            assert _tunnels(both) == 1


def test_a_forgotten_identity_has_no_use_of_the_tunnels_that_it_opened(one_worker: Mesh) -> None:
    both = one_worker
    with server(both.server.side, echo) as seen:
        with both.client.side.dial(both.server.address, BACKEND_PORT) as before:
            assert talk(before)
            both.client.agent.send(ForgetIdentity(identity=CLIENT))
            assert _tunnels(both) == 1
            assert is_turned_away(both.client, both.server.address)
        assert len(seen) == 1
        until(lambda: _tunnels(both) == 0)
