"""A virtual machine in the mesh, from its bundle to its leaving: joined by the real commands, called and calling in mutual TLS."""

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from demo import manifests
from demo.machines import Machine, workload_group
from demo.shell import run
from demo.topology import Pod
from tests.e2e.mesh import HTTP, SECRET, Call, Mesh, principal
from tests.nodeagent import cgroups

VIP = "10.96.7.1"
WAIT_S = 30.0
GROUP = "default/vm-web"


@pytest.fixture(scope="module")
def machine(mesh: Mesh) -> Iterator[Machine]:
    """A host that can be a machine; what it runs is the demo's service."""
    made = Machine(mesh.cluster, "vm")
    listed = Pod("vm", "vm", made.host.namespace, made.host.ipv4, made.host.ipv6)
    app = mesh.cluster.start_app(listed)
    yield made
    app.stop()


def documents(port: int = HTTP) -> list[manifests.Manifest]:
    probe = {"httpGet": {"port": port, "path": "/"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 2}
    return [
        workload_group("vm-web", app="vm-web", service_account="vm-web", probe=probe),
        manifests.service("vm-web", app="vm-web", vips=[VIP]),
    ]


def entries(mesh: Mesh) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(mesh.cluster.meshctl("get", "workloadentry", "-o", "json"))
    return found


def entry(mesh: Mesh) -> dict[str, Any]:
    return next(iter(entries(mesh)), {})


def accounts(mesh: Mesh) -> set[str]:
    return {one["spec"]["serviceAccount"] for one in entries(mesh)}


def healthy(mesh: Mesh) -> str:
    stated = entry(mesh).get("status", {}).get("conditions", [])
    return next((one["status"] for one in stated if one["type"] == "Healthy"), "")


def joined(mesh: Mesh, machine: Machine) -> None:
    machine.create_bundle(GROUP)
    machine.join()
    machine.start()
    mesh.wait(machine.ready, "the machine to be in the mesh", timeout_s=WAIT_S)
    mesh.wait(lambda: healthy(mesh) == "True", "the machine to be healthy", timeout_s=WAIT_S)


def test_a_machine_joins_calls_is_called_falls_ill_recovers_and_leaves(mesh: Mesh, machine: Machine) -> None:
    host, shop, far = machine.host, mesh.pods["shop"], mesh.pods["api-2"]
    only_vm = manifests.authorization_policy("only-vm", "ALLOW", app="api", principals=[principal("vm-web")])
    only_shop = manifests.authorization_policy("only-shop", "ALLOW", app="vm-web", principals=[principal("shop")])
    with mesh.applied("vm", *documents()):
        joined(mesh, machine)
        kept = {file.name: oct(file.stat().st_mode & 0o777) for file in machine.state.iterdir()}
        assert set(kept.values()) == {"0o600"}
        with mesh.policies(only_vm, only_shop), mesh.wiretap("vm-1", "n1") as from_shop, mesh.wiretap("vm-2", "n2") as to_far:
            mesh.wait(lambda: mesh.call(host.namespace, far.ipv4).pod == "api-2", "the machine to be let in", timeout_s=WAIT_S)
            mesh.wait(lambda: mesh.call(shop, VIP, 80).client == str(shop.ipv4), "calls to it by its service", timeout_s=WAIT_S)
            assert not mesh.call(shop, far.ipv4).ok
            assert not mesh.call(far, host.ipv4).ok
        assert not from_shop.contains(SECRET)
        assert not to_far.contains(SECRET)

        mesh.cluster.apply("vm", documents(port=9))
        mesh.wait(lambda: healthy(mesh) == "False", "the probe to fail")
        mesh.wait(lambda: not mesh.call(shop, VIP, 80).ok, "it to be out of load balancing")
        mesh.cluster.apply("vm", documents())
        mesh.wait(lambda: mesh.call(shop, VIP, 80).ok, "it to be back")

        mesh.cluster.controller.stop()  # type: ignore[union-attr]
        assert mesh.call(shop, VIP, 80).ok, "without the controller"
        machine.stop()
        assert mesh.call(shop, VIP, 80).ok, "without its agent"
        machine.start()
        mesh.wait(machine.ready, "the next agent to take it over without the controller", timeout_s=WAIT_S)
        mesh.cluster.start_controller()
        mesh.wait(lambda: healthy(mesh) == "True", "the machine to be there for the next controller", timeout_s=WAIT_S)
        assert mesh.call(shop, VIP, 80).ok

        machine.leave()
        assert not entry(mesh)
        assert not list(machine.state.iterdir())
        mesh.wait(lambda: not mesh.call(shop, VIP, 80).ok, "nobody to be sent there any more")
        assert mesh.call(mesh.outside, host.ipv4).ok, "the application goes on, outside of the mesh"
        left = "".join(run(command, namespace=host.namespace) for command in (["nft", "list", "tables"], ["ip", "rule"]))
        assert "nodemesh" not in left
        assert "0x111" not in left
        machine.stop()


def test_units_are_workloads_of_their_own_beside_their_host(mesh: Mesh, machine: Machine) -> None:
    """Each calls as itself, and is called as itself at an address of its own; one that stops is registered no more."""
    host, far = machine.host, mesh.pods["api-2"]
    own, own6 = ip_address(int(host.ipv4) + 75), ip_address(int(host.ipv6) + 75)
    run(["ip", "address", "add", f"{own}/24", "dev", "uplink"], namespace=host.namespace)
    run(["ip", "address", "add", f"{own6}/64", "dev", "uplink", "nodad"], namespace=host.namespace)
    groups = [workload_group(name, app=name, service_account=name) for name in ("vm-host", "billing", "batch")]
    groups[1]["metadata"]["annotations"] = {"nodemesh.io/allowed-addresses": f"{own}/32, {own6}/128"}
    only_api = manifests.authorization_policy("only-api", "ALLOW", app="billing", principals=[principal("api")])
    only_billing = manifests.authorization_policy("only-billing", "ALLOW", app="api", principals=[principal("billing")])

    def ask(cgroup: Path) -> Call:
        with cgroups.inside(cgroup):
            return mesh.call(host.namespace, far.ipv4)

    with cgroups.made() as billing, cgroups.made() as batch, mesh.applied("vm-units", *groups):
        machine.create_bundle("default/vm-host", "default/billing", "default/batch")
        machine.join()
        of_billing = {"group": "default/billing", "address": [str(own), str(own6)], "ports": [HTTP]}
        machine.configure(units={billing.name: of_billing, batch.name: "default/batch"})
        machine.start()
        mesh.wait(lambda: len(machine.workloads()) == 3 and machine.ready(), "host and units to be in the mesh", timeout_s=WAIT_S)
        with mesh.policies(only_billing, only_api):
            mesh.wait(lambda: mesh.call(far, own).ok, "api to be let in to billing", timeout_s=WAIT_S)
            assert mesh.call(far, own6).ok
            assert not mesh.call(mesh.pods["shop"], own).ok
            assert not mesh.call(mesh.pods["shop"], own6).ok
            assert not mesh.call(mesh.outside, own).ok
            mesh.wait(lambda: ask(billing).pod == "api-2", "billing to be let in", timeout_s=WAIT_S)
            assert not ask(batch).ok
            assert not mesh.call(host.namespace, far.ipv4).ok, "nor is the host"
        mesh.wait(lambda: mesh.call(host.namespace, far.ipv4).ok, "the host to be let in without a policy")
        cgroups.remove(batch)
        mesh.wait(lambda: len(machine.workloads()) == 2, "the unit that stopped to be no workload", timeout_s=WAIT_S)
        mesh.wait(
            lambda: {one["spec"]["serviceAccount"] for one in entries(mesh)} == {"vm-host", "billing"}, "nor registered", timeout_s=WAIT_S
        )
        machine.stop()
        # No agent runs: one is started for as long as it takes to let go.
        said = machine.leave()
        assert "is released" in said
        assert not entries(mesh)
        left = "".join(run(command, namespace=host.namespace) for command in (["nft", "list", "tables"], ["ip", "rule"]))
        assert "nodemesh" not in left
        machine.configuration.unlink()
    run(["ip", "address", "del", f"{own}/24", "dev", "uplink"], namespace=host.namespace)
    run(["ip", "address", "del", f"{own6}/64", "dev", "uplink"], namespace=host.namespace)


def test_it_says_what_keeps_a_host_from_joining(mesh: Mesh, machine: Machine, tmp_path: Path) -> None:
    with mesh.applied("vm", *documents()):
        machine.create_bundle(GROUP)
        bundle = json.loads(machine.bundle.read_text())
        assert machine.bundle.stat().st_mode & 0o777 == 0o600
        bundle["controller"]["host"] = str(ip_address(int(machine.host.ipv4) + 1))
        machine.bundle.write_text(json.dumps(bundle))
        said = run(["sh", "-c", '"$@" 2>&1', "sh", *_join(machine)], namespace=machine.host.namespace, timeout_s=60, answers=(1,))
        assert "FAILED  controller" in said
        assert "open the way there in firewalls" in said
        assert "the bundle is still good" in said
        machine.create_bundle(GROUP)
        machine.join()
        said = run(["sh", "-c", '"$@" 2>&1', "sh", *_join(machine)], namespace=machine.host.namespace, timeout_s=60, answers=(1,))
        assert "has joined already" in said
        machine.leave()
        # Spent: the controller does not take it a second time.
        said = run(["sh", "-c", '"$@" 2>&1', "sh", *_join(machine)], namespace=machine.host.namespace, timeout_s=60, answers=(1,))
        assert "make a new one" in said


def _join(machine: Machine) -> list[str]:
    from demo.cluster import BIN

    return [
        str(BIN / "nodeagent"),
        f"--run-dir={machine.directory / 'run'}",
        "join",
        str(machine.bundle),
        f"--state-dir={machine.state}",
        "--no-start",
    ]
