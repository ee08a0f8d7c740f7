"""Controllers on a real API server: what the leader writes, who follows it, and the root that all of them share."""

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from control.ca.issuer import IssuerError
from control.ca.own_root import ensure_own_authority
from control.cluster import root_secret
from tests.control.agent import bearer, create
from tests.control.fakes import csr_pem, new_key
from tests.control.kube_controller import KubeWorld, kube_world
from tests.kube.admin import APIError
from tests.kube.cluster import Cluster
from tests.kube.objects import run_pod
from tests.kube.rights import ACCOUNT, install_rights

WAIT_S = 20.0
ROOTS = "istio-ca-root-cert"
POLICY = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
ENTRY = "networking.istio.io/v1"
GOOD = {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]}


async def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer of `condition`, for which a missing object is no answer."""
    deadline_s = asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            if found := condition():
                return found
        except APIError as error:
            if error.status != 404:
                raise
        if asyncio.get_running_loop().time() > deadline_s:
            raise TimeoutError(what)
        await asyncio.sleep(0.05)


def conditions(kube: Cluster, namespace: str, name: str = "p") -> dict[str, tuple[str, str]]:
    status = kube.admin.get("security.istio.io/v1", "AuthorizationPolicy", name, namespace).get("status") or {}
    return {one["type"]: (one["status"], one["message"]) for one in status.get("conditions", [])}


def leader(kube: Cluster, namespace: str) -> str:
    return kube.admin.get("coordination.k8s.io/v1", "Lease", "nodemesh-controller", namespace)["spec"].get("holderIdentity", "")


async def test_policies_say_what_became_of_them(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        meta = {"name": "p", "namespace": world.namespace}
        kube.admin.apply({**POLICY, "metadata": meta, "spec": GOOD})
        await until(lambda: conditions(kube, world.namespace).get("nodemesh.io/Bound") == ("False", "0 workloads"), "a status")
        assert conditions(kube, world.namespace)["nodemesh.io/Accepted"][0] == "True"
        run_pod(kube.admin, world.namespace, "a", "10.9.7.1", node="n1")
        await until(lambda: conditions(kube, world.namespace)["nodemesh.io/Bound"] == ("True", "1 workloads"), "a new count")
        kube.admin.apply({**POLICY, "metadata": meta, "spec": {"action": "PERHAPS"}})
        await until(lambda: conditions(kube, world.namespace)["nodemesh.io/Accepted"][0] == "False", "what is wrong")
        assert "last good form" in conditions(kube, world.namespace)["nodemesh.io/Accepted"][1]
        # Settled: what is right is not written again.
        version = kube.admin.get(POLICY["apiVersion"], POLICY["kind"], "p", world.namespace)["metadata"]["resourceVersion"]
        await until(lambda: kube.admin.create(_marker(world.namespace)) and len(_markers(kube, world.namespace)) >= 1, "a moment")
        assert kube.admin.get(POLICY["apiVersion"], POLICY["kind"], "p", world.namespace)["metadata"]["resourceVersion"] == version


async def test_entries_say_what_became_of_them(kube: Cluster, tmp_path: Path) -> None:
    """The schema of their kinds takes it, and so do the controller's rights."""

    def stated(kind: str, name: str, namespace: str) -> dict[str, tuple[str, str]]:
        found = kube.admin.get(ENTRY, kind, name, namespace).get("status") or {}
        return {one["type"].removeprefix("nodemesh.io/"): (one["status"], one["message"]) for one in found.get("conditions", [])}

    async with kube_world(kube, tmp_path) as world:
        host = f"db.{world.namespace}.example.com"
        selector = {"hosts": [host], "ports": [{"number": 80, "name": "http"}], "resolution": "STATIC"}
        meta = {"namespace": world.namespace}
        kube.admin.apply(
            {
                "apiVersion": ENTRY,
                "kind": "ServiceEntry",
                "metadata": {**meta, "name": "db"},
                "spec": {**selector, "workloadSelector": {"labels": {"app": "db"}}},
            }
        )
        await until(lambda: stated("ServiceEntry", "db", world.namespace).get("Bound") == ("False", "0 workloads"), "a status")
        machine = {"address": "198.18.5.1", "labels": {"app": "db"}}
        kube.admin.apply({"apiVersion": ENTRY, "kind": "WorkloadEntry", "metadata": {**meta, "name": "m"}, "spec": machine})
        await until(lambda: stated("ServiceEntry", "db", world.namespace).get("Bound") == ("True", "1 workloads"), "its endpoint")
        await until(lambda: stated("WorkloadEntry", "m", world.namespace).get("Bound") == ("True", "1 services"), "its service")
        run_pod(kube.admin, world.namespace, "a", "198.18.5.1", node="n1")
        await until(lambda: stated("WorkloadEntry", "m", world.namespace)["Accepted"][0] == "False", "that it is a pod's address")
        assert "belongs to Pod" in stated("WorkloadEntry", "m", world.namespace)["Accepted"][1]


