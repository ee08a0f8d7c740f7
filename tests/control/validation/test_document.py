"""Documents become objects or findings: every error, with its line; and what can't be understood never opens anything."""

import copy
import json
import textwrap
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import AuthorizationPolicy, Kind, ObjectKey, PeerAuthentication
from control.kinds.security import MTLSMode, PolicyAction
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.model.status import objects
from control.source.tree import FileTree
from control.validation.document import Document, read_documents
from control.validation.finding import Severity
from meshapi import wire
from meshapi.authorization import decode_policy
from meshapi.workload import decode_address

ROOT = "istio-system"


def read(text: str) -> list[Document]:
    return read_documents(textwrap.dedent(text).lstrip("\n"), "f.yaml", ROOT)


def errors(text: str) -> list[tuple[int, str]]:
    found = [finding for document in read(text) for finding in document.findings if finding.severity is Severity.ERROR]
    return [(finding.origin.line, finding.what) for finding in found]


def warnings(text: str) -> list[str]:
    return [one.what for document in read(text) for one in document.findings if one.severity is Severity.WARNING]


def test_every_error_is_listed_with_its_line() -> None:
    found = errors("""
        apiVersion: v1
        kind: Pod
        metadata:
          name: a
          labels: {app: true}
        spec:
          containers:
          - ports:
            - {name: x}
            - {containerPort: 99999}
            - {containerPort: 80, name: 3}
          serviceAccountName: Not_A_Name
        ---
        apiVersion: v1
        kind: Service
        metadata: {name: a}
        spec:
          clusterIP: 127.0.0.1
          internalTrafficPolicy: Near
          trafficDistribution: Far
          ipFamilies: [IPv5]
          ports:
          - {port: 0}
          - {port: 80, targetPort: 70000}
          - {port: 80}
        """)
    assert [line for line, _ in found] == [5, 9, 11, 12, 18, 23, 24, 25, 19, 20, 21]


def test_one_bad_document_blocks_no_other() -> None:
    documents = read("""
        a: b: c
        ---
        apiVersion: v1
        kind: Namespace
        metadata: {name: good}
        ---
        - just a list
        ---
        {{ template }}
        """)
    assert [document.key for document in documents] == [None, ObjectKey(Kind.NAMESPACE, "", "good"), None, None]
    assert documents[1].object is not None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("kind: Pod", "needs apiVersion and kind"),
        ("apiVersion: v1\nkind: Pod", "metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 5}", "metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}", "metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: A}", "metadata.name or metadata.namespace"),
        ("apiVersion: v2\nkind: Pod\nmetadata: {name: a}", "not supported"),
        ("apiVersion: security.istio.io/v9\nkind: AuthorizationPolicy\nmetadata: {name: a}", "not supported"),
        ("just text", "not an object"),
    ],
)
def test_documents_without_an_object(text: str, what: str) -> None:
    ((_, message),) = errors(text)
    assert what in message


def test_other_kinds_are_passed_over_with_a_warning() -> None:
    (document,) = read("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}")
    assert [(finding.severity, document.unreadable) for finding in document.findings] == [(Severity.WARNING, False)]


def test_a_list_holds_objects() -> None:
    documents = read("""
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Namespace, metadata: {name: a}}
        - {apiVersion: v1, kind: Pod, metadata: {name: b}}
        """)
    assert [str(document.key) for document in documents] == ["Namespace a", "Pod default/b"]
    assert [document.origin.line for document in documents] == [4, 5]


def authorization(spec: str, metadata: str = "{name: p, namespace: shop}") -> str:
    return f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {metadata}\nspec: {spec}\n"


def source(fields: str) -> str:
    return f"{{rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"


