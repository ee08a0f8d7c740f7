"""control/envoy/access_logs.py: real requests and connections through a real Envoy, and the lines that it writes of them."""

import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from control.envoy.access_logs import FIELDS
from control.envoy.built import LISTENER
from control.envoy.listeners.chains import http_chain
from control.envoy.messages import Message, new
from control.envoy.place import Place
from control.validation.document import read_documents
from control.validation.log_formats import PLAIN
from demo.cluster import eventually
from tests.control.envoy.real_envoy import RealEnvoy, as_json, running
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service
from tests.control.envoy.validation import validate

PORTS = "[{name: http, port: 80}, {name: tcp-db, port: 82}]"
OTHERS = (
    "%REQ(x-a?:path):20%",
    "%RESP(x-a)%",
    "%TRAILER(x-a)%",
    "%DYNAMIC_METADATA(a.b:c:d)%",
    "%FILTER_STATE(io.istio.peer_principal:PLAIN)%",
    "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "%%",
)
"""Operators that take something."""
SERVICE = service("cart", "10.96.0.1", PORTS)


def config(mesh: str) -> str:
    return f"""
    kind: ConfigMap
    apiVersion: v1
    metadata: {{name: istio, namespace: istio-system}}
    data:
      mesh: {json.dumps(mesh)}
"""


CHOSEN = """
    kind: Telemetry
    apiVersion: telemetry.istio.io/v1
    metadata: {name: chosen, namespace: shop}
    spec:
      targetRefs: [{kind: Service, name: cart}]
      accessLogging: [{filter: {expression: "request.url_path.startsWith('/kept') && 'x-asked' in request.headers"}}]
"""


def served(mesh: str, *others: str) -> Served:
    found = Served()
    found.write("others.yaml", *others)
    found.write("mesh.yaml", config(mesh))
    found.write("cart.yaml", SERVICE, pod("cart-1", "cart", "10.0.0.1"))
    return found


def listeners(found: Served, name: str) -> list[Message]:
    """The connection manager, with a route that needs nobody else, and the carrier of TCP, whose cluster is not there."""
    key = "shop/cart.shop.svc.cluster.local"
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 418}, "name": "teapot"}
    routes = {"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]}}
    http = http_chain(found.world, Place(WAYPOINT, key, 80), "http", routes).message
    (main,) = found.of(LISTENER).keys() & {"main_internal"}
    (tcp,) = (one for one in found.of(LISTENER)[main].filter_chains if "|tcp|" in one.name)
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    kind = "envoy.config.listener.v3.Listener"
    return [new(kind, name=f"{name}-{what}", address=address, filter_chains=[one]) for what, one in (("http", http), ("tcp", tcp))]


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealEnvoy, Path]]:
    directory = tmp_path_factory.mktemp("envoy")
    configs = {
        "json": "{accessLogFile: /dev/stdout, accessLogEncoding: JSON}",
        "text": "{accessLogFile: /dev/stdout}",
        "own": "{accessLogFile: /dev/stdout, accessLogFormat: 'own %RESPONSE_CODE% %REQ(x-asked):4%'}",
        "none": "{}",
    }
    all_of_them = [one for name, mesh in configs.items() for one in listeners(served(mesh), name)]
    all_of_them += listeners(served(configs["text"], CHOSEN), "chosen")
    with running(directory, [as_json(one) for one in all_of_them]) as made:
        yield made, directory / "envoy.log"


def ask(envoy: RealEnvoy, name: str, path: str, **headers: str) -> int:
    connection = HTTPConnection("127.0.0.1", envoy.ports[f"{name}-http"], timeout=20)
    try:
        connection.request("GET", path, headers={"host": "cart", **{key.replace("_", "-"): value for key, value in headers.items()}})
        return connection.getresponse().status
    finally:
        connection.close()


def lines(log: Path, mark: str) -> list[str]:
    """What Envoy wrote that holds a mark; waits until there is something."""
    return eventually(lambda: [line for line in log.read_text().splitlines() if mark in line], f"a line with {mark}", timeout_s=20)