async def test_limits_say_what_became_of_them(kube: Cluster, tmp_path: Path) -> None:
    """What the schema of the kind can say it refuses; the rest stands in the status."""
    version, kind = "nodemesh.io/v1alpha1", "RateLimit"

    def accepted(namespace: str) -> str:
        found = (kube.admin.get(version, kind, "l", namespace).get("status") or {}).get("conditions", [])
        return next((one["status"] for one in found if one["type"] == "nodemesh.io/Accepted"), "")

    async with kube_world(kube, tmp_path) as world:

        def apply(by: str = "source.principal", **limit: object) -> None:
            rule = {"limit": {"requests": 5, "per": "minute", **limit}, "by": [by]}
            spec = {"targetRefs": [{"kind": "Service", "name": "cart"}], "rules": [rule]}
            meta = {"name": "l", "namespace": world.namespace}
            kube.admin.apply({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec})

        for wrong in ({"requests": 0}, {"per": "week"}, {"burst": "many"}):
            with pytest.raises(APIError, match=r"422|[Ii]nvalid|failed to create typed"):
                apply(**wrong)
        apply()
        await until(lambda: accepted(world.namespace) == "True", "a status")
        apply(by="source.shoe")
        await until(lambda: accepted(world.namespace) == "False", "what is wrong")


def _marker(namespace: str) -> dict[str, Any]:
    return {**POLICY, "metadata": {"generateName": "m-", "namespace": namespace}, "spec": GOOD}


def _markers(kube: Cluster, namespace: str) -> list[str]:
    """The policies that were made meanwhile and have their status: so the round that looked at all has been."""
    items = kube.admin.list("security.istio.io/v1", "AuthorizationPolicy", namespace)
    return [one["metadata"]["name"] for one in items if one["metadata"]["name"] != "p" and one.get("status")]


