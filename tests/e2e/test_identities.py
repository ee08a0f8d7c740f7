"""I1, I2, T2: who gets which identity from the running controller, and what a revocation does to the running mesh."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from demo.shell import run
from tests.e2e.mesh import HTTP, Mesh, closed_after, echoes, spiffe

DENIED_S = 5.0
CLOSED_S = 1.0
NOISE_S = 1.0
ROOT = Path(__file__).parent.parent.parent


def ask(mesh: Mesh, node: str, *identities: str) -> dict[str, str]:
    """What the controller answers to the holder of a node's certificate, asked from that node."""
    directory = mesh.cluster.node_directory(node)
    target = f"{mesh.topology.hosts['controller'].ipv4}:15011"
    command = [sys.executable, str(Path(__file__).parent / "ask_certificate.py"), target, str(directory / "root.pem")]
    output = run(
        ["env", f"PYTHONPATH={ROOT}", *command, str(directory / "state"), *identities], namespace=mesh.topology.hosts[node].namespace
    )
    return dict(json.loads(output))


def audit(mesh: Mesh) -> list[dict[str, Any]]:
    files = (mesh.cluster.directory / "controller" / name for name in ("audit.log", "audit-refused.log"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_node_gets_the_identities_of_its_own_pods_only(mesh: Mesh) -> None:
    own, foreign, nobody = spiffe("shop"), "spiffe://other.example/ns/default/sa/shop", spiffe("never-existed")
    other_node = "spiffe://cluster.local/nodemesh/node/n1"
    assert ask(mesh, "n1", own) == {own: "granted"}
    answers = ask(mesh, "n2", own, nobody, foreign, other_node, f"{own}/", own.upper(), f"{own}/../api")
    assert set(answers) == {own, nobody, foreign, other_node, f"{own}/", own.upper(), f"{own}/../api"}
    assert all(answer.startswith(("PERMISSION_DENIED", "INVALID_ARGUMENT")) for answer in answers.values()), answers
    lines = {(line["node"], line.get("identity"), line["outcome"], line.get("check")) for line in audit(mesh)}
    assert ("n1", own, "granted", None) in lines
    assert ("n2", own, "refused", "placement") in lines
    assert ("n2", foreign, "refused", "trust-domain") in lines
    assert all(line["caller"] == "node/n2" and line["peer"] for line in audit(mesh) if line["outcome"] == "refused")


def test_a_pod_that_went_has_no_identity_any_more(mesh: Mesh) -> None:
    pod = mesh.add_pod("n1", "brief", service_account="brief")
    assert ask(mesh, "n1", spiffe("brief")) == {spiffe("brief"): "granted"}
    mesh.remove_pod(pod)
    gone = time.monotonic()
    mesh.wait(lambda: "PERMISSION_DENIED" in ask(mesh, "n1", spiffe("brief"))[spiffe("brief")], "renewal to be denied", timeout_s=DENIED_S)
    print(f"denied {time.monotonic() - gone:.2f} s after the pod went")
    assert (mesh.cluster.node_directory("n1") / "state").exists()
    certificates = mesh.admin("n1", "/certs")["certificates"]
    assert spiffe("brief") not in {certificate["identity"] for certificate in certificates}


def test_a_pod_that_has_ended_has_none_either(mesh: Mesh) -> None:
    """Its object is still there, its phase says that it is over; another node that claims it gets nothing, too."""
    pod = mesh.add_pod("n1", "job", service_account="job")
    file = mesh.cluster.config / "pod-job.yaml"
    file.write_text(file.read_text().replace("phase: Running", "phase: Succeeded"))
    mesh.wait(lambda: "PERMISSION_DENIED" in ask(mesh, "n1", spiffe("job"))[spiffe("job")], "it to be denied", timeout_s=DENIED_S)
    mesh.remove_pod(pod)


def test_a_revocation_closes_tunnels_at_once_and_the_workload_recovers_by_itself(mesh: Mesh) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    held = [mesh.hold(shop, address) for address in (far.ipv4, far.ipv6, near.ipv4)]
    others = mesh.hold(near, far.ipv4)
    first = serials(mesh)
    mesh.cluster.meshctl("revoke", spiffe("shop"))
    took = [closed_after(connection, timeout_s=CLOSED_S + NOISE_S) for connection in held]
    print(f"closed within {max(took):.2f} s of the one before")
    assert echoes(others)
    assert spiffe("shop") in mesh.cluster.meshctl("revoke", "--list")
    mesh.wait(lambda: mesh.call(shop, far.ipv4, HTTP).ok, "a new certificate to serve")
    assert serials(mesh)[spiffe("shop")] > first[spiffe("shop")]
    assert mesh.admin("n1", "/certs")["revocations"] >= 1
    mesh.cluster.meshctl("revoke", "--undo", spiffe("shop"))
    assert spiffe("shop") not in mesh.cluster.meshctl("revoke", "--list")
    mesh.wait(lambda: mesh.admin("n1", "/certs")["revocations"] == 0, "the revocation to be undone on the node")
    assert mesh.call(shop, far.ipv4).ok


def serials(mesh: Mesh) -> dict[str, float]:
    """When the certificates that serve end: a later end is a later certificate."""
    return {one["identity"]: one["expires_s"] for one in mesh.admin("n1", "/certs")["certificates"]}


def test_a_revoked_agent_gets_nothing_until_it_joins_again(mesh: Mesh) -> None:
    """What it holds serves on; the operator gives it a new token."""
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    agent = "spiffe://cluster.local/nodemesh/node/n1"
    mesh.cluster.meshctl("revoke", agent)
    mesh.wait(lambda: not mesh.admin("n1", "/status")["controller"]["connected"], "the agent's stream to end")
    assert "UNAUTHENTICATED" in ask(mesh, "n1", spiffe("shop"))[spiffe("shop")]
    assert mesh.call(shop, far.ipv4).ok
    mesh.cluster.meshctl("revoke", "--undo", agent)
    mesh.wait(mesh.settled, "the agent to be back", timeout_s=30)


def test_another_root_comes_into_force_under_open_connections(mesh: Mesh) -> None:
    """Trusted by all before it signs; who has a certificate below it and who has none yet talk to each other."""
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    held = mesh.hold(shop, far.ipv4)
    mesh.cluster.meshctl("root", "rotate")
    mesh.wait(
        lambda: "not all agents" not in mesh.cluster.meshctl("root", "rotate", "--status"), "all agents to acknowledge it", timeout_s=20
    )
    assert len(mesh.admin("n1", "/certs")["roots"]) == 2
    mesh.cluster.meshctl("root", "rotate", "--force")
    mesh.wait(mesh.settled, "the agents to be there still", timeout_s=30)
    assert mesh.call(shop, far.ipv4).ok
    assert echoes(held)
    first = serials(mesh)
    mesh.cluster.meshctl("revoke", spiffe("shop"))
    mesh.wait(lambda: serials(mesh).get(spiffe("shop"), 0) > first[spiffe("shop")], "a certificate below the new root", timeout_s=20)
    mesh.cluster.meshctl("revoke", "--undo", spiffe("shop"))
    mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "it to be accepted by who has none")
    assert mesh.call(mesh.pods["api-1"], far.ipv4).ok


def test_keys_on_a_node_are_roots_alone_and_in_no_log(mesh: Mesh) -> None:
    """I7."""
    files = [*(mesh.cluster.node_directory("n1") / "state").iterdir(), *(mesh.cluster.directory / "controller").rglob("*")]
    secrets = [file for file in files if file.is_file() and b"PRIVATE KEY" in file.read_bytes()]
    assert len(secrets) >= 3
    for file in secrets:
        assert file.stat().st_mode & 0o777 == 0o600, file
        assert file.parent.stat().st_mode & 0o077 == 0, file
    shown = [mesh.tails(), *(mesh.cluster.nodeagent("n1", command) for command in ("status", "certs", "workloads", "logs"))]
    shown += [file.read_text(errors="replace") for file in mesh.cluster.directory.rglob("*.log")]
    assert not any("PRIVATE KEY" in text for text in shown)