def test_a_request_as_json(envoy: tuple[RealEnvoy, Path]) -> None:
    assert ask(envoy[0], "json", "/as-json?x=1", user_agent='quoted" and \\') == 418
    (line,) = lines(envoy[1], "/as-json")
    found = json.loads(line)
    assert found.keys() == FIELDS.keys()
    assert (found["method"], found["path"], found["protocol"], found["response_code"]) == ("GET", "/as-json?x=1", "HTTP/1.1", 418)
    assert (found["authority"], found["user_agent"], found["route_name"]) == ("cart", 'quoted" and \\', "teapot")


def test_a_request_as_a_line_of_istios_form(envoy: tuple[RealEnvoy, Path]) -> None:
    ask(envoy[0], "text", "/as-text")
    (line,) = lines(envoy[1], "/as-text")
    assert re.match(r'\[\d{4}-\d\d-\d\dT[\d:.]+Z\] "GET /as-text HTTP/1.1" 418 - direct_response - "-" 0 0 \d+ - "', line), line
    assert line.endswith(" - teapot")


def test_an_operators_own_form_ends_its_lines(envoy: tuple[RealEnvoy, Path]) -> None:
    for _ in range(2):
        ask(envoy[0], "own", "/own", x_asked="twice-and-cut")
    eventually(lambda: lines(envoy[1], "own 418") == ["own 418 twic"] * 2, "two lines", timeout_s=20)


def test_a_connection_that_carries_no_http(envoy: tuple[RealEnvoy, Path]) -> None:
    with socket.create_connection(("127.0.0.1", envoy[0].ports["json-tcp"]), timeout=20) as connection:
        assert connection.recv(1) == b""
    (line,) = lines(envoy[1], f"127.0.0.1:{envoy[0].ports['json-tcp']}")
    assert json.loads(line)["response_flags"] == "NC", "its cluster is not there"


def test_nobody_who_asks_for_none_gets_any(envoy: tuple[RealEnvoy, Path]) -> None:
    assert ask(envoy[0], "none", "/unseen") == 418
    ask(envoy[0], "json", "/seen-after")
    lines(envoy[1], "/seen-after")
    assert "/unseen" not in envoy[1].read_text()


def test_what_telemetry_chooses(envoy: tuple[RealEnvoy, Path]) -> None:
    ask(envoy[0], "chosen", "/kept-without-header")
    ask(envoy[0], "chosen", "/other", x_asked="a")
    ask(envoy[0], "chosen", "/kept-with-it", x_asked="a")
    lines(envoy[1], "/kept-with-it")
    assert "/kept-without-header" not in envoy[1].read_text()
    assert "GET /other" not in envoy[1].read_text()


def test_envoy_takes_every_operator_that_may_be_named(tmp_path: Path) -> None:
    found = served(json.dumps({"accessLogFile": "/dev/stderr", "accessLogFormat": " ".join([*(f"%{name}%" for name in PLAIN), *OTHERS])}))
    validate(tmp_path, found.view)
    (listener,) = found.of(LISTENER).keys() & {"main_internal"}
    assert found.of(LISTENER)[listener].SerializeToString().count(b"%FILTER_CHAIN_NAME%") == 2
    assert len(PLAIN) > 40


@pytest.mark.parametrize(
    ("mesh", "what"),
    [
        ("{accessLogFile: /etc/passwd}", "is none of /dev/stdout"),
        ("{accessLogFormat: '%ENVIRONMENT(NODEMESH_WAYPOINT_TOKEN)%'}", "no operator"),
        ("{accessLogFormat: '%NOTHING%'}", "no operator"),
        ("{accessLogFormat: '100%'}", "no operator"),
        ("{accessLogFormat: '%REQ()%'}", "no operator"),
        ("{accessLogFormat: '%START_TIME(%E)(%)%'}", "no operator"),
        ("{accessLogFormat: '%DURATION%:5%'}", "no operator"),
        ("{accessLogEncoding: JSON, accessLogFormat: '%DURATION%'}", "an object of texts"),
        ('{accessLogEncoding: JSON, accessLogFormat: \'{"a": "%FILE_CONTENT(/etc/passwd)%"}\'}', "no operator"),
        ("{accessLogEncoding: XML}", "XML"),
    ],
)
def test_what_is_refused(mesh: str, what: str) -> None:
    (document,) = read_documents(config(mesh), "mesh.yaml", "istio-system")
    assert document.object is None
    assert what in document.findings[0].what
