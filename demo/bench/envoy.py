"""The base line: two real Envoys that carry TCP over HBONE (mutual TLS 1.3, HTTP/2 CONNECT) between two pods."""

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from demo.cluster import eventually
from demo.shell import CommandError, Process, run
from demo.topology import Pod

ENVOY = Path(__file__).parent.parent.parent / ".venv-envoy/bin/envoy"
CLIENT_PORT = 15101
HBONE_PORT = 15108
# What ztunnel and this project's proxy offer too: peers must not be held back by a small window.
_HTTP2 = {"initial_stream_window_size": 4 << 20, "initial_connection_window_size": 16 << 20, "allow_connect": True}


def write_certificates(directory: Path, names: Mapping[str, str]) -> None:
    """A root, and for each file name a P-256 certificate with a SPIFFE id: `<name>.pem`, `<name>.key`, `root.pem`."""
    now = dt.datetime.now(dt.UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench root")])

    def builder(name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        begin, end = now - dt.timedelta(minutes=1), now + dt.timedelta(days=1)
        empty = x509.CertificateBuilder().issuer_name(subject).subject_name(name).public_key(key)
        return empty.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)

    root = builder(subject, root_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    (directory / "root.pem").write_bytes(root.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    for name, identity in names.items():
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        leaf = builder(x509.Name([]), key.public_key()).add_extension(usages, critical=False)
        leaf = leaf.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
        (directory / f"{name}.pem").write_bytes(leaf.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{name}.key").touch(mode=0o600)
        (directory / f"{name}.key").write_bytes(pem)


def _tls(directory: Path, name: str, kind: str) -> dict[str, Any]:
    context = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(directory / f"{name}.pem")},
                "private_key": {"filename": str(directory / f"{name}.key")},
            }
        ],
        "validation_context": {"trusted_ca": {"filename": str(directory / "root.pem")}},
        "alpn_protocols": ["h2"],
    }
    config: dict[str, Any] = {
        "@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}TlsContext",
        "common_tls_context": context,
    }
    if kind == "Downstream":
        config["require_client_certificate"] = True
    return {"name": "tls", "typed_config": config}


def _address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}


def _cluster(name: str, address: str, port: int, **more: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(address, port)}}
    load = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": load, **more}


def _listener(address: str, port: int, filter_name: str, config: dict[str, Any], **chain: Any) -> dict[str, Any]:
    filters = [{"name": filter_name, "typed_config": config}]
    return {"name": "in", "address": _address(address, port), "filter_chains": [{"filters": filters, **chain}]}


def client_config(directory: Path, server: str, target: str) -> dict[str, Any]:
    """Envoy in the client's pod: plain TCP on localhost to CONNECT `target` through `server`."""
    tcp_proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "out",
        "cluster": "hbone",
        "tunneling_config": {"hostname": target},
    }
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": _HTTP2},
        }
    }
    cluster = _cluster(
        "hbone", server, HBONE_PORT, transport_socket=_tls(directory, "client", "Upstream"), typed_extension_protocol_options=options
    )
    listener = _listener("127.0.0.1", CLIENT_PORT, "tcp", tcp_proxy)
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def server_config(directory: Path, address: str, app: tuple[str, int]) -> dict[str, Any]:
    """Envoy in the server's pod: HBONE to the application."""
    match: dict[str, Any] = {"connect_matcher": {}}
    upgrade = [{"upgrade_type": "CONNECT", "connect_config": {}}]
    route = {"match": match, "route": {"cluster": "app", "upgrade_configs": upgrade, "timeout": "0s"}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "http2_protocol_options": _HTTP2,
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
        ],
    }
    listener = _listener(address, HBONE_PORT, "http", manager, transport_socket=_tls(directory, "server", "Downstream"))
    return {"static_resources": {"listeners": [listener], "clusters": [_cluster("app", *app)]}}


class EnvoyPair:
    """Starts both; the client side listens on 127.0.0.1:CLIENT_PORT in the client's pod."""

    def __init__(self, directory: Path, client: Pod, server: Pod, app_port: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        write_certificates(directory, {"client": "spiffe://bench/ns/default/sa/client", "server": "spiffe://bench/ns/default/sa/server"})
        address = str(server.ipv4)
        configs = {
            client: client_config(directory, address, f"{address}:{app_port}"),
            server: server_config(directory, address, (address, app_port)),
        }
        self._client = client
        self._processes = []
        for pod, config in configs.items():
            file = directory / f"{pod.name}.json"
            file.write_text(json.dumps(config))
            command = [str(ENVOY), "-c", str(file), "--log-level", "warning", "--use-dynamic-base-id", "--disable-hot-restart"]
            self._processes.append(Process(f"envoy {pod.name}", command, directory / f"{pod.name}.log", pod.namespace))

    def start(self) -> None:
        """Starts both and waits until the client's side listens."""
        for process in self._processes:
            process.start()
        eventually(self._listens, "the Envoys to listen", timeout_s=20)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the running Envoys."""
        return tuple(process.pid for process in self._processes)

    def _listens(self) -> bool:
        for process in self._processes:
            if not process.alive:
                raise CommandError(f"{process.name} ended:\n{process.tail()}")
        return str(CLIENT_PORT) in run(["ss", "-Hltn"], namespace=self._client.namespace)

    def stop(self) -> None:
        """Ends both."""
        for process in self._processes:
            process.stop()
