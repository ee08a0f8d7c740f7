"""A pod that comes back under its name is another pod: it has nothing of the one before, and nobody's identity but its own."""

from pathlib import Path

import msgspec
import pytest

from nodeagent.ztunnel.protocol import AskRoute, AskVerdict, Forward, RemoveWorkload, Route
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, Node, echo, hbone_route, identity_of, mesh, server
from tests.nodeagent.ztunnel.proxy.stub import until
from tests.nodeagent.ztunnel.proxy.test_decisions import is_cut, is_turned_away, talk

OTHER = identity_of("other")


def _comes_back(node: Node, identity: str, *, removed_first: bool) -> None:
    """The same uid, and another generation."""
    workload, descriptors = node.script.workloads[0]
    again = msgspec.structs.replace(workload, generation=workload.generation + 1, identity=identity)
    node.script.workloads[0] = (again, descriptors)
    if removed_first:
        node.agent.send(RemoveWorkload(uid=workload.uid, drain_s=0.0))
    node.agent.send(again, descriptors)
    node.agent.report()


def _route_as(asked: AskRoute, both: Mesh, identity: str) -> Route:
    there = hbone_route(asked, both.server)
    assert isinstance(there, Forward)
    (endpoint,) = there.endpoints
    assert endpoint.tunnel is not None
    return Forward(endpoints=(msgspec.structs.replace(endpoint, tunnel=msgspec.structs.replace(endpoint.tunnel, identity=identity)),))


@pytest.mark.parametrize("removed_first", [False, True], ids=["replaced", "removed and added"])
def test_it_asks_anew_for_routes_and_goes_as_itself(both: Mesh, *, removed_first: bool) -> None:
    both.client.agent.send(both.authority.issue(OTHER))
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        both.client.script.route = lambda asked: _route_as(asked, both, OTHER)
        _comes_back(both.client, OTHER, removed_first=removed_first)
        assert is_cut(before)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            assert talk(after)
    peers = [one.peer for one in both.server.agent.questions(AskVerdict) if isinstance(one, AskVerdict)]
    assert peers == [identity_of("client"), OTHER]
    until(lambda: len(both.client.agent.released) >= 1)


@pytest.mark.parametrize("removed_first", [False, True], ids=["replaced", "removed and added"])
def test_it_asks_anew_for_verdicts(both: Mesh, *, removed_first: bool) -> None:
    with server(both.server.side, echo), both.client.side.dial(both.server.address, BACKEND_PORT) as before:
        assert talk(before)
        _comes_back(both.server, identity_of("server"), removed_first=removed_first)
        assert is_cut(before)
        with both.client.side.dial(both.server.address, BACKEND_PORT) as after:
            assert talk(after)
    assert len(both.server.agent.questions(AskVerdict)) == 2


def test_a_workload_goes_as_nobody_else_whatever_a_route_says(tmp_path: Path) -> None:
    with mesh(tmp_path, workers=1) as both, server(both.server.side, echo) as seen:
        both.client.agent.send(both.authority.issue(OTHER))
        both.client.script.route = lambda asked: _route_as(asked, both, OTHER)
        assert is_turned_away(both.client, both.server.address)
        assert (seen, both.server.agent.questions(AskVerdict)) == ([], [])
        until(lambda: [entry.flag for entry in both.client.agent.closed] == ["NR"])
