"""What the kernel tells of the mesh's connections: metrics between workloads, figures and processes in access log and `connections`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.shell import Process, run
from demo.topology import Pod
from nodeagent.capture.ebpf import DIRECTORY
from tests.e2e.mesh import ECHO, Mesh, echoes
from tests.e2e.test_reports import samples
from tests.nodeagent import cgroups

PAIR = {"source_workload": "shop", "destination_workload": "api-2", "source_workload_namespace": "default"}
CALL = """
import socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(b"there\\n")
connection.recv(100)
print(connection.getsockname()[1], flush=True)
time.sleep(float(sys.argv[3]))
"""
PYTHON = Path(sys.executable).resolve()


@pytest.fixture
def shop(mesh: Mesh) -> Iterator[tuple[Pod, Path]]:
    """The pod, with a cgroup that its node knows."""
    pod = mesh.pods["shop"]
    with cgroups.made() as path:
        mesh.cluster.list_pod(pod, service_account="shop", cgroup=path.name)
        pin = DIRECTORY / f"dialling-{path.stat().st_ino}/link"
        mesh.wait(pin.exists, "the pod's processes to be known", timeout_s=20)
        yield pod, path
    mesh.cluster.list_pod(pod, service_account="shop")


def figures(mesh: Mesh, node: str, reporter: str) -> dict[str, float]:
    """Of the pair, by the name of the sample, with the direction of bytes or the bound of a bucket behind it."""
    wanted = {**PAIR, "reporter": reporter}
    return {
        one.name + one.labels.get("direction", "") + one.labels.get("le", ""): one.value
        for one in samples(mesh, node)
        if one.name.startswith("nodemesh_tcp_") and wanted.items() <= one.labels.items()
    }


def logged(mesh: Mesh, node: str, **wanted: str) -> list[dict[str, str]]:
    """The fields of the lines in the access log that have these."""
    lines = mesh.cluster.nodeagent(node, "logs").splitlines()
    found = [{name: value.strip('"') for name, _, value in (pair.partition("=") for pair in line.split("\t")[4].split())} for line in lines]
    return [fields for fields in found if {name.replace("_", "."): value for name, value in wanted.items()}.items() <= fields.items()]


@contextmanager
def client(mesh: Mesh, pod: Pod, cgroup: Path, seconds: float) -> Iterator[tuple[Process, str]]:
    """A process of the pod that calls api-2 and then stays; with its source address."""
    log = mesh.cluster.directory / "client.log"
    log.unlink(missing_ok=True)
    command = [str(PYTHON), "-c", CALL, str(mesh.pods["api-2"].ipv4), str(ECHO), str(seconds)]
    process = Process("client", command, log, pod.namespace, cgroup=cgroup).start()
    try:
        mesh.wait(lambda: log.exists() and log.read_text().endswith("\n"), "the client's call to be answered")
        yield process, f"{pod.ipv4}:{log.read_text().strip()}"
    finally:
        process.stop()


def test_both_ends_of_a_tunnel_are_counted_while_it_is_open(mesh: Mesh) -> None:
    mesh.hold(mesh.pods["shop"], mesh.pods["api-2"].ipv4)
    name = "nodemesh_tcp_rtt_seconds_count"
    for node, reporter in (("n1", "source"), ("n2", "destination")):
        mesh.wait(lambda node=node, reporter=reporter: figures(mesh, node, reporter).get(name), "a sample of the tunnel", timeout_s=20)
        found = figures(mesh, node, reporter)
        assert 0 < found["nodemesh_tcp_rtt_seconds_sum"] / found[name] < 1
        assert found["nodemesh_tcp_bytes_totalsent"] > 500
        assert found["nodemesh_tcp_bytes_totalreceived"] > 500
        assert found["nodemesh_tcp_rtt_seconds_bucket+Inf"] == found[name]
    source = figures(mesh, "n1", "source")
    assert source["nodemesh_tcp_connect_duration_seconds_count"] >= 1
    assert 0 < source["nodemesh_tcp_connect_duration_seconds_sum"] < 10
    assert "nodemesh_tcp_connect_duration_seconds_count" not in figures(mesh, "n2", "destination"), "it accepts, and does not connect"


def test_what_is_lost_between_the_nodes_is_counted_and_logged(mesh: Mesh) -> None:
    connection = mesh.hold(mesh.pods["shop"], mesh.pods["api-2"].ipv4)
    source = "{}:{}".format(*connection.getsockname())
    router = mesh.topology.router
    run(["nft", "-f", "-"], namespace=router, stdin="table inet lossy { chain c { type filter hook forward priority 0; }; }")
    try:
        run(["nft", "add", "rule", "inet", "lossy", "c", "tcp", "dport", "15008", "drop"], namespace=router)
        connection.sendall(b"lost\n")
        pod = mesh.pods["shop"].namespace
        mesh.wait(lambda: "retrans:" in run(["ss", "-tniH", "dport = :15008"], namespace=pod), "TCP to say it again")
    finally:
        run(["nft", "delete", "table", "inet", "lossy"], namespace=router)
    with connection.makefile("rb") as answer:
        assert answer.readline()
    assert echoes(connection)
    connection.close()
    mesh.wait(lambda: figures(mesh, "n1", "source").get("nodemesh_tcp_retransmits_total"), "the loss to be counted", timeout_s=20)
    mesh.wait(lambda: logged(mesh, "n1", src_addr=source), "the connection to be logged")
    [fields] = logged(mesh, "n1", direction="outbound", src_addr=source)
    assert int(fields["tcp.retransmits"]) >= 1
    assert 0 < float(fields["tcp.connect"].removesuffix("ms")) < 10_000
    assert 0 < float(fields["tcp.rtt"].removesuffix("ms")) < 10_000


def test_a_process_that_is_gone_is_named_behind_its_connection(mesh: Mesh, shop: tuple[Pod, Path]) -> None:
    with client(mesh, *shop, seconds=0) as (process, source):
        pass
    mesh.wait(lambda: logged(mesh, "n1", src_addr=source, direction="outbound"), "the connection to be logged")
    [fields] = logged(mesh, "n1", src_addr=source, direction="outbound")
    assert int(fields["src.pid"]) == process.pid
    assert fields["src.executable"].rpartition("/")[2] == PYTHON.name
    assert fields["src.command"] == PYTHON.name
    [inbound] = logged(mesh, "n2", direction="inbound", src_addr=fields["dst.hbone_addr"]) or [{}]
    assert "src.pid" not in inbound


def test_the_process_of_an_open_connection_is_shown(mesh: Mesh, shop: tuple[Pod, Path]) -> None:
    with client(mesh, *shop, seconds=60) as (process, source):
        [shown] = [one for one in mesh.admin("n1", "/connections") if one["source"] == source]
        assert (shown["pid"], shown["executable"], shown["command"]) == (process.pid, str(PYTHON), PYTHON.name)
        mesh.wait(lambda: _shown(mesh, source)["rtt_s"], "the tunnel's figures", timeout_s=20)
        assert 0 < _shown(mesh, source)["connect_s"] < 10
        assert f"{PYTHON} ({process.pid})" in subprocess.run(
            ["tr", "-s", " "], input=mesh.cluster.nodeagent("n1", "connections"), capture_output=True, text=True, check=True, timeout=5
        ).stdout.replace("\n", "")


def test_a_process_outside_of_the_pods_cgroup_is_unknown(mesh: Mesh, shop: tuple[Pod, Path]) -> None:
    held = mesh.hold(shop[0], mesh.pods["api-2"].ipv4)
    source = "{}:{}".format(*held.getsockname())
    assert _shown(mesh, source)["pid"] is None
    assert "unknown" in mesh.cluster.nodeagent("n1", "connections")


def test_status_says_that_it_is_on(mesh: Mesh) -> None:
    assert mesh.admin("n1", "/status")["tcp_telemetry"] == ""
    assert [one.value for one in samples(mesh, "n1") if one.name == "nodemesh_tcp_telemetry"] == [1.0]


def _shown(mesh: Mesh, source: str) -> dict[str, Any]:
    found: dict[str, Any]
    [found] = [one for one in mesh.admin("n1", "/connections") if one["source"] == source and one["direction"] == "outbound"]
    return found
