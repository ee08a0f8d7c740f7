"""Real Envoys as HBONE peers: the configuration of either role, and the process in a namespace."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.bench.envoy import ENVOY
from nodeagent.ztunnel.protocol import SetIdentity
from tests.nodeagent.pods import Side, refused
from tests.nodeagent.ztunnel.proxy.stub import until

TCP_PORT = 18001
"""Of an Envoy client: plain TCP here becomes a tunnel to the configured authority."""
CONNECT_PORT = 18002
"""Of an Envoy client: an HTTP/1.1 CONNECT here is sent on over HBONE, and the other side's status comes back."""
ADMIN_PORT = 18003
HBONE_PORT = 15008
# The smallest windows that HTTP/2 knows as its default; frames stay at Envoy's 16 KiB.
SMALL_WINDOWS = {"initial_stream_window_size": 65535, "initial_connection_window_size": 65535}
_TYPES = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Credentials:
    """What an Envoy shows, what it trusts, and whom it accepts (empty: anyone under the root)."""

    identity: SetIdentity
    root_pem: str
    accept: tuple[str, ...] = ()


@dataclass
class Envoy:
    """One process. Its configuration can be changed between two runs."""

    side: Side
    directory: Path
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        file = self.directory / "envoy.json"
        file.write_text(json.dumps(self.config))
        command = ["ip", "netns", "exec", self.side.name, str(ENVOY), "-c", str(file), "--log-level", "warning", "--concurrency", "1"]
        with (self.directory / "envoy.log").open("ab") as log:
            self.process = subprocess.Popen([*command, "--use-dynamic-base-id", "--disable-hot-restart"], stdout=log, stderr=log)
        until(self._is_ready, deadline_s=20)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(5)
            self.process = None

    def stat(self, name: str) -> int:
        """A counter or gauge of its admin interface."""
        for line in self.admin(f"/stats?filter=^{name}$").splitlines():
            found, _, value = line.partition(": ")
            if found == name:
                return int(value)
        return 0

    def admin(self, path: str) -> str:
        with self.side.dial("127.0.0.1", ADMIN_PORT) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            answer = b""
            while part := connection.recv(65536):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0], head
        return body.decode()

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "envoy.log").read_text()
        return not refused(lambda: self.side.dial("127.0.0.1", ADMIN_PORT).close()) and "LIVE" in self.admin("/server_info")


@contextmanager
def envoy(side: Side, directory: Path, config: dict[str, Any]) -> Iterator[Envoy]:
    assert ENVOY.exists(), f"{ENVOY} is missing: make envoy"
    made = Envoy(side, directory, config)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def client_config(credentials: Credentials, server: str, authority: str) -> dict[str, Any]:
    """TCP_PORT tunnels to `authority`, CONNECT_PORT to whatever a CONNECT names, both through `server`'s HBONE port."""
    tunnel = {
        "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": "hbone",
        "tunneling_config": {"hostname": authority},
    }
    route = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": "hbone", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT"}]},
    }
    listeners = [
        _listener("tcp", "127.0.0.1", TCP_PORT, tunnel),
        _listener("connect", "127.0.0.1", CONNECT_PORT, _manager("HTTP1", [route])),
    ]
    options = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {**SMALL_WINDOWS, "allow_connect": True}},
    }
    cluster = {
        **_cluster("hbone", server, HBONE_PORT),
        "transport_socket": _tls("Upstream", credentials),
        "typed_extension_protocol_options": {
            f"{_TYPES.removeprefix('type.googleapis.com/')}.upstreams.http.v3.HttpProtocolOptions": options
        },
    }
    return _bootstrap(listeners, [cluster])


def server_config(credentials: Credentials, address: str, application_port: int, *, refusal: int = 0, **connection: Any) -> dict[str, Any]:
    """HBONE on `address` to an application on localhost; or `refusal` is the answer to all. `connection`: HttpProtocolOptions."""
    match: dict[str, Any] = {"connect_matcher": {}}
    upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
    route: dict[str, Any] = {"match": match, "route": {"cluster": "application", "upgrade_configs": [upgrade], "timeout": "0s"}}
    if refusal:
        route = {"match": match, "direct_response": {"status": refusal}}
    manager = _manager("HTTP2", [route])
    manager |= {"http2_protocol_options": {**SMALL_WINDOWS, "allow_connect": True}, "common_http_protocol_options": connection}
    # How long a connection that is told to end still takes streams.
    manager["drain_timeout"] = "0.1s"
    chain = {"transport_socket": _tls("Downstream", credentials)}
    return _bootstrap([_listener("hbone", address, HBONE_PORT, manager, **chain)], [_cluster("application", "127.0.0.1", application_port)])


def _bootstrap(listeners: list[dict[str, Any]], clusters: list[dict[str, Any]]) -> dict[str, Any]:
    admin = {"address": _address("127.0.0.1", ADMIN_PORT)}
    # Envoy's own switch for carrying a server's half-close; without it the end of the answer is the end of the stream.
    runtime = {"name": "half close", "static_layer": {"envoy.reloadable_features.allow_multiplexed_upstream_half_close": True}}
    return {"admin": admin, "layered_runtime": {"layers": [runtime]}, "static_resources": {"listeners": listeners, "clusters": clusters}}


def _address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _cluster(name: str, address: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(address, port)}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "3s", "load_assignment": load}


def _listener(name: str, address: str, port: int, config: dict[str, Any], **chain: Any) -> dict[str, Any]:
    filters = [{"name": name, "typed_config": config}]
    return {"name": name, "address": _address(address, port), "filter_chains": [{"filters": filters, **chain}]}


def _manager(codec: str, routes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": codec,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}}],
    }


def _tls(role: str, credentials: Credentials) -> dict[str, Any]:
    validation: dict[str, Any] = {"trusted_ca": {"inline_string": credentials.root_pem}}
    if credentials.accept:
        validation["match_typed_subject_alt_names"] = [{"san_type": "URI", "matcher": {"exact": one}} for one in credentials.accept]
    chain, key = credentials.identity.chain, credentials.identity.key
    context = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}],
        "validation_context": validation,
        "alpn_protocols": ["h2"],
    }
    config: dict[str, Any] = {"@type": f"{_TYPES}.transport_sockets.tls.v3.{role}TlsContext", "common_tls_context": context}
    if role == "Downstream":
        config["require_client_certificate"] = True
    return {"name": "tls", "typed_config": config}


def http_connect(side: Side, authority: str) -> tuple[int, socket.socket]:
    """CONNECT through an Envoy client: the status, and the connection behind it."""
    connection = side.dial("127.0.0.1", CONNECT_PORT, timeout_s=10)
    connection.sendall(f"CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(1)
        assert part, head
        head += part
    return int(head.split()[1]), connection