async def test_the_roots_are_in_every_namespace_and_kept_right(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as world:
        root = (await world.admin("GET", "/root"))["pem"]

        def published(namespace: str) -> str:
            return kube.admin.get("v1", "ConfigMap", ROOTS, namespace)["data"]["root-cert.pem"]

        await until(lambda: published(world.namespace) == root, "the roots")
        later = kube.namespace()
        await until(lambda: published(later) == root, "the roots in a new namespace")
        broken = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": ROOTS, "namespace": later}, "data": {"root-cert.pem": "x"}}
        kube.admin.merge(broken)
        await until(lambda: published(later) == root, "the roots put right")
        kube.admin.delete("v1", "ConfigMap", ROOTS, later)
        await until(lambda: published(later) == root, "the roots put back")


async def test_all_replicas_serve_and_sign_below_one_root_and_one_writes(kube: Cluster, tmp_path: Path) -> None:
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        roots = {(await one.admin("GET", "/root"))["pem"] for one in (first, second)}
        assert len(roots) == 1
        name = first.node()
        token = first.token(first.agent_pod(name))
        leaves = [x509.load_pem_x509_certificates("".join(await certificate(one, token, name)).encode()) for one in (first, second)]
        issuers = {chain[1].fingerprint(chain[1].signature_hash_algorithm) for chain in leaves}
        assert len(issuers) == 2, "each has an intermediate of its own"
        for leaf, intermediate, root in leaves:
            leaf.verify_directly_issued_by(intermediate)
            intermediate.verify_directly_issued_by(root)
        agent = await first.agent(name)
        await agent.join(token)
        agent.agent_port = second.agent_port
        assert await agent.certificate(agent.identity), "what one has signed, the other takes"


async def certificate(world: KubeWorld, token: str, name: str) -> list[str]:
    agent = await world.agent(name)
    deadline_s = asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            async with agent.by_token() as channel:
                return await create(channel, csr_pem(agent.identity, new_key()), bearer(token))
        except Exception:
            if asyncio.get_running_loop().time() > deadline_s:
                raise
            await asyncio.sleep(0.05)


async def test_a_leader_that_dies_is_followed(kube: Cluster, tmp_path: Path) -> None:
    """Dies: without giving its lease back."""
    async with AsyncExitStack() as opened:
        first = await opened.enter_async_context(kube_world(kube, tmp_path))
        before = await until(lambda: leader(kube, first.namespace), "a leader")
        second = await opened.enter_async_context(kube_world(kube, tmp_path, beside=first))
        first.cut_off()
        await until(lambda: leader(kube, first.namespace) not in {"", before}, "another leader")
        kube.admin.apply({**POLICY, "metadata": {"name": "p", "namespace": first.namespace}, "spec": GOOD})
        await until(lambda: conditions(kube, second.namespace), "a status, by the new leader")


async def test_a_leader_that_stops_is_followed_at_once(kube: Cluster, tmp_path: Path) -> None:
    async with kube_world(kube, tmp_path) as first, kube_world(kube, tmp_path, beside=first) as second:
        before = await until(lambda: leader(kube, first.namespace), "a leader")
        first.stop.set()
        await until(lambda: leader(kube, second.namespace) not in {"", before}, "another leader")


async def test_an_authority_that_is_given_is_used_as_it_is(kube: Cluster, tmp_path: Path) -> None:
    """The secret `cacerts`, as Istio has it; and what is changed in it is taken over."""
    namespace = kube.namespace("controller")
    install_rights(kube, namespace)
    kube.service_account(namespace, "agent")
    given = tmp_path / "given"
    ensure_own_authority(given, "cluster.local", 1_790_000_000)
    data = {name: (given / name).read_bytes() for name in ("root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem")}
    encoded = {name: base64.b64encode(content).decode() for name, content in data.items()}
    kube.admin.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": namespace}, "data": encoded})
    async with kube_world(kube, tmp_path, namespace=namespace) as world:
        assert (await world.admin("GET", "/root"))["pem"].encode() == data["root-cert.pem"]
        # That intermediate allows none below it: it signs itself, and the controller says so.
        assert "path length" in (await world.admin("GET", "/status"))["signs_directly_because"]
        # The root does: then each controller has its own.
        data = {"ca-cert.pem": data["root-cert.pem"], "ca-key.pem": (given / "root-key.pem").read_bytes(), "cert-chain.pem": b""}
        encoded |= {name: base64.b64encode(content).decode() for name, content in data.items()}
        kube.admin.merge({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": namespace}, "data": encoded})
        async with kube_world(kube, tmp_path, beside=world) as second:
            assert (await second.admin("GET", "/status"))["signs_directly_because"] is None
            name = world.node()
            token = world.token(world.agent_pod(name))
            chain = x509.load_pem_x509_certificates("".join(await certificate(second, token, name)).encode())
            assert [one.subject.rfc4514_string() for one in chain[1:]] == [
                "CN=nodemesh issuer of cluster.local",
                "CN=nodemesh root of cluster.local",
            ]
            assert chain[1].public_key() != x509.load_pem_x509_certificate((given / "ca-cert.pem").read_bytes()).public_key()
    with pytest.raises(APIError):
        kube.admin.get("v1", "Secret", "nodemesh-root", namespace)


async def test_a_given_authority_that_is_none_is_not_passed_over(kube: Cluster, tmp_path: Path) -> None:
    """Another root in its place would be one that nobody asked for."""
    namespace = kube.namespace("controller")
    install_rights(kube, namespace)
    kube.service_account(namespace, "agent")
    data = {"root-cert.pem": base64.b64encode(b"canary").decode()}
    kube.admin.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": namespace}, "data": data})
    with pytest.raises(ExceptionGroup) as group:
        async with kube_world(kube, tmp_path, namespace=namespace):
            pass
    error = group.value.exceptions[0]
    assert isinstance(error, IssuerError)
    assert str(error) == "the secret cacerts lacks ca-cert.pem, ca-key.pem"


async def test_a_root_that_is_deleted_is_put_back(kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next controller that starts would make another one."""
    monkeypatch.setattr(root_secret, "PERIOD_S", 0.2)
    async with kube_world(kube, tmp_path) as first:
        root = (await first.admin("GET", "/root"))["pem"]
        kube.admin.delete("v1", "Secret", "nodemesh-root", first.namespace)
        await until(lambda: kube.admin.get("v1", "Secret", "nodemesh-root", first.namespace), "the root again")
        async with kube_world(kube, tmp_path, beside=first) as second:
            assert (await second.admin("GET", "/root"))["pem"] == root


async def test_the_controllers_own_rights_are_for_nothing_else(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace("controller")
    install_rights(kube, namespace)
    kube.admin.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other", "namespace": namespace}})
    client = kube.client(kube.admin.token(namespace, ACCOUNT))
    for version, kind, name, where in [
        ("v1", "Secret", "other", namespace),
        ("v1", "Secret", "nodemesh-root", "default"),
        ("v1", "ConfigMap", "another", namespace),
    ]:
        with pytest.raises(APIError) as refused:
            client.get(version, kind, name, where)
        assert refused.value.status == 403, (kind, name)
    for kind in ("Secret", "ConfigMap"):
        with pytest.raises(APIError) as refused:
            client.list("v1", kind)
        assert refused.value.status == 403
    assert json.dumps(client.list("v1", "Pod", namespace)) == "[]"
