"""Machines at controllers on a real API server, under the rights of their manifest: entries in the cluster, two replicas, one that dies."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshapi.attendance import Health, Member
from meshapi.vm import GroupName, VMName
from tests.control.agent import WAIT_S, Agent
from tests.control.kube_controller import KubeWorld, kube_world
from tests.control.vm.machine import attending, leave
from tests.kube.cluster import Cluster

VERSION = "networking.istio.io/v1"


def make_group(kube: Cluster, namespace: str) -> GroupName:
    meta = {"name": "web", "namespace": namespace, "annotations": {"nodemesh.io/allowed-addresses": "10.9.0.0/16"}}
    spec = {"metadata": {"labels": {"app": "web"}}, "template": {"serviceAccount": "web"}, "probe": {"tcpSocket": {"port": 8080}}}
    kube.admin.create({"apiVersion": VERSION, "kind": "WorkloadGroup", "metadata": meta, "spec": spec})
    return GroupName(namespace, "web")


async def joined(world: KubeWorld, group: GroupName) -> Agent:
    machine = await world.agent(VMName.make("vm-1", (group,)).node)
    async with asyncio.timeout(WAIT_S):
        node = machine.identity.rpartition("/")[2]
        while not (made := await world.admin("POST", "/tokens", json={"node": node}))["node_known"]:  # noqa: ASYNC110 -- a server tells
            await asyncio.sleep(0.05)
    await machine.join(made["token"])
    return machine


async def until(kube: Cluster, namespace: str, right: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    async with asyncio.timeout(WAIT_S):
        while not right(found := kube.admin.list(VERSION, "WorkloadEntry", namespace)):  # noqa: ASYNC110 -- a server tells
            await asyncio.sleep(0.05)
    return found


def annotation(entry: dict[str, Any], name: str) -> str:
    return entry["metadata"]["annotations"].get(name, "")


async def test_replicas_hand_a_machine_over_and_its_health_is_in_the_status(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as first, kube_world(kube, tmp_path, beside=first) as second:
        namespace = kube.namespace("shop")
        group = make_group(kube, namespace)
        machine = await joined(first, group)
        member = Member(group, "10.9.3.1", health=Health.HEALTHY)
        async with attending(machine) as stream:
            await stream.registered(member)
            (entry,) = await until(kube, namespace, lambda found: bool(found and found[0].get("status")))
            assert entry["metadata"]["ownerReferences"][0]["kind"] == "WorkloadGroup"
            assert [(one["type"], one["status"]) for one in entry["status"]["conditions"]] == [("Healthy", "True")]
            controller = annotation(entry, "istio.io/workloadController")
        await until(kube, namespace, lambda found: bool(annotation(found[0], "istio.io/disconnectedAt")))
        machine.agent_port = second.agent_port
        async with attending(machine) as stream:
            await stream.registered(member)
            (entry,) = await until(kube, namespace, lambda found: annotation(found[0], "istio.io/workloadController") != controller)
            assert not annotation(entry, "istio.io/disconnectedAt")
            assert await machine.certificate(f"spiffe://cluster.local/ns/{namespace}/sa/web")
        await leave(machine)
        assert not kube.admin.list(VERSION, "WorkloadEntry", namespace)


async def test_an_entry_that_somebody_deletes_is_made_again(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        namespace = kube.namespace("shop")
        group = make_group(kube, namespace)
        machine = await joined(world, group)
        async with attending(machine) as stream:
            await stream.registered(Member(group, "10.9.3.2"))
            (entry,) = kube.admin.list(VERSION, "WorkloadEntry", namespace)
            kube.admin.delete(VERSION, "WorkloadEntry", entry["metadata"]["name"], namespace)
            await until(kube, namespace, lambda found: bool(found) and found[0]["metadata"]["uid"] != entry["metadata"]["uid"])


async def test_who_stays_away_loses_its_entry(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path, grace_s=0.5) as world:
        namespace = kube.namespace("shop")
        group = make_group(kube, namespace)
        machine = await joined(world, group)
        async with attending(machine) as stream:
            await stream.registered(Member(group, "10.9.3.3"))
        await until(kube, namespace, lambda found: not found)
