"""Containers of a real containerd, found by their labels in all of its namespaces but the exempt ones; what is proof of their cgroup."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.linux.namespaces import key_at
from nodeagent.runtime.engines.container import Container
from nodeagent.runtime.engines.containerd import cgroup_pattern
from tests.nodeagent.runtime.containerd import Containerd, containerd
from tests.nodeagent.runtime.following import following
from tests.nodeagent.waiting import until

run = asyncio.to_thread


@pytest.fixture(scope="module")
def engine() -> Iterator[Containerd]:
    with containerd() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_containers(engine: Containerd) -> Iterator[None]:
    yield
    engine.clear()


async def test_labelled_containers_of_all_namespaces_are_workloads(engine: Containerd) -> None:
    pid = await run(engine.run, "web", mode="ambient")
    await run(engine.run, "plain")
    await run(engine.run, "host", network=None, mode="ambient")
    await run(engine.run, "shares", network=f"/proc/{pid}/ns/net", mode="ambient")
    await run(engine.run, "pod", namespace="k8s.io", mode="ambient")
    async with following(engine.socket, exempt=("k8s.io",)) as followed:
        await until(lambda: followed.told is not None, deadline_s=30)
        assert followed.names == ["Kubernetes//Pod/default/web"]
        assert followed.told is not None
        (one,) = followed.told
        assert (one.service_account, one.network, one.present) == ("default", key_at(f"/proc/{pid}/ns/net"), True)
        await run(engine.run, "x", namespace="build", mode="ambient", workload="api-1", account="api", **{"nodemesh.io/namespace": "shop"})
        await until(lambda: followed.names == ["Kubernetes//Pod/default/web", "Kubernetes//Pod/shop/api-1"], deadline_s=30)
        assert followed.told[1].service_account == "api"
        assert not followed.runtime.problem


async def test_a_container_of_the_same_name_is_another_one(engine: Containerd) -> None:
    await run(engine.run, "web", mode="ambient")
    async with following(engine.socket) as followed:
        await until(lambda: bool(followed.told), deadline_s=30)
        assert followed.told is not None
        (first,) = followed.told
        await run(engine.remove, "web")
        await until(lambda: followed.told == (), deadline_s=30)
        pid = await run(engine.run, "web", mode="ambient")
        await until(lambda: bool(followed.told) and followed.told[0].network == key_at(f"/proc/{pid}/ns/net"), deadline_s=30)
        assert not followed.told[0].is_same(first)


async def test_labels_may_come_and_go(engine: Containerd) -> None:
    await run(engine.run, "web")
    async with following(engine.socket) as followed:
        await until(lambda: followed.told == (), deadline_s=30)
        await run(engine.ctr, "containers", "label", "web", "istio.io/dataplane-mode=ambient")
        await until(lambda: followed.names == ["Kubernetes//Pod/default/web"], deadline_s=20)
        await run(engine.ctr, "containers", "label", "web", "nodemesh.io/service-account=shop")
        await until(lambda: [one.service_account for one in followed.told or ()] == ["shop"], deadline_s=20)
        await run(engine.ctr, "containers", "label", "web", "nodemesh.io/service-account=../x")
        await until(lambda: "container web: " in followed.runtime.problem, deadline_s=20)
        assert followed.names == ["Kubernetes//Pod/default/web"], "what it was stays, until it can be followed again"
        await run(engine.ctr, "containers", "label", "web", "istio.io/dataplane-mode=none")
        await until(lambda: followed.told == (), deadline_s=20)


async def test_what_is_known_stays_while_it_is_away_and_what_ended_meanwhile_does_not(engine: Containerd) -> None:
    await run(engine.run, "stays", mode="ambient")
    pid = await run(engine.run, "ends", mode="ambient")
    async with following(engine.socket) as followed:
        await until(lambda: followed.told is not None and len(followed.told) == 2, deadline_s=30)
        await run(engine.stop)
        await until(lambda: "UNAVAILABLE" in followed.runtime.problem, deadline_s=30)
        assert len(followed.told) == 2
        os.kill(pid, signal.SIGKILL)
        await until(lambda: followed.names == ["Kubernetes//Pod/default/stays"], deadline_s=30)
        await run(engine.start)
        await run(engine.run, "new", mode="ambient")
        await until(lambda: followed.names == ["Kubernetes//Pod/default/new", "Kubernetes//Pod/default/stays"], deadline_s=40)
        assert not followed.runtime.problem


def test_a_process_in_another_cgroup_is_not_the_container_s(engine: Containerd) -> None:
    pid = engine.run("web", mode="ambient")
    (engine_cgroup,) = [line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if line.startswith("0::")]
    assert engine_cgroup.endswith(f"{engine.cgroup}/default/web")
    elsewhere = Path("/proc/self/cgroup").read_text()
    one = Container(id="a", name="web", labels={}, pid=pid, cgroup=cgroup_pattern(f"/{engine.cgroup}/default/web", "web"))
    assert one.owns(engine_cgroup)
    assert not one.owns(elsewhere)


@pytest.mark.parametrize(
    ("path", "cgroups", "owns"),
    [
        ("/default/web", "0::/default/web", True),
        ("/default/web", "0::/../default/web", True),
        ("/default/web", "0::/default/web/init.scope", True),
        ("/default/web", "3:cpu:/default/web\n0::/", True),
        ("/default/web", "0::/default/web2", False),
        ("/default/web", "0::/xdefault/web", False),
        ("/default/we.", "0::/default/web", False),
        ("system.slice:nerdctl:0af", "0::/system.slice/nerdctl-0af.scope", True),
        ("system.slice:nerdctl:0af", "0::/system.slice/docker-0af.scope", False),
        (":nerdctl:0af", "0::/system.slice/nerdctl-0af.scope/init", True),
        ("a.slice::b.slice", "0::/a.slice/b.slice", True),
        ("", "0::/web", True),
        ("", "0::/", False),
        ("", "", False),
    ],
)
def test_which_cgroups_are_proof(path: str, cgroups: str, *, owns: bool) -> None:
    assert Container(id="a", name="web", labels={}, pid=1, cgroup=cgroup_pattern(path, "web")).owns(cgroups) is owns
