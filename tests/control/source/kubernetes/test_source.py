"""The source against a real API server, with the rights that the manifest gives it and no others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control.kinds import AuthorizationPolicy, Kind, ObjectKey, Pod
from control.metrics import Metrics
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.serve import follow
from control.source.kubernetes.source import KubernetesSource
from kubeapi import follower
from kubeapi.access import from_kubeconfig
from kubeapi.client import KubeClient
from tests.kube.cluster import Cluster
from tests.kube.objects import node, pod, pod_key, run_pod, service, stored
from tests.kube.quiet import quiet
from tests.kube.relay import Relay, relay
from tests.kube.rights import controller_kubeconfig

WAIT_S = 20.0
POLICIES = "/apis/security.istio.io/v1/authorizationpolicies"
_FILTERS = "type.googleapis.com/envoy.extensions.filters.http"


class Reader:
    """A mesh that is fed from the API server."""

    def __init__(self) -> None:
        self.mesh = Mesh(MeshSettings())
        self.synced = asyncio.Event()
        self.metrics = Metrics()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 -- polls what has no event, with a deadline
                await asyncio.sleep(0.02)

    def has(self, kind: Kind, namespace: str, name: str) -> bool:
        return ObjectKey(kind, namespace, name) in self.mesh.records

    def pods(self, namespace: str) -> set[str]:
        return {key.name for key in self.mesh.records if key.kind is Kind.POD and key.namespace == namespace}

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    @property
    def pod_lists(self) -> float:
        return self.count("nodemesh_source_lists_total", path="/api/v1/pods")


@asynccontextmanager
async def reading(kubeconfig: Path) -> AsyncIterator[Reader]:
    reader = Reader()
    async with KubeClient(from_kubeconfig(kubeconfig)) as client:
        source = KubernetesSource(client, "istio-system", reader.metrics)
        task = asyncio.ensure_future(follow(source, reader.mesh, reader.synced))
        try:
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await quiet()


@asynccontextmanager
async def reading_through_relay(kube: Cluster, path: Path) -> AsyncIterator[tuple[Reader, Relay]]:
    async with relay(kube.port) as between:
        kubeconfig, _ = controller_kubeconfig(kube, path, server=between.server)
        async with reading(kubeconfig) as reader:
            await asyncio.wait_for(reader.synced.wait(), WAIT_S)
            yield reader, between


async def test_what_is_there_and_what_comes_and_goes(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace(labels={"istio.io/dataplane-mode": "ambient"})
    kube.admin.create(node(f"n-{namespace}"))
    made = run_pod(kube.admin, namespace, "a", "10.9.0.1", node=f"n-{namespace}", labels={"app": "a"})
    kube.admin.create(service(namespace, "a", {"app": "a"}))
    gateway = {"gatewayClassName": "istio-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]}
    meta = {"name": "w", "namespace": namespace}
    kube.admin.create({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": meta, "spec": gateway})
    servers = {"servers": [{"port": {"number": 80, "protocol": "HTTP", "name": "http"}, "hosts": ["*"]}]}
    kube.admin.create({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": meta, "spec": servers})
    route = {"parentRefs": [{"name": "w"}], "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}
    for version, kind in (("v1", "HTTPRoute"), ("v1", "GRPCRoute"), ("v1alpha3", "TLSRoute"), ("v1alpha2", "TCPRoute")):
        api = f"gateway.networking.k8s.io/{version}"
        kube.admin.create({"apiVersion": api, "kind": kind, "metadata": {"name": "w", "namespace": namespace}, "spec": route})
    limit = {"name": "l", "typed_config": {"@type": f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "l"}}
    patches = {"configPatches": [{"applyTo": "HTTP_FILTER", "patch": {"operation": "ADD", "value": limit}}]}
    kube.admin.create({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": meta, "spec": patches})
    module = {"url": "https://a.example/m.wasm", "sha256": "0" * 64}
    kube.admin.create({"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "metadata": meta, "spec": module})
    kubeconfig, _ = controller_kubeconfig(kube, tmp_path)
    async with reading(kubeconfig) as reader:
        await asyncio.wait_for(reader.synced.wait(), WAIT_S)
        found = reader.mesh.store.find(Pod, namespace, "a")
        assert found is not None
        assert found.metadata.uid == made["metadata"]["uid"]
        for kind, where, name in [
            (Kind.NAMESPACE, "", namespace),
            (Kind.NODE, "", f"n-{namespace}"),
            (Kind.SERVICE, namespace, "a"),
            (Kind.SERVICE_ACCOUNT, namespace, "default"),
            (Kind.GATEWAY, namespace, "w"),
            (Kind.ISTIO_GATEWAY, namespace, "w"),
            (Kind.HTTP_ROUTE, namespace, "w"),
            (Kind.GRPC_ROUTE, namespace, "w"),
            (Kind.TLS_ROUTE, namespace, "w"),
            (Kind.TCP_ROUTE, namespace, "w"),
            (Kind.ENVOY_FILTER, namespace, "w"),
            (Kind.WASM_PLUGIN, namespace, "w"),
        ]:
            assert reader.has(kind, where, name), kind
        run_pod(kube.admin, namespace, "b", "10.9.0.2", node=f"n-{namespace}")
        await reader.until(lambda: reader.pods(namespace) == {"a", "b"})
        kube.admin.delete("v1", "Pod", "a", namespace)
        await reader.until(lambda: reader.pods(namespace) == {"b"})


async def test_a_namespace_is_enrolled_with_its_pods(kube: Cluster, tmp_path: Path) -> None:
    """Thirty pods run; one label enrols them all, and takes them back."""
    namespace = kube.namespace()
    items = (stored({**pod(namespace, f"p{n}", node="n1"), "status": {"phase": "Running", "podIP": f"10.9.1.{n + 1}"}}) for n in range(30))
    kube.preload((pod_key(namespace, item["metadata"]["name"]), item) for item in items)
    kubeconfig, _ = controller_kubeconfig(kube, tmp_path)
    async with reading(kubeconfig) as reader:
        await asyncio.wait_for(reader.synced.wait(), WAIT_S)
        pushes: list[int] = []
        reader.mesh.watch(lambda changes: pushes.append(sum(len(names) for names in changes.values())))
        label = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"istio.io/dataplane-mode": "ambient"}}}
        kube.admin.merge(label)
        await reader.until(lambda: 30 in pushes)
        label["metadata"]["labels"]["istio.io/dataplane-mode"] = None
        kube.admin.merge(label)
        await reader.until(lambda: pushes.count(30) == 2)


async def test_policies_as_in_files_and_their_last_good_form(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace()
    policy = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "p", "namespace": namespace}}
    kube.admin.apply({**policy, "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]}})
    key = ObjectKey(Kind.AUTHORIZATION_POLICY, namespace, "p")
    kubeconfig, _ = controller_kubeconfig(kube, tmp_path)
    async with reading(kubeconfig) as reader:
        await asyncio.wait_for(reader.synced.wait(), WAIT_S)
        good = reader.mesh.records[key].object
        assert isinstance(good, AuthorizationPolicy)
        kube.admin.apply({**policy, "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"prots": ["80"]}}]}]}})
        await reader.until(lambda: reader.mesh.records[key].rejected)
        assert reader.mesh.records[key].object == good
        kube.admin.delete(policy["apiVersion"], policy["kind"], "p", namespace)
        await reader.until(lambda: key not in reader.mesh.records)


async def test_a_watch_that_breaks_resumes_without_a_list(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace()
    run_pod(kube.admin, namespace, "gone", "10.9.2.1", node="n1")
    async with reading_through_relay(kube, tmp_path) as (reader, between):
        assert reader.pod_lists == 1
        between.refusing = True
        between.cut()
        run_pod(kube.admin, namespace, "new", "10.9.2.2", node="n1")
        kube.admin.delete("v1", "Pod", "gone", namespace)
        await reader.until(lambda: reader.count("nodemesh_source_failures_total", path="/api/v1/pods", status="0") >= 2)
        assert reader.pods(namespace) == {"gone"}
        between.refusing = False
        await reader.until(lambda: reader.pods(namespace) == {"new"})
        assert reader.pod_lists == 1


async def test_a_watch_that_says_nothing_any_more_is_left(kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a load balancer that forgot the connection: no end, no reset."""
    monkeypatch.setattr(follower, "SILENCE_S", 1.0)
    namespace = kube.namespace()
    async with reading_through_relay(kube, tmp_path) as (reader, between):
        between.stall()
        before = between.accepted
        kube.admin.create(pod(namespace, "meanwhile"))
        await reader.until(lambda: between.accepted > before)
        between.cut()
        between.passing.set()
        await reader.until(lambda: reader.pods(namespace) == {"meanwhile"})
        assert reader.pod_lists == 1


