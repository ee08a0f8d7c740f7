"""control/envoy/limits/client_code.py: what is noted of a client, run by a real Envoy."""

import http.client
from collections.abc import Iterator

import pytest

from control.envoy.limits.client_code import client_code
from control.envoy.messages import new
from control.envoy.parts import PEER, PEER_ADDRESS, extension
from control.envoy.rbac.parts import Callers, Identity
from tests.control.envoy.real_envoy import RealEnvoy, as_json, http_listener, running

GATEWAY, PAGE = "spiffe://cluster.local/ns/edge/sa/gateway", "spiffe://cluster.local/ns/shop/sa/page"
CALLERS = {
    "gateway": (GATEWAY, Callers(Identity.TUNNEL, (GATEWAY,))),
    "page": (PAGE, Callers(Identity.TUNNEL, (GATEWAY,))),
    "nobody": ("", Callers(Identity.TUNNEL, (GATEWAY,))),
    "edge": ("", Callers(Identity.TLS)),
}
FILTER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
SHOWN = "of %DYNAMIC_METADATA(noted:namespace)% %DYNAMIC_METADATA(noted:address)%"


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealEnvoy]:
    listeners = []
    for name, (identity, callers) in CALLERS.items():
        value = {"object_key": PEER, "factory_key": "envoy.string", "format_string": {"text_format_source": {"inline_string": identity}}}
        # As the tunnel leaves it there.
        address = {"text_format_source": {"inline_string": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"}}
        values = [*([value] if identity else ()), {"object_key": PEER_ADDRESS, "format_string": address}]
        peer = extension("peer", "filters.http.set_filter_state.v3.Config", on_request_headers=values)
        code = {"inline_string": client_code(callers, "noted", "namespace", "address")}
        noting = extension("noting", "filters.http.lua.v3.Lua", default_source_code=code)
        header = {"header": {"key": "noted", "value": SHOWN}}
        answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}, "response_headers_to_add": [header]}
        listeners.append(http_listener(name, [as_json(new(FILTER, **one)) for one in (peer, noting)], [answer]))
    with running(tmp_path_factory.mktemp("envoy"), listeners) as found:
        yield found


def noted(envoy: RealEnvoy, name: str, said: str = "") -> str:
    connection = http.client.HTTPConnection("127.0.0.1", envoy.ports[name], timeout=10)
    try:
        connection.request("GET", "/", headers={"x-forwarded-for": said} if said else {})
        return str(connection.getresponse().headers["noted"]).removeprefix("of ")
    finally:
        connection.close()


def test_the_namespace_is_the_identitys(envoy: RealEnvoy) -> None:
    assert noted(envoy, "page") == "shop 127.0.0.1"
    assert noted(envoy, "nobody") == " 127.0.0.1"
    assert noted(envoy, "edge") == " 127.0.0.1"


def test_only_gateways_are_believed_for_whom_they_call(envoy: RealEnvoy) -> None:
    assert noted(envoy, "gateway", "192.0.2.1") == "edge 192.0.2.1"
    assert noted(envoy, "page", "192.0.2.1") == "shop 127.0.0.1"
    assert noted(envoy, "nobody", "192.0.2.1") == " 127.0.0.1"
    assert noted(envoy, "edge", "192.0.2.1") == " 192.0.2.1"


@pytest.mark.parametrize(
    ("said", "network"),
    [
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::6", "2001:db8:1:2::/64"),
        ("2001:db8::6", "2001:db8:0:0::/64"),
        ("2001:db8::1:2:3:4:5", "2001:db8:0:1::/64"),
        ("::1", "0:0:0:0::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
    ],
)
def test_an_address_of_version_6_stands_for_its_network(envoy: RealEnvoy, said: str, network: str) -> None:
    assert noted(envoy, "gateway", said) == f"edge {network}"
