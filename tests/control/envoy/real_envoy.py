"""A real Envoy on loopback for the length of a block, with whatever listeners a test gives it."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from google.protobuf import json_format

from control.envoy.messages import pool

ENVOY = Path(__file__).parent.parent.parent.parent / ".venv-envoy/bin/envoy"
EXTENSIONS = "type.googleapis.com/envoy.extensions"
_READY_S = 20.0


class RealEnvoy:
    """A running one; `ports` are those of its listeners by name."""

    def __init__(self, admin: str, ports: dict[str, int]) -> None:
        self.admin = admin
        self.ports = ports


def http_listener(name: str, filters: Sequence[dict[str, Any]], routes: Sequence[dict[str, Any]], **manager: Any) -> dict[str, Any]:
    """A listener on any port that has requests pass these filters, and then these routes, whatever their host."""
    router = {"name": "router", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"}}
    fields = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [*filters, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]},
        **manager,
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": fields}]}],
    }


def as_json(message: Any) -> dict[str, Any]:
    """A message of the private pool as Envoy reads it from a file."""
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool()))


@contextmanager
def running(
    directory: Path,
    listeners: Sequence[dict[str, Any]],
    clusters: Sequence[dict[str, Any]] = (),
    secrets: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> Iterator[RealEnvoy]:
    """Starts it, waits until it is live, and ends it; its log is `envoy.log` in `directory`."""
    bootstrap = {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": list(listeners), "clusters": list(clusters), "secrets": list(secrets)},
        **more,
    }
    (directory / "envoy.json").write_text(json.dumps(bootstrap))
    found = directory.absolute() / "admin"
    command = [
        ENVOY,
        "-c",
        (directory / "envoy.json").absolute(),
        "--admin-address-path",
        found,
        "--use-dynamic-base-id",
        "--concurrency",
        "1",
        "-l",
        "warning",
        "--file-flush-interval-msec",
        "100",
    ]
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, cwd=directory)
    try:
        yield _when_live(process, found, directory / "envoy.log")
    finally:
        process.kill()
        process.wait()


def _when_live(process: subprocess.Popen[bytes], found: Path, log: Path) -> RealEnvoy:
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, f"Envoy ended: {log.read_text()[-3000:]}"
        if found.exists() and (address := found.read_text()):
            try:
                with urlopen(f"http://{address}/ready", timeout=2) as answer:
                    if answer.status == 200:
                        return RealEnvoy(address, _ports(address))
            except OSError:
                pass
        time.sleep(0.02)  # polling with a deadline
    raise AssertionError(f"Envoy is not ready: {log.read_text()[-3000:]}")


def _ports(address: str) -> dict[str, int]:
    with urlopen(f"http://{address}/listeners?format=json", timeout=5) as answer:
        statuses = json.load(answer)["listener_statuses"]
    sockets = {one["name"]: one["local_address"].get("socket_address") for one in statuses}
    return {name: socket["port_value"] for name, socket in sockets.items() if socket is not None}
