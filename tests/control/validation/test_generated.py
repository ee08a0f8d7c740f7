"""Whatever is written in manifests, reading them and the mesh that is made of them hold."""

import copy
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import objects
from control.source.tree import FileTree
from meshapi import wire
from meshapi.authorization import decode_policy
from meshapi.workload import decode_address
from tests.control.validation.reading import ROOT, errors

GOOD: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}},
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.9.0.1"}]},
    },
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "shop", "labels": {"app": "web"}, "ownerReferences": [{"kind": "Job", "name": "x"}]},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}]},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIPs": ["10.96.0.1"], "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["192.0.2.9"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "p"}}],
        "ports": [{"name": "http", "port": 80}],
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "e", "namespace": "shop"},
        "spec": {
            "hosts": ["a.example"],
            "addresses": ["192.0.2.1"],
            "resolution": "STATIC",
            "ports": [{"number": 80, "name": "http", "targetPort": 81}],
            "endpoints": [{"address": "192.0.2.2", "ports": {"http": 8080}, "locality": "r/z", "weight": 2}],
        },
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {"name": "w", "namespace": "shop"},
        "spec": {"address": "192.0.2.3", "labels": {"app": "web"}, "serviceAccount": "w", "network": "x"},
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"80": {"mode": "PERMISSIVE"}},
        },
    },
    {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "action": "DENY",
            "rules": [
                {
                    "from": [{"source": {"principals": ["a*"], "ipBlocks": ["10.0.0.0/8"]}}],
                    "to": [{"operation": {"ports": ["80"]}}],
                    "when": [{"key": "source.namespace", "values": ["x"]}],
                }
            ],
        },
    },
]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [0, -1, 65536, 1 << 40, "", "*", "a/b", "..", "10.0.0.1", "::1", "x" * 300, "\x00", "ä", "STRICT", [], {}, [[]], {"a": {}}]
    ),
    st.text(max_size=8),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, child in entries for place in _places(child, (*path, key))]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A good manifest with up to three places replaced, removed or added to."""
    value = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 3))):
        places = [place for place in _places(value) if place]
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        parent = value
        for step in parents:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                parent[last] = copy.deepcopy(draw(JUNK))  # what is drawn is one and the same object each time
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(st.text(min_size=1, max_size=5))] = copy.deepcopy(
                    draw(JUNK)
                )  # what is drawn is one and the same object each time
    return json.dumps(value)


def test_the_manifests_to_mutate_are_good() -> None:
    for manifest in GOOD:
        assert errors(json.dumps(manifest)) == []


@settings(max_examples=400, deadline=None)
@given(st.lists(mutated(), min_size=1, max_size=4))
def test_nothing_that_is_written_breaks_the_mesh(texts: list[str]) -> None:
    mesh, tree = Mesh(MeshSettings()), FileTree(ROOT)
    for index, text in enumerate([*(json.dumps(manifest) for manifest in GOOD), *texts]):
        mesh.apply(tree.update({f"{index % 9}.yaml": text}))
    msgspec.json.encode(objects(mesh, "", "", ""))
    # What is served can be read by every agent.
    for name in mesh.names(wire.ADDRESS_TYPE):
        resource = mesh.get(wire.ADDRESS_TYPE, name)
        assert resource is not None
        decode_address(resource.body)
    for name in mesh.names(wire.AUTHORIZATION_TYPE):
        resource = mesh.get(wire.AUTHORIZATION_TYPE, name)
        assert resource is not None
        decode_policy(resource.body)
