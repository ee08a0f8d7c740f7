"""control/analysis: each finding where it belongs, with its code, and none where all is well."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from control.analysis.message import CODES
from control.analysis.run import Suppressed, analyze
from control.cli.main import main
from tests.control.envoy.patches.envoy_filters import envoy_filter, inserted, lua
from tests.control.envoy.wasm.test_plugins import HTTPS, SHA, plugin
from tests.control.model.builders import Config
from tests.kube.cluster import Cluster
from tests.kube.rights import controller_kubeconfig

WELL = """
kind: Namespace
apiVersion: v1
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
kind: Node
apiVersion: v1
metadata: {name: n1}
---
kind: Service
apiVersion: v1
metadata: {name: cart, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 10.96.0.1, selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
kind: Pod
apiVersion: v1
metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1}}
spec: {nodeName: n1, serviceAccountName: cart}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
---
kind: Gateway
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: IPAddress, value: 10.0.0.9}]}
---
kind: VirtualService
apiVersion: networking.istio.io/v1
metadata: {name: cart, namespace: shop}
spec: {hosts: [cart], http: [{route: [{destination: {host: cart, subset: v1, port: {number: 80}}}]}]}
---
kind: DestinationRule
apiVersion: networking.istio.io/v1
metadata: {name: cart, namespace: shop}
spec: {host: cart.shop.svc.cluster.local, subsets: [{name: v1, labels: {version: v1}}]}
---
kind: AuthorizationPolicy
apiVersion: security.istio.io/v1
metadata: {name: cart, namespace: shop}
spec: {targetRefs: [{kind: Service, name: cart, group: ""}], rules: [{to: [{operation: {methods: [GET]}}]}]}
"""


def found(more: str = "", text: str = WELL) -> list[tuple[str, str]]:
    """Codes, and the objects that they are about."""
    messages = analyze(Config(f"{text}\n---\n{more}" if more else text).mesh)
    assert {one.code for one in messages} <= set(CODES)
    assert all(one.origin.file == "a.yaml" and one.origin.line for one in messages), messages
    return [(one.code, str(one.object)) for one in messages]


def test_nothing_is_said_where_all_is_well() -> None:
    assert found() == []


def virtual_service(name: str, spec: str) -> str:
    return f"kind: VirtualService\napiVersion: networking.istio.io/v1\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"


def destination_rule(name: str, spec: str) -> str:
    return f"kind: DestinationRule\napiVersion: networking.istio.io/v1\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"


def authorization(name: str, spec: str) -> str:
    return f"kind: AuthorizationPolicy\napiVersion: security.istio.io/v1\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"


def service(name: str, spec: str, labels: str = "{}") -> str:
    return f"kind: Service\napiVersion: v1\nmetadata: {{name: {name}, namespace: shop, labels: {labels}}}\nspec: {spec}"


def routed(http: str) -> str:
    """Routes of a host of its own; `%s` stands for where they lead."""
    return virtual_service("a", f"{{hosts: [a.test], http: [{http.replace('%s', 'route: [{destination: {host: cart}}]')}]}}")


def http_route(spec: str) -> str:
    return f"kind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}"


EDGE = """kind: Gateway
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: runs, namespace: shop, labels: {istio: edge}}
spec: {gatewayClassName: istio, addresses: [{value: 192.0.2.1}], listeners: [{name: a, port: 81, protocol: HTTP}]}
---
kind: Gateway
apiVersion: networking.istio.io/v1
metadata: {name: edge, namespace: shop}
spec: {selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*.a.test"]}]}"""
TILL = service("till", "{clusterIP: 10.96.0.2, selector: {app: cart}, ports: [{name: http, port: 80}]}")
UNGUARDED = authorization("a", "{targetRefs: [{kind: Service, name: till, group: ''}], rules: [{}]}")


def rate_limit(name: str, service: str, more: str = "") -> str:
    targets = f"targetRefs: [{{kind: Service, name: {service}}}]"
    spec = f"{{{targets}, {more}rules: [{{limit: {{requests: 1, per: day}}}}]}}"
    return f"kind: RateLimit\napiVersion: nodemesh.io/v1alpha1\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            virtual_service("a", "{hosts: [a.test], http: [{route: [{destination: {host: carts}}]}]}"),
            [("IST0101", "VirtualService shop/a")],
        ),
        (
            virtual_service("a", "{hosts: [a.test], http: [{route: [{destination: {host: cart, subset: v9}}]}]}"),
            [("IST0101", "VirtualService shop/a")],
        ),
        (
            virtual_service("a", "{hosts: [a.test], http: [{route: [{destination: {host: cart, port: {number: 81}}}]}]}"),
            [("IST0101", "VirtualService shop/a")],
        ),
        (
            virtual_service("a", "{hosts: [a.test], http: [{route: [{destination: {host: cart}}], mirror: {host: nowhere.test}}]}"),
            [("IST0101", "VirtualService shop/a")],
        ),
        (
            virtual_service("d", "{hosts: [cart.shop.svc.cluster.local], http: [{route: [{destination: {host: cart}}]}]}"),
            [("IST0109", "VirtualService shop/d")],
        ),
        (
            f"{EDGE}\n---\n"
            + EDGE.partition("---\n")[2]
            .replace("name: edge, namespace", "name: two, namespace")
            .replace("protocol: HTTP}", "protocol: TCP}"),
            [("IST0145", "Gateway.networking.istio.io shop/two")],
        ),
        (destination_rule("a", "{host: carts}"), [("IST0101", "DestinationRule shop/a")]),
        (destination_rule("d", "{host: cart, subsets: [{name: v2, labels: {version: v2}}]}"), [("NM0002", "DestinationRule shop/d")]),
        (destination_rule("d", "{host: cart, subsets: [{name: v1, labels: {app: cart}}]}"), [("IST0137", "DestinationRule shop/d")]),
        (authorization("a", "{selector: {matchLabels: {app: carts}}, rules: [{}]}"), [("IST0127", "AuthorizationPolicy shop/a")]),
        (
            authorization("a", "{targetRefs: [{kind: Service, name: till, group: ''}], rules: [{}]}"),
            [("IST0101", "AuthorizationPolicy shop/a")],
        ),
        (rate_limit("l", "till"), [("IST0101", "RateLimit shop/l")]),
        (f"{TILL}\n---\n{rate_limit('l', 'till')}", [("NM0004", "RateLimit shop/l")]),
        (rate_limit("l", "cart"), []),
        (rate_limit("l", "cart", "scope: global, "), [("NM0007", "RateLimit shop/l")]),
        (rate_limit("l", "cart", "status: 200, "), [("IST0106", "RateLimit shop/l")]),
        (f"{TILL}\n---\n{UNGUARDED}", [("NM0004", "AuthorizationPolicy shop/a")]),
        (
            service("till", "{clusterIP: 10.96.0.2, selector: {app: cart}, ports: [{name: web, port: 80}]}"),
            [("IST0118", "Service shop/till")],
        ),
        (
            service("till", "{clusterIP: 10.96.0.2, selector: {app: till}, ports: [{name: http, port: 80}]}"),
            [("NM0005", "Service shop/till")],
        ),
        (
            service(
                "till", "{clusterIP: 10.96.0.2, selector: {app: cart}, ports: [{name: http, port: 80}]}", "{istio.io/use-waypoint: way}"
            ),
            [("NM0003", "Service shop/till")],
        ),
        (
            routed("{match: [{uri: {prefix: /a}}], %s}, {match: [{uri: {prefix: /a/b}}, {uri: {exact: /ab}}], %s}"),
            [("IST0130", "VirtualService shop/a")],
        ),
        (
            routed("{match: [{uri: {prefix: /a}}], %s}, {match: [{uri: {exact: /a}}, {uri: {exact: /b}}], %s}"),
            [("IST0131", "VirtualService shop/a")],
        ),
        (routed("{%s}, {match: [{uri: {exact: /a}}], %s}"), [("IST0130", "VirtualService shop/a")]),
        (EDGE.partition("---")[2], [("IST0101", "Gateway.networking.istio.io shop/edge")]),
        (
            f"{EDGE}\n---\n{virtual_service('a', '{hosts: [b.test], gateways: [edge], http: [{route: [{destination: {host: cart}}]}]}')}",
            [("IST0132", "VirtualService shop/a")],
        ),
        (
            virtual_service("a", "{hosts: [b.test], gateways: [gone], http: [{route: [{destination: {host: cart}}]}]}"),
            [("IST0101", "VirtualService shop/a")],
        ),
        (http_route("{parentRefs: [{name: gone}], rules: [{backendRefs: [{name: cart, port: 80}]}]}"), [("IST0101", "HTTPRoute shop/a")]),
        (
            http_route("{parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: carts, port: 80}]}]}"),
            [("IST0101", "HTTPRoute shop/a")],
        ),
        (
            authorization("a", "{selector: {matchLabels: {app: x}}, jwtRules: [{issuer: me, jwksUri: 'https://a.test/k'}]}").replace(
                "AuthorizationPolicy", "RequestAuthentication"
            ),
            [("IST0127", "RequestAuthentication shop/a")],
        ),
        (
            "kind: Namespace\napiVersion: v1\nmetadata: {name: b, annotations: {traffic.sidecar.istio.io/excludeOutboundPort: '1'}}",
            [("IST0108", "Namespace b")],
        ),
        (envoy_filter("far", inserted(lua("")), namespace="team"), [("IST0127", "EnvoyFilter team/far")]),
        (plugin("far", HTTPS, namespace="team", sha256=SHA), [("IST0127", "WasmPlugin team/far")]),
        (envoy_filter("near", inserted(lua("")), services=("cart",)), []),
        (envoy_filter("beside", inserted(lua(""), sub_filter="another"), services=("cart",)), [("IST0151", "EnvoyFilter shop/beside")]),
        (envoy_filter("beside", inserted(lua(""), sub_filter="another"), services=("cart",), priority=5), []),
    ],
)
def test_findings(more: str, expected: list[tuple[str, str]]) -> None:
    assert found(more) == expected