@pytest.mark.parametrize(
    "spec",
    [
        "{rule: [{}]}",
        "{rules: {}}",
        "{rules: [null]}",
        "{rules: }",
        "{rules: [{from: }]}",
        "{rules: [{from: [], to: [{operation: {ports: ['80']}}]}]}",
        "{rules: [{from: [{}]}]}",
        "{rules: [{from: [{source: }]}]}",
        "{rules: [{from: [{source: {}}]}]}",
        "{rules: [{from: [{source: {principals: []}}]}]}",
        "{rules: [{to: [{operation: {}}]}]}",
        "{rules: [{to: [{operation: {port: ['80']}}]}]}",
        "{rules: [{to: [{operation: {ports: [80]}}]}]}",
        "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
        "{rules: [{when: [{key: source.ip}]}]}",
        "{rules: [{when: [{key: source.ip, values: []}]}]}",
        "{rules: [{when: [{key: source.ips, values: ['10.0.0.1']}]}]}",
        "{rules: [{when: [{values: ['10.0.0.1']}]}]}",
        "{rules: [{when: [{key: destination.port, values: ['0']}]}]}",
        "{rules: [{whenever: []}]}",
        "{action: Deny, rules: [{}]}",
        "{action: DENY}",
        "{selector: {}}",
        "{selector: {matchLabels: {}}}",
        "{selector: {matchLabel: {a: b}}}",
        "{selector: {matchLabels: {a: '*'}}}",
        "{selector: {matchExpressions: []}}",
        "{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: x}]}",
        source("principals: ['']"),
        source("principals: ['spiffe://a/ns/b/sa/c']"),
        source("principals: a"),
        source("ipBlocks: [10.0.0.0/33]"),
        source("ipBlocks: ['10.0.0.0/255.0.0.0']"),
        source("notIpBlocks: [x]"),
        source("serviceAccounts: ['*']"),
        source("serviceAccounts: [a], namespaces: [b]"),
        source("namespaces: [null]"),
    ],
)
@pytest.mark.parametrize("action", ["", "action: DENY, "])
def test_a_policy_that_says_something_else_than_it_seems_is_an_error(spec: str, action: str) -> None:
    if "action" not in spec:
        spec = spec.replace("{", "{" + action, 1)
    (document,) = read(authorization(spec))
    assert document.object is None
    assert errors(authorization(spec))
    assert isinstance(document.closed, AuthorizationPolicy)
    # Closed: an ALLOW that allows nothing, or a DENY of everything.
    if document.closed.spec.action is PolicyAction.ALLOW:
        assert not document.closed.spec.rules
    else:
        assert document.closed.spec.rules == (msgspec.convert({}, type(document.closed.spec.rules[0])),)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (authorization("{}", "{name: p, namespace: shop, annotations: {istio.io/dry-run: maybe}}"), "neither true nor false"),
        (authorization("{}") + "extra: 1\n", "unknown field 'extra'"),
    ],
)
def test_what_is_wrong_beside_the_rules(text: str, remark: str) -> None:
    assert [what for _, what in errors(text) if remark in what]


@pytest.mark.parametrize(
    "spec",
    [
        "{}",
        "",
        "{rules: [{}]}",
        "{action: DENY, rules: [{}]}",
        "{rules: [{from: [{source: {principals: ['*'], notNamespaces: [x]}}], to: [{operation: {methods: [GET], ports: ['80']}}]}]}",
        "{rules: [{when: [{key: 'request.headers[x]', values: [y]}, {key: source.principal, notValues: [z]}]}]}",
        "{targetRefs: [{kind: Service, name: x, group: ''}], rules: [{}]}",
        "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
    ],
)
def test_what_istio_accepts(spec: str) -> None:
    text = authorization(spec, "{name: p, namespace: shop, resourceVersion: '1', managedFields: [{a: b}]}") + "status: {x: y}\n"
    assert errors(text) == []


def test_a_wildcard_inside_is_taken_literally_and_said() -> None:
    assert warnings(authorization(source("principals: ['a*b', 'a*']"))) == ["'a*b': a * inside is taken literally"]


def peer(spec: str, namespace: str = "shop") -> str:
    return f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"


@pytest.mark.parametrize(
    ("spec", "namespace"),
    [
        ("{mtls: {mode: Strict}}", "shop"),
        ("{mtls: STRICT}", "shop"),
        ("{mtls: }", "shop"),
        ("{mtsl: {mode: STRICT}}", "shop"),
        ("{selector: {}}", "shop"),
        ("{portLevelMtls: {80: {mode: STRICT}}}", "shop"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "shop"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {http: {mode: STRICT}}}", "shop"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: STRICT}}", "shop"),
        ("{selector: {matchLabels: {a: b}}}", ROOT),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: STRICT, '0': x}}}", "shop"),
        ("{'`$.a`': 1}", "shop"),
        ("{'x - at `$.mtls[3]': 1}", "shop"),
    ],
)
def test_a_peer_authentication_that_is_not_understood_is_strict(spec: str, namespace: str) -> None:
    (document,) = read(peer(spec, namespace))
    assert document.object is None
    assert isinstance(document.closed, PeerAuthentication)
    assert document.closed.spec.mtls.mode is MTLSMode.STRICT


def test_disable_of_a_port_is_permissive_and_said() -> None:
    (found,) = warnings(peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: DISABLE}}}"))
    assert "treated as PERMISSIVE" in found


@pytest.mark.parametrize(
    ("text", "key", "selector"),
    [
        (authorization("{selector: {matchLabels: {app: web}}, x: 1}"), "AuthorizationPolicy shop/p", {"app": "web"}),
        (authorization("{selector: {matchLabels: {app: [web]}}}"), "AuthorizationPolicy shop/p", {}),
        (authorization("{x: {}"), "AuthorizationPolicy shop/p", {}),
        (authorization("{a: b: c}", "\n  name: p\n  namespace: shop"), "AuthorizationPolicy shop/p", {}),
        (peer("[").replace("namespace: shop", ""), "PeerAuthentication default/p", {}),
    ],
)
def test_the_closed_form_holds_for_whom_the_policy_seems_to_mean(text: str, key: str, selector: dict[str, str]) -> None:
    (document,) = read(text)
    assert str(document.key) == key
    assert isinstance(document.closed, AuthorizationPolicy | PeerAuthentication)
    assert document.closed.selector == selector


