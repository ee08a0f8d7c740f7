"""Hosts that Envoy looks up, through a real Envoy and a name server of the test's own."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from control.envoy.built import CLUSTER
from tests.control.envoy.authority import Authority
from tests.control.envoy.echo import upstream
from tests.control.envoy.routed import Routed, routed
from tests.control.envoy.test_waypoint import Served
from tests.control.envoy.validation import validate


class Names:
    """Answers 127.0.0.1 for names below `example.org` and `example.com`; `asked` counts them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: Counter[str] = Counter()


@contextmanager
def name_server() -> Iterator[Names]:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    found = Names(server.getsockname()[1])
    ended = b"end"

    def serve() -> None:
        while (received := server.recvfrom(2048))[0] != ended:
            server.sendto(_answer(received[0], found), received[1])

    thread = threading.Thread(target=serve, name="name server")
    thread.start()
    try:
        yield found
    finally:
        server.sendto(ended, server.getsockname())
        thread.join()
        server.close()


def _answer(query: bytes, names: Names) -> bytes:
    at, labels = 12, []
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode())
        at += 1 + size
    name, (kind,) = ".".join(labels).lower(), struct.unpack("!H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    known = name.endswith((".example.org", ".example.com"))
    if kind == 1:
        names.asked[name] += 1
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.1") if known and kind == 1 else b""
    return query[:2] + struct.pack("!HHHHH", 0x8180 if known else 0x8183, 1, bool(record), 0, 0) + question + record


def entry(name: str, host: str, port: int, spec: str) -> str:
    return f"""
    kind: ServiceEntry
    apiVersion: networking.istio.io/v1
    metadata: {{name: {name}, namespace: shop, labels: {{istio.io/use-waypoint: waypoint}}}}
    spec: {{hosts: ["{host}"], ports: [{{number: {port}, name: http, protocol: HTTP}}], location: MESH_EXTERNAL, {spec}}}
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Routed, Names, int, int]]:
    where = tmp_path_factory.mktemp("envoy")
    authority = Authority(where)
    with ExitStack() as stack:
        names = stack.enter_context(name_server())
        plain = stack.enter_context(upstream("plain"))
        tls = stack.enter_context(upstream("tls", authority.server("good.secure.example.com")))
        served = Served()
        rule = "kind: DestinationRule\napiVersion: networking.istio.io/v1\nmetadata: {name: tls, namespace: shop}\n"
        rule += 'spec: {host: "*.secure.example.com", trafficPolicy: {tls: {mode: SIMPLE, credentialName: partner}}}'
        served.write("rule.yaml", rule)
        served.write(
            "entries.yaml",
            entry("dns", "dns.example.org", plain.port, "resolution: DNS"),
            entry("single", "single.example.org", plain.port, "resolution: DNS_ROUND_ROBIN"),
            entry("none", "none.example.org", plain.port, "resolution: NONE"),
            entry("gone", "gone.example.net", plain.port, "resolution: DNS"),
            entry("any", "*.example.com", plain.port, "resolution: NONE"),
            entry("secure", "*.secure.example.com", tls.port, "resolution: NONE"),
        )
        validate(where, served.view)
        secrets = [authority.roots("kubernetes://shop/partner-cacert")]
        routing = stack.enter_context(routed(where, served, {}, secrets, dns_port=names.port))
        yield routing, names, plain.port, tls.port


@pytest.mark.parametrize("name", ["dns", "single", "none"])
def test_a_name_is_looked_up(mesh: tuple[Routed, Names, int, int], name: str) -> None:
    routing, names, port, _ = mesh
    assert routing.ask(f"{name}:{port}", host=f"{name}.example.org").upstream == "plain"
    assert names.asked[f"{name}.example.org"] >= 1


def test_a_name_that_is_not_there(mesh: tuple[Routed, Names, int, int]) -> None:
    routing, _, port, _ = mesh
    assert routing.ask(f"gone:{port}").status == 503


def test_of_a_wildcard_the_request_s_host_is_looked_up_and_no_other(mesh: tuple[Routed, Names, int, int]) -> None:
    routing, names, port, _ = mesh
    listener = f"*:{port}"
    found = routing.ask(listener, host=f"a.example.com:{port}")
    assert found.upstream == "plain"
    assert found.echo["headers"]["host"] == f"a.example.com:{port}"
    assert names.asked["a.example.com"] >= 1
    for host in ("a.example.org", "example.com", "127.0.0.1", f"a.example.com:{port + 1}", f"a.example.com.evil.org:{port}"):
        assert routing.ask(listener, host=host).status == 404, host
    assert routing.ask(listener, host=f"a.example.com:{port}").status == 200


def test_tls_reaches_the_host_that_the_request_is_for(mesh: tuple[Routed, Names, int, int]) -> None:
    routing, _, _, port = mesh
    found = routing.ask(f"*:{port}", host=f"good.secure.example.com:{port}")
    assert (found.upstream, found.echo["sni"]) == ("tls", "good.secure.example.com")
    assert routing.ask(f"*:{port}", host=f"other.secure.example.com:{port}").status == 503, "the certificate is another host's"


def test_what_is_no_http_has_no_name_to_look_up(tmp_path: Path) -> None:
    served = Served()
    text = entry("any", "*.example.com", 99, "resolution: NONE").replace("name: http, protocol: HTTP", "name: tcp, protocol: TCP")
    served.write("any.yaml", text)
    cluster = served.of(CLUSTER)["inbound-vip|99|tcp|*.example.com"]
    assert not cluster.load_assignment.endpoints
    assert not cluster.HasField("cluster_type")
    validate(tmp_path, served.view)
