"""What Envoys tell one replica is known at all, and stands in the status that the leader writes."""

import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from control.cluster.shared_findings import GONE_S, MAX_ENTRY_BYTES, NAME, SharedFindings, decode, encode
from control.kinds import Kind, ObjectKey
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.told import Told, together
from kubeapi.access import from_kubeconfig
from kubeapi.client import KubeClient
from tests.control.cluster.test_replicas import GOOD, POLICY, conditions, until
from tests.control.kube_controller import kube_world
from tests.kube.cluster import Cluster
from tests.kube.rights import ACCOUNT, install_rights

POLICY_KEY = ObjectKey(Kind.AUTHORIZATION_POLICY, "shop", "p")
KEYS = st.builds(ObjectKey, st.sampled_from(Kind), st.text(max_size=5), st.text(max_size=5))
WORDS = st.dictionaries(KEYS, st.lists(st.text(max_size=20), min_size=1, max_size=3).map(tuple), max_size=4)


@given(st.builds(Told, WORDS, WORDS), st.integers(0, 9))
def test_entries_are_read_as_they_were_written(told: Told, beat: int) -> None:
    entry = encode(told, beat)
    assert (decode(entry) if entry is not None else Told()) == told
    assert together((told, told)).in_vain.keys() == told.in_vain.keys()


def test_entries_are_bounded_and_garbage_tells_nothing() -> None:
    many = Told(refused={ObjectKey(Kind.AUTHORIZATION_POLICY, "shop", f"p{at:05}"): ("x" * 300,) for at in range(1000)})
    entry = encode(many, 1)
    assert entry is not None
    assert len(entry) < MAX_ENTRY_BYTES + 1000
    assert decode(entry).refused.items() < many.refused.items()
    for garbage in ("", "{}", "[]", '{"beat": 1, "said": [{"object": {"kind": "Nothing", "namespace": "", "name": ""}}]}'):
        assert decode(garbage) == Told()


async def test_what_one_replica_tells_the_others_know_until_it_is_gone(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace("controller")
    install_rights(kube, namespace)
    access = from_kubeconfig(kube.kubeconfig(tmp_path / "kubeconfig", kube.admin.token(namespace, ACCOUNT)))
    clock = [1000.0]
    async with KubeClient(access) as client:
        meshes = [Mesh(MeshSettings()), Mesh(MeshSettings())]
        first, second = (SharedFindings(client, namespace, f"r{at}", mesh, lambda: clock[0]) for at, mesh in enumerate(meshes))
        await second.round()
        meshes[0].take_refusals({POLICY_KEY: ("no such regex",)})
        meshes[0].take_problems({POLICY_KEY: ("nobody there",)})
        for replica in (first, second):
            await replica.round()
        assert meshes[1].told_elsewhere == Told({POLICY_KEY: ("nobody there",)}, {POLICY_KEY: ("no such regex",)})
        assert meshes[0].told_elsewhere == Told(), "its own it knows"
        clock[0] += GONE_S - 1
        await first.round()
        clock[0] += GONE_S - 1
        await second.round()
        assert meshes[1].told_elsewhere != Told(), "it was freshened"
        clock[0] += GONE_S + 1
        await second.round()
        assert meshes[1].told_elsewhere == Told(), "nothing was heard for long"
        await first.round()
        await first.round()
        await second.round()
        assert meshes[1].told_elsewhere != Told(), "it was only slow"
        meshes[0].take_refusals({})
        meshes[0].take_problems({})
        await first.round()
        await second.round()
        assert meshes[1].told_elsewhere == Told()
        assert "r0" not in (kube.admin.get("v1", "ConfigMap", NAME, namespace).get("data") or {})


async def test_the_leader_writes_what_others_were_told(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        kube.admin.apply({**POLICY, "metadata": {"name": "p", "namespace": world.namespace}, "spec": GOOD})
        await until(lambda: "nodemesh.io/Enforced" in conditions(kube, world.namespace), "a status")
        told = Told(refused={ObjectKey(Kind.AUTHORIZATION_POLICY, world.namespace, "p"): ("an Envoy takes no part of it",)})
        entry = encode(told, int(time.monotonic()))
        meta = {"name": NAME, "namespace": world.namespace}
        kube.admin.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"another": entry}})
        await until(lambda: "takes no part" in conditions(kube, world.namespace)["nodemesh.io/Enforced"][1], "what another one was told")