async def test_an_api_server_that_is_gone_for_a_while_and_forgot_what_happened(kube: Cluster, tmp_path: Path) -> None:
    """Its successor knows no history: the watches expire (410), and lists tell what came and went meanwhile."""
    namespace = kube.namespace()
    run_pod(kube.admin, namespace, "gone", "10.9.3.1", node="n1")
    async with reading_through_relay(kube, tmp_path) as (reader, between):
        between.refusing = True
        between.cut()
        # Enough for the version of the watch to lie before all that a new server's cache can hold.
        for number in range(20):
            kube.admin.create(pod(namespace, f"p{number}"))
        kube.admin.delete("v1", "Pod", "gone", namespace)
        kube.stop_apiserver()
        assert reader.pods(namespace) == {"gone"}
        kube.start_apiserver()
        await asyncio.to_thread(kube.wait_ready)
        between.refusing = False
        await reader.until(lambda: reader.pods(namespace) == {f"p{number}" for number in range(20)})
        assert reader.count("nodemesh_source_failures_total", path="/api/v1/pods", status="410") == 1
        assert reader.pod_lists == 2


async def test_kinds_that_are_defined_later_and_go_again(kube: Cluster, tmp_path: Path) -> None:
    name = "serviceentries.networking.istio.io"
    kube.admin.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
    namespace = kube.namespace()
    kubeconfig, _ = controller_kubeconfig(kube, tmp_path)
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": namespace},
        "spec": {"hosts": ["e.example"], "resolution": "STATIC", "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]},
    }
    try:
        async with reading(kubeconfig) as reader:
            await asyncio.wait_for(reader.synced.wait(), WAIT_S)
            await asyncio.to_thread(kube.install_crd, name)
            kube.admin.create(entry)
            await reader.until(lambda: reader.has(Kind.SERVICE_ENTRY, namespace, "e"))
            kube.admin.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
            await reader.until(lambda: not reader.has(Kind.SERVICE_ENTRY, namespace, "e"))
    finally:
        await asyncio.to_thread(kube.install_crd, name)