def test_an_invalid_object_and_one_that_is_used_in_part() -> None:
    wrong = authorization("a", "{rules: [{to: [{operation: {ports: ['0']}}]}]}")
    part = authorization("b", "{rules: [{to: [{operation: {methods: [GET]}}]}]}")
    assert found(f"{wrong}\n---\n{part}") == [("IST0106", "AuthorizationPolicy shop/a"), ("NM0001", "AuthorizationPolicy shop/b")]


def test_what_is_suppressed_is_not_said() -> None:
    mesh = Config(f"{WELL}\n---\n{destination_rule('a', '{host: carts}')}").mesh
    assert analyze(mesh, [Suppressed("IST0101", "DestinationRule shop/a")]) == []
    assert analyze(mesh, [Suppressed("IST0101")]) == []
    assert len(analyze(mesh, [Suppressed("IST0101", "DestinationRule shop/b"), Suppressed("IST0109")])) == 1


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{WELL}\n---\n{destination_rule('a', '{host: carts}')}")
    result = CliRunner().invoke(main, ["analyze", str(tmp_path), "-o", "json"])
    assert result.exit_code == 1
    (one,) = json.loads(result.stdout)
    assert (one["code"], one["object"]) == ("IST0101", "DestinationRule shop/a")
    assert CliRunner().invoke(main, ["analyze", str(tmp_path), "--suppress", "IST0101"]).stdout == "nothing to say\n"
    assert CliRunner().invoke(main, ["analyze"]).exit_code == 2


def test_a_cluster_with_files_as_if_they_were_applied(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace()
    host = f"cart.{namespace}.test"
    entry = {"hosts": [host], "ports": [{"number": 80, "name": "http"}], "resolution": "STATIC", "endpoints": [{"address": "10.3.4.5"}]}
    metadata = {"name": "cart", "namespace": namespace}
    kube.admin.create({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": metadata, "spec": entry})
    rules = [destination_rule(name, f"{{host: {of}}}") for name, of in (("good", host), ("bad", f"x.{host}"))]
    (tmp_path / "a.yaml").write_text("\n---\n".join(rules).replace("namespace: shop", f"namespace: {namespace}"))
    config, _ = controller_kubeconfig(kube, tmp_path)
    result = CliRunner().invoke(main, ["analyze", str(tmp_path / "a.yaml"), "--kubeconfig", str(config), "-o", "json"])
    ours = [(one["code"], one["object"]) for one in json.loads(result.stdout) if namespace in one["object"]]
    assert ours == [("IST0101", f"DestinationRule {namespace}/bad")]