def test_what_would_not_be_enforced_has_no_closed_form() -> None:
    (document,) = read(authorization("{action: AUDIT, x: 1}"))
    assert (document.object, document.closed) == (None, None)


@pytest.mark.parametrize(
    ("spec", "targets"),
    [
        ("{targetRefs: [{kind: Service, name: x}], x: 1}", [("Service", "x")]),
        ("{targetRef: {kind: Gateway, name: x}, action: DENY, x: 1}", [("Gateway", "x")]),
        # What it is for can't be told: all workloads of the namespace.
        ("{targetRefs: [{kind: Service, title: x}], x: 1}", []),
        ("{targetRefs: [{kind: Pod, name: x}]}", []),
        ("{targetRefs: x}", []),
    ],
)
def test_the_closed_form_of_a_policy_for_waypoints_is_for_what_it_names(spec: str, targets: list[tuple[str, str]]) -> None:
    (document,) = read(authorization(spec))
    assert document.object is None
    assert isinstance(document.closed, AuthorizationPolicy)
    assert [(target.kind, target.name) for target in document.closed.targets] == targets


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("{kind: Pod, name: x}", "can't be for a 'Pod'"),
        ("{kind: Service, name: x, group: apps}", "there is no Service in 'apps'"),
        ("{kind: Service, name: x, namespace: other}", "objects of its own namespace"),
        ("{kind: GatewayClass, name: x}", "belongs in the root namespace"),
        ("{kind: Service, name: 'x y'}", "x y"),
    ],
)
def test_what_a_policy_can_not_be_for(target: str, what: str) -> None:
    (document,) = read(authorization(f"{{targetRefs: [{target}], rules: [{{}}]}}"))
    assert document.object is None
    assert what in str(document.findings[0])


GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: shop, labels: {%s}}
spec:
  gatewayClassName: istio-waypoint
  addresses: [%s]
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {%s}}}]
"""


@pytest.mark.parametrize(
    ("labels", "addresses", "namespaces", "what", "is_read"),
    [
        ("", "", "from: Same", "", True),
        ("", "", "from: Selector, selector: {matchLabels: {a: b}}", "", True),
        ("istio.io/waypoint-for: pods", "", "", "takes none", True),
        ("", "{value: 127.0.0.1}", "", "it is not used", True),
        ("", "", "from: Everywhere", "is none of All, Same, Selector", False),
        ("", "", "from: Selector", "needs a selector", False),
        ("", "", "from: Selector, selector: {matchExpressions: [{key: a, operator: Near}]}", "is none of In", False),
    ],
)
def test_gateways(labels: str, addresses: str, namespaces: str, what: str, is_read: bool) -> None:
    (document,) = read(GATEWAY % (labels, addresses, namespaces))
    assert (document.object is not None) == is_read
    assert what in "".join(map(str, document.findings))
    assert bool(document.findings) == bool(what)


def service_entry(spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: shop}}\nspec: {spec}\n"


@pytest.mark.parametrize(
    "spec",
    [
        "{}",
        "{hosts: []}",
        "{hosts: ['*']}",
        "{hosts: [a.example, a.example]}",
        "{hosts: [a.example], addresses: [169.254.169.254]}",
        "{hosts: [a.example], addresses: [10.0.0.0/8]}",
        "{hosts: [a.example], resolution: MAGIC}",
        "{hosts: [a.example], ports: [{number: 0}]}",
        "{hosts: [a.example], ports: [{number: 80}, {number: 80}]}",
        "{hosts: ['*.a.example'], resolution: DNS}",
        "{hosts: [a.example], endpoints: [{address: 192.0.2.1}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 'unix:///run/x'}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 0x7f000001}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: '2130706433'}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: localhost}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1, network: a/b}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1, weight: -1}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1, serviceAccount: A}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1}], workloadSelector: {labels: {a: b}}}",
        "{hosts: [a.example], workloadSelector: {}}",
    ],
)
def test_entries_that_are_refused(spec: str) -> None:
    assert errors(service_entry(spec))


def test_what_a_manifest_lacks_for_being_served_is_said() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
    assert warnings(text) == ["the pod has no address and is not served", "the pod is on no node: nobody can obtain its identity"]
    assert warnings(text + "spec: {nodeName: n1}\nstatus: {podIPs: [{ip: 10.0.0.1}]}\n") == [
        "nothing says that the pod is ready: it counts as unhealthy"
    ]


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