async def test_a_kind_in_versions_that_nobody_understands_takes_nothing_away(kube: Cluster, tmp_path: Path) -> None:
    """Its objects are still there. What was read stays in use; who starts now waits, and serves nothing."""
    name, path = "peerauthentications.security.istio.io", "/apis/security.istio.io/v1/peerauthentications"
    namespace = kube.namespace()
    meta = {"name": "strict", "namespace": namespace}
    strict = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": meta}
    kube.admin.create({**strict, "spec": {"mtls": {"mode": "STRICT"}}})
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}
    [version] = kube.admin.get(definition["apiVersion"], definition["kind"], name)["spec"]["versions"]
    newer = [{**version, "name": "v9"}, {**version, "storage": False, "served": False}]
    kubeconfig, _ = controller_kubeconfig(kube, tmp_path)
    try:
        async with reading(kubeconfig) as reader:
            await asyncio.wait_for(reader.synced.wait(), WAIT_S)
            kube.admin.merge({**definition, "spec": {"versions": newer}})
            await reader.until(lambda: reader.count("nodemesh_source_failures_total", path=path, status="404") >= 1)
            assert reader.has(Kind.PEER_AUTHENTICATION, namespace, "strict")
            async with reading(kubeconfig) as late:
                await late.until(lambda: late.count("nodemesh_source_lists_total", path="/api/v1/pods") == 1)
                await late.until(lambda: late.count("nodemesh_source_lists_total", path=POLICIES) == 1)
                assert not late.synced.is_set()
                kube.admin.merge({**definition, "spec": {"versions": [{**version, "storage": False}, newer[0]]}})
                await asyncio.wait_for(late.synced.wait(), WAIT_S)
                assert late.has(Kind.PEER_AUTHENTICATION, namespace, "strict")
    finally:
        kube.admin.merge({**definition, "spec": {"versions": [version, {**version, "name": "v9", "storage": False}]}})


async def test_without_rights_nothing_is_synced(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace()
    kubeconfig = kube.kubeconfig(tmp_path / "kubeconfig", kube.admin.token(namespace, "default"))
    async with reading(kubeconfig) as reader:
        await reader.until(lambda: reader.count("nodemesh_source_failures_total", path="/api/v1/pods", status="403") >= 2)
        assert not reader.synced.is_set()
        assert not reader.mesh.records
