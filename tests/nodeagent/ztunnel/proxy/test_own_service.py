"""A pod that calls itself, and a client of one IP family that asks for an application of the other: the application is reached."""

import socket

import pytest

from nodeagent.ztunnel.protocol import AskRoute, AskVerdict, Endpoint, Forward, Pass, Route, Tunnel
from tests.nodeagent.ztunnel.proxy.mesh import BACKEND_PORT, Mesh, echo, exchange, identity_of, server
from tests.nodeagent.ztunnel.proxy.stub import attributes, until

FAMILIES = [socket.AF_INET, socket.AF_INET6]


def _hbone(address: str) -> str:
    return f"[{address}]:15008" if ":" in address else f"{address}:15008"


def _to_server(asked: AskRoute, *, by: str, source: str, authority: str) -> Forward:
    tunnel = Tunnel(identity=identity_of(source), authority=authority, expect=(identity_of("server"),))
    return Forward(endpoints=(Endpoint(uid="server", address=_hbone(by), attributes=attributes(to=asked.destination), tunnel=tunnel),))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("through", ["hbone", "pass"])
def test_a_pod_reaches_its_own_service(both: Mesh, family: int, through: str) -> None:
    address = both.server.side.addresses[family]

    def route(asked: AskRoute) -> Route:
        if through == "pass":
            return Pass(attributes=attributes())
        return _to_server(asked, by=address, source="server", authority=asked.destination)

    both.server.script.route = route
    with server(both.server.side, echo, family=family) as seen, both.server.side.dial(address, BACKEND_PORT) as connection:
        assert exchange(connection, b"to myself") == b"to myself"
    assert seen == [address]
    peers = [one.peer for one in both.server.agent.questions(AskVerdict) if isinstance(one, AskVerdict)]
    assert peers == ([identity_of("server")] if through == "hbone" else [])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tunnel_of_one_family_serves_applications_of_the_other(both: Mesh, family: int) -> None:
    """The application sees the pod as the source then: the client's address cannot be shown."""
    other = socket.AF_INET6 if family == socket.AF_INET else socket.AF_INET
    address = both.server.side.addresses[family]
    authority = f"[{address}]:{BACKEND_PORT}" if family == socket.AF_INET6 else f"{address}:{BACKEND_PORT}"
    both.client.script.route = lambda asked: _to_server(asked, by=both.server.side.addresses[other], source="client", authority=authority)
    with server(both.server.side, echo, family=family) as seen, both.client.side.dial(address, BACKEND_PORT) as connection:
        assert exchange(connection, b"across") == b"across"
    assert seen == [address]
    until(lambda: bool(both.server.agent.closed))
    assert both.server.agent.closed[0].flag is None
