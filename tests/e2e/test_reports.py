"""What one sees: every command as table, JSON and YAML with its exit code, explanations, metrics, the access log."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from demo import manifests
from demo.cluster import API_VIPS, BIN
from demo.shell import in_namespace
from tests.e2e.mesh import ECHO, HTTP, Mesh, principal, spiffe

COMMANDS = ("status", "workloads", "services", "policies", "certs", "connections", "capture")
TCP = "istio_tcp_"
COUNTERS = {"connections_opened", "connections_closed", "connections_failed", "received_bytes", "sent_bytes"}
SIDES = ("workload", "canonical_service", "canonical_revision", "workload_namespace", "principal", "app", "version", "cluster")
LABELS = {
    "reporter",
    *(f"{side}_{name}" for side in ("source", "destination") for name in SIDES),
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
}
LOG_FIELDS = {
    *(f"{side}.{name}" for side in ("src", "dst") for name in ("addr", "workload", "namespace", "identity")),
    "dst.hbone_addr",
    "dst.service",
    "direction",
    "bytes_sent",
    "bytes_recv",
    "duration",
    *(f"tcp.{name}" for name in ("connect", "rtt", "retransmits")),
}


def command(mesh: Mesh, node: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [str(BIN / "nodeagent"), f"--run-dir={mesh.cluster.node_directory(node) / 'run'}", *arguments]
    namespace = mesh.topology.hosts[node].namespace
    return subprocess.run(in_namespace(namespace, line), capture_output=True, text=True, timeout=30, check=False)


# ---- the commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_report_is_a_table_json_and_yaml(mesh: Mesh, name: str) -> None:
    with mesh.policies(manifests.authorization_policy("shown", "DENY", app="api", ports=["1"])):
        mesh.hold(mesh.pods["shop"], API_VIPS[0])
        table, as_json, as_yaml = (
            command(mesh, "n1", name),
            command(mesh, "n1", name, "-o", "json"),
            command(mesh, "n1", name, "-o", "yaml"),
        )
    assert [table.returncode, as_json.returncode, as_yaml.returncode] == [0, 0, 0], table.stderr + as_json.stderr
    assert table.stdout.strip()
    assert not table.stdout.startswith(("{", "["))
    parsed = json.loads(as_json.stdout)
    assert shape(parsed) == shape(yaml.safe_load(as_yaml.stdout))
    for word in {"workloads": "default/shop", "services": "api", "policies": "default/shown", "certs": spiffe("shop")}.get(
        name, "shop"
    ).split():
        assert word in table.stdout


def shape(value: Any) -> Any:
    """The names in a report, without values that change from one moment to the next."""
    if isinstance(value, dict):
        return sorted(value)
    return [shape(one) for one in value] if isinstance(value, list) else type(value)


def test_exit_codes_tell_scripts_what_is(mesh: Mesh) -> None:
    assert command(mesh, "n1", "status").returncode == 0
    assert command(mesh, "n1", "no-such-command").returncode == 2
    assert command(mesh, "n1", "explain", "default/shop").returncode == 2
    nowhere = [str(BIN / "nodeagent"), f"--run-dir={mesh.cluster.directory}", "status"]
    done = subprocess.run(nowhere, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "no agent runs" in done.stderr
    assert mesh.cluster.controller is not None
    mesh.cluster.controller.stop()
    mesh.wait(lambda: command(mesh, "n1", "status").returncode == 1, "status to say that the controller is gone")
    assert "controller" in command(mesh, "n1", "status").stdout
    mesh.cluster.start_controller()


@pytest.mark.parametrize(
    ("destination", "outcome", "code", "words"),
    [
        ("api.default.svc.cluster.local:80", "allowed", 0, "expecting spiffe://cluster.local/ns/default/sa/api"),
        ("api:80", "allowed", 0, "10.96.0.10"),
        ("default/api-2:8080", "allowed", 0, "mutual TLS"),
        ("default/api-2:9000", "denied", 1, "default/explained"),
        ("192.0.2.1:80", "outside", 0, "passed through"),
        ("no-such-service.default.svc.cluster.local:80", "unknown", 1, "no-such-service"),
        ("api:81", "denied", 1, "81"),
    ],
)
def test_a_call_is_explained_as_it_goes(mesh: Mesh, destination: str, outcome: str, code: int, words: str) -> None:
    with explained_policy(mesh):
        said = command(mesh, "n1", "explain", "default/shop", destination)
        parsed = json.loads(command(mesh, "n1", "explain", "default/shop", destination, "-o", "json").stdout)
        assert (parsed["outcome"], said.returncode) == (outcome, code), said.stdout + said.stderr
        assert words in said.stdout
        assert outcome.upper() in said.stdout


@contextmanager
def explained_policy(mesh: Mesh) -> Iterator[None]:
    policy = manifests.authorization_policy("explained", "DENY", app="api", principals=[principal("shop")], ports=[str(ECHO)])
    with mesh.policies(policy):
        yield


# ---- metrics


def samples(mesh: Mesh, node: str) -> list[Sample]:
    """What the node's metrics port says, by the library's own reading."""
    host = mesh.topology.hosts[node]
    with mesh.dial(host.namespace, host.ipv4, 15020) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]


def total(mesh: Mesh, node: str, name: str, **labels: str) -> float:
    found = [one for one in samples(mesh, node) if one.name == f"{TCP}{name}_total" and labels.items() <= one.labels.items()]
    return sum(one.value for one in found)


def test_metrics_have_istios_names_and_count_each_side_once(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    pair = {"source_principal": spiffe("shop"), "destination_principal": spiffe("api"), "connection_security_policy": "mutual_tls"}
    sides = (("n1", "source"), ("n2", "destination"))
    before = {node: total(mesh, node, "connections_closed", reporter=reporter, **pair) for node, reporter in sides}
    assert all(mesh.call(shop, far.ipv4).ok for _ in range(5))
    for node, reporter in sides:
        mesh.wait(
            lambda node=node, reporter=reporter: total(mesh, node, "connections_closed", reporter=reporter, **pair) == before[node] + 5,
            f"five more connections on {node}",
        )
        ours = [one for one in samples(mesh, node) if one.name.startswith(TCP)]
        assert {one.name for one in ours} <= {f"{TCP}{name}_total" for name in COUNTERS}
        assert {frozenset(one.labels) for one in ours} == {frozenset(LABELS)}
        assert all(one.labels["request_protocol"] == "tcp" for one in ours)
        assert total(mesh, node, "sent_bytes", reporter=reporter, **pair) > 0
        assert total(mesh, node, "received_bytes", reporter=reporter, **pair) > 0
    wanted = {"source_workload": "shop", "destination_workload": "api-2", "destination_canonical_service": "api", "response_flags": "-"}
    assert total(mesh, "n1", "connections_opened", **pair, **wanted) >= 5


def test_plaintext_and_denials_are_counted_as_such(mesh: Mesh) -> None:
    far = mesh.pods["api-2"]
    plain = {"reporter": "destination", "connection_security_policy": "unknown", "source_principal": "unknown"}
    before = total(mesh, "n2", "connections_opened", **plain)
    assert mesh.call(mesh.outside, far.ipv4).ok
    mesh.wait(lambda: total(mesh, "n2", "connections_opened", **plain) > before, "a plaintext connection to be counted")
    with explained_policy(mesh):
        failed = total(mesh, "n2", "connections_failed", response_flags="UAEX")
        with pytest.raises(OSError, match=r"reset|closed"):
            mesh.hold(mesh.pods["shop"], far.ipv4, ECHO)
        mesh.wait(lambda: total(mesh, "n2", "connections_failed", response_flags="UAEX") > failed, "a denial to be counted")


# ---- the access log


def test_the_access_log_of_both_ends_names_both(mesh: Mesh) -> None:
    assert mesh.call(mesh.pods["shop"], API_VIPS[0], 80).ok
    assert mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4).ok
    for node, direction in (("n1", "outbound"), ("n2", "inbound")):
        mesh.wait(lambda node=node, direction=direction: lines(mesh, node, direction), f"an {direction} line on {node}")
        for fields in lines(mesh, node, direction):
            assert (fields["src.identity"], fields["dst.identity"]) == (spiffe("shop"), spiffe("api"))
            assert fields["src.addr"].startswith("10.78.1.")
            assert int(fields["bytes_sent"]) > 0
            assert set(fields) <= LOG_FIELDS, set(fields) - LOG_FIELDS
    assert any(fields.get("dst.service") == "api.default.svc.cluster.local" for fields in lines(mesh, "n1", "outbound"))


def lines(mesh: Mesh, node: str, direction: str) -> list[dict[str, str]]:
    """The fields of the complete connections from shop in one direction."""
    found = []
    for line in mesh.cluster.nodeagent(node, "logs").splitlines():
        _, _, _, outcome, rest = line.split("\t")
        fields = {name: value.strip('"') for name, _, value in (pair.partition("=") for pair in rest.split(" "))}
        if outcome == "connection complete" and fields["direction"] == direction and fields.get("src.workload") == "shop":
            found.append(fields)
    return found


def test_a_denial_is_in_the_log_with_its_reason(mesh: Mesh) -> None:
    with explained_policy(mesh):
        with pytest.raises(OSError, match=r"reset|closed"):
            mesh.hold(mesh.pods["shop"], mesh.pods["api-2"].ipv4, ECHO)
        mesh.wait(lambda: "default/explained" in mesh.cluster.nodeagent("n2", "logs"), "the denial to be logged")
        (line,) = [line for line in mesh.cluster.nodeagent("n2", "logs").splitlines() if "default/explained" in line][-1:]
        assert 'flag="UAEX"' in line
        assert spiffe("shop") in line
        assert "default/explained" in command(mesh, "n2", "status").stdout
    assert f":{HTTP}" not in line
