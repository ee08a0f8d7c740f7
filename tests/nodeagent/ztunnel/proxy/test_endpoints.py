"""Endpoints that fail or vanish without a word: callers are served by another one, and soon no longer wait for that."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from nodeagent.ztunnel.protocol import AskRoute, Endpoint, Forward, Settings, Via
from tests.nodeagent.ztunnel.proxy.blocked import BY_RESET, SILENTLY, blocked
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, echo, hbone_route, mesh, server
from tests.nodeagent.ztunnel.proxy.stub import attributes, until
from tests.nodeagent.ztunnel.proxy.test_decisions import is_turned_away, talk

NOBODY = "10.77.0.9"
EJECT_S = 4.0
SETTINGS = Settings(connect_attempt_s=1.0, eject_after_failures=2, eject_s=EJECT_S)
SOON_S = 0.8
"""Less than an attempt at an endpoint that is silent takes."""
IN_TIME_S = 4.0
"""Two such attempts, and less than any other deadline on the way."""


@pytest.fixture
def two_ways(tmp_path: Path) -> Iterator[Mesh]:
    """The server in a tunnel, and behind that, as a further tier, the server in plaintext."""
    with mesh(tmp_path, SETTINGS, workers=1) as both, server(both.server.side, echo):

        def route(asked: AskRoute) -> Forward:
            first = hbone_route(asked, both.server)
            assert isinstance(first, Forward)
            second = Endpoint(uid="plain", address=asked.destination, attributes=attributes(), tier=1)
            return Forward(endpoints=(*first.endpoints, second))

        both.client.script.route = route
        yield both


def _call(both: Mesh) -> tuple[Via, float]:
    """How a call got to the server, and how long that took."""
    begin_s = time.monotonic()
    with both.client.side.dial(both.server.address, BACKEND_PORT, timeout_s=20) as connection:
        assert talk(connection)
        took_s = time.monotonic() - begin_s
        port = connection.getsockname()[1]
        (via,) = (entry.via for entry in both.client.agent.connections() if entry.source.endswith(f":{port}"))
    return via, took_s


def test_calls_leave_an_endpoint_that_vanished_and_return_when_it_is_back(two_ways: Mesh) -> None:
    both = two_ways
    with both.client.side.dial(both.server.address, BACKEND_PORT, timeout_s=10) as before:
        assert talk(before)
        with blocked(both.server.side, SILENTLY):
            with ThreadPoolExecutor(8) as threads:
                calls = list(threads.map(lambda _: _call(both), range(8)))
            assert {via for via, _ in calls} == {Via.PLAINTEXT}
            assert max(took_s for _, took_s in calls) < IN_TIME_S
            via, took_s = _call(both)
            assert (via, took_s < SOON_S) == (Via.PLAINTEXT, True), "it was set aside at once"
        until(lambda: _call(both)[0] == Via.HBONE, deadline_s=2 * EJECT_S)
        assert talk(before), "what was open has the patience of pings"


def test_a_tunnel_that_died_without_a_word_is_replaced(tmp_path: Path) -> None:
    with mesh(tmp_path, SETTINGS, workers=1) as both, server(both.server.side, echo):
        assert _call(both)[0] == Via.HBONE
        (port,) = _tunnel_ports(both)
        with blocked(both.server.side, SILENTLY, peer_port=port):
            via, took_s = _call(both)
            assert (via, took_s < IN_TIME_S) == (Via.HBONE, True)
            assert _call(both)[1] < SOON_S, "there is a new one"
            assert both.client.agent.report().tunnels_out == 2


def _tunnel_ports(both: Mesh) -> list[int]:
    listed = both.client.side.shell("ss", "-Htn", "state", "established", "dport", "=", ":15008")
    return [int(line.split()[2].rpartition(":")[2]) for line in listed.splitlines()]


def test_an_endpoint_that_never_was_there_costs_one_attempt(tmp_path: Path) -> None:
    with mesh(tmp_path, SETTINGS, workers=1) as both, server(both.server.side, echo):

        def route(asked: AskRoute) -> Forward:
            real = hbone_route(asked, both.server)
            assert isinstance(real, Forward)
            (endpoint,) = real.endpoints
            gone = [
                msgspec.structs.replace(endpoint, uid="gone", address=f"{NOBODY}:15008"),
                Endpoint(uid="gone plain", address=f"{NOBODY}:80", attributes=attributes()),
            ]
            return Forward(endpoints=(*gone, msgspec.structs.replace(endpoint, tier=1)))

        both.client.script.route = route
        assert _call(both)[1] < IN_TIME_S
        assert _call(both)[1] < SOON_S


def test_an_endpoint_that_keeps_failing_is_set_aside_and_comes_back(two_ways: Mesh) -> None:
    both = two_ways
    with blocked(both.server.side, BY_RESET) as refused:
        for tries in (1, 2, 2, 2):
            assert _call(both)[0] == Via.PLAINTEXT
            assert refused() == tries
        until(lambda: _call(both)[0] == Via.PLAINTEXT and refused() > 2, deadline_s=2 * EJECT_S)
        tries = refused()
        assert _call(both)[0] == Via.PLAINTEXT
        assert refused() == tries, "one failure more, and it is set aside again"
    until(lambda: _call(both)[0] == Via.HBONE, deadline_s=2 * EJECT_S)


def test_failures_at_one_destination_set_nothing_aside_at_another(two_ways: Mesh) -> None:
    both = two_ways
    for _ in range(SETTINGS.eject_after_failures + 1):
        assert is_turned_away(both.client, both.server.address, BACKEND_PORT + 1)
    assert _call(both)[0] == Via.HBONE
