"""What clients of a waypoint claim in headers (whose address, which path) is not what a real Envoy decides by, reports or logs."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from control.envoy.built import CLUSTER, LISTENER, ROUTES
from control.envoy.listeners.requests import CLAIMS
from control.envoy.listeners.tunnel import MANAGER
from control.envoy.messages import message_class, packed
from control.envoy.naming import INTERNAL, TERMINATE
from control.envoy.parts import PEER_ADDRESS
from control.envoy.reports import FIELD, PIPE
from tests.control.envoy.echo import upstream
from tests.control.envoy.real_envoy import EXTENSIONS, as_json, running
from tests.control.envoy.routed import CLIENTS, _cluster, _listener, until
from tests.control.envoy.test_waypoint import CLUSTER_NAME, Served, pod, service
from tests.nodeagent.ztunnel.proxy.attacks.frames import Kind, connect_block, headers
from tests.nodeagent.ztunnel.proxy.attacks.peer import Peer

RULES = """
    kind: ConfigMap
    apiVersion: v1
    metadata: {name: istio, namespace: istio-system}
    data: {mesh: "accessLogFile: /dev/stdout"}
---
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: no-one, namespace: shop}
    spec:
      targetRefs: [{kind: Service, group: "", name: cart}]
      action: DENY
      rules: [{to: [{operation: {paths: ["/secret"]}}]}]
"""
FORGED = "10.66.66.66"
KIND = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class Claimed:
    """A waypoint's listeners on loopback: `in` as behind a tunnel, `tunnels` as it takes those, but for TLS and what asks for it."""

    def __init__(self, ports: dict[str, int], directory: Path) -> None:
        self.ports = ports
        self._directory = directory

    def ask(self, path: str, **more: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["in"], timeout=20)
        try:
            connection.request(
                "GET", path, headers={"host": "cart.shop", **{name.replace("_", "-"): value for name, value in more.items()}}
            )
            response = connection.getresponse()
            body = response.read()
            return dict(json.loads(body)) if response.status == 200 else {"status": response.status}
        finally:
            connection.close()

    def line(self, file: str, mark: str) -> str:
        """The one with this in it; waits for it."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [one for one in (self._directory / file).read_text().splitlines() if mark in one]
            return bool(found)

        until(there)
        return found[-1]


def manager(served: Served, listener: str, chain: str) -> Any:
    (found,) = (one for one in served.of(LISTENER)[listener].filter_chains if one.name == chain)
    return message_class(KIND).FromString(found.filters[-1].typed_config.value)


def tunnels(served: Served) -> dict[str, Any]:
    """`connect_terminate` without its first filter, which asks for certificates; answers, and logs whom it takes for the client."""
    fields = {name: value for name, value in as_json(manager(served, TERMINATE, TERMINATE)).items() if name != "rds"}
    answer = {"match": {"connect_matcher": {}}, "direct_response": {"status": 418}}
    line = f"TAKEN-FOR %FILTER_STATE({PEER_ADDRESS}:PLAIN)%\n"
    log = {"@type": f"{EXTENSIONS}.access_loggers.stream.v3.StdoutAccessLog", "log_format": {"text_format_source": {"inline_string": line}}}
    fields |= {"@type": f"{EXTENSIONS}.{MANAGER}", "http_filters": fields["http_filters"][1:]}
    fields |= {"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]}}
    fields["access_log"] = [*fields["access_log"], {"name": "line", "typed_config": log}]
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {"name": "tunnels", "address": address, "filter_chains": [{"filters": [{"name": "http", "typed_config": fields}]}]}


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claimed]:
    directory = tmp_path_factory.mktemp("claims")
    served = Served(RULES)
    served.write("cart.yaml", service("cart", "10.96.0.1"), pod("cart-1", "cart", "10.0.0.1", mesh="none"))
    requests = manager(served, INTERNAL, CLUSTER_NAME)
    requests.ClearField("rds")
    requests.route_config.CopyFrom(served.of(ROUTES)[CLUSTER_NAME])
    with ExitStack() as stack:
        cart = stack.enter_context(upstream("cart"))
        listeners = [as_json(_listener("in", {"name": "http", "typed_config": packed(requests)})), tunnels(served)]
        clusters = [as_json(_cluster(served, CLUSTER_NAME, {"10.0.0.1": cart.port}, None))]
        assert CLUSTER_NAME in served.of(CLUSTER)
        envoy = stack.enter_context(running(directory, listeners, clusters, node={"id": "test", "cluster": "test"}))
        yield Claimed(envoy.ports, directory)


def test_who_opens_a_tunnel_does_not_choose_the_address_that_policies_judge(claimed: Claimed) -> None:
    with Peer(socket.create_connection(("127.0.0.1", claimed.ports["tunnels"]), timeout=20)).greet() as peer:
        peer.send(headers(peer.next_stream(), connect_block(b"10.96.0.1:80", (b"x-forwarded-for", FORGED.encode()))))
        peer.wait_for(lambda one: one.kind == Kind.HEADERS, within_s=15)
    assert "TAKEN-FOR 127.0.0.1:" in claimed.line("envoy.log", "TAKEN-FOR")
    assert json.loads(claimed.line(PIPE, "418"))["client"] == "127.0.0.1"


def test_nor_does_a_request_choose_whom_metrics_and_logs_name(claimed: Claimed) -> None:
    assert claimed.ask("/from", x_forwarded_for=FORGED)["path"] == "/from"
    logged = claimed.line("envoy.log", "GET /from ")
    assert f" {CLIENTS['127.0.0.1']}:40000 " in logged
    assert f'"{FORGED}"' in logged, "what it claims is told as what it is"
    assert claimed.line(PIPE, "page").split(FIELD)[5] == CLIENTS["127.0.0.1"]


def test_a_denied_request_is_logged_with_the_path_that_it_was_denied_for(claimed: Claimed) -> None:
    assert claimed.ask("/secret", x_envoy_original_path="/innocent") == {"status": 403}
    assert "rbac_access_denied" in claimed.line("envoy.log", "GET /secret ")


@pytest.mark.parametrize("name", CLAIMS)
def test_what_envoys_say_to_each_other_reaches_no_application_from_a_client(claimed: Claimed, name: str) -> None:
    arrived = claimed.ask("/claims", **{name: "claimed", "x-kept": "yes"})["headers"]
    assert {key.lower() for key in arrived} & {name, "x-kept"} == {"x-kept"}


def test_a_client_does_not_choose_how_often_its_request_is_tried(claimed: Claimed) -> None:
    more = {"x-envoy-max-retries": "50", "x-envoy-retry-on": "5xx,retriable-status-codes", "x-envoy-retriable-status-codes": "200"}
    found = claimed.ask("/once", x_forwarded_for="127.0.0.1", x_envoy_internal="true", **more)
    assert not {key.lower() for key in found["headers"]} & more.keys(), "they are taken away before routing"
