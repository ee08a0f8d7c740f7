"""What Gateway API's routes say wrongly is told with its line, and no condition or filter falls away."""

import textwrap

import pytest

from control.kinds import GatewayClass, GRPCRoute, HTTPRoute, Kind, ReferenceGrant, TCPRoute, TLSRoute
from control.validation.document import Document, read_documents
from control.validation.finding import Severity

GROUP = "gateway.networking.k8s.io"
BACKEND = "backendRefs: [{name: reviews, port: 80}]"


def read(kind: str, spec: str, version: str = "v1") -> Document:
    head = f"apiVersion: {GROUP}/{version}\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n"
    return read_documents(head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n", "f.yaml", "istio-system")[0]


def rule(text: str) -> str:
    return "parentRefs: [{name: edge}]\nrules: [{" + text + "}]"


def test_an_http_route_is_read() -> None:
    found = read(
        "HTTPRoute",
        """
        parentRefs:
        - {name: edge, namespace: infra, sectionName: https}
        - {group: "", kind: Service, name: reviews, port: 80}
        hostnames: [a.example, "*.b.example"]
        rules:
        - name: first
          matches:
          - path: {type: PathPrefix, value: /v1}
            headers: [{name: x-a, value: b}, {type: RegularExpression, name: x-c, value: "[0-9]+"}]
            queryParams: [{name: q, value: "1"}]
            method: GET
          filters:
          - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-s, value: a}], remove: [x-old]}}
          - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, percent: 5}}
          - {type: RequestMirror, requestMirror: {backendRef: {name: other, port: 80}, fraction: {numerator: 1, denominator: 1000}}}
          - {type: URLRewrite, urlRewrite: {hostname: in.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
          - {type: CORS, cors: {allowOrigins: ["https://shop.example"], allowMethods: [GET], allowCredentials: true, maxAge: 60}}
          timeouts: {request: 10s, backendRequest: 2s}
          retry: {codes: [503], attempts: 2, backoff: 100ms}
          backendRefs:
          - {name: reviews, port: 80, weight: 9}
          - name: reviews-v2
            namespace: other
            port: 80
            filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-v, value: "2"}]}}]
        - matches: [{path: {type: Exact, value: /old}}]
          filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
        """,
    )
    assert isinstance(found.object, HTTPRoute), found.findings
    assert found.findings == ()
    assert found.object.spec.rules[0].backend_refs[0].weight == 9


def test_the_other_kinds_are_read() -> None:
    grpc = read("GRPCRoute", rule("matches: [{method: {service: shop.Cart, method: Add}}], " + BACKEND))
    assert isinstance(grpc.object, GRPCRoute), grpc.findings
    tls = read("TLSRoute", "parentRefs: [{name: edge}]\nhostnames: [a.example]\nrules: [{" + BACKEND + "}]", "v1alpha3")
    assert isinstance(tls.object, TLSRoute), tls.findings
    tcp = read("TCPRoute", rule(BACKEND), "v1alpha2")
    assert isinstance(tcp.object, TCPRoute), tcp.findings
    grant = read(
        "ReferenceGrant", f"from: [{{group: {GROUP}, kind: HTTPRoute, namespace: a}}]\nto: [{{group: '', kind: Service}}]", "v1beta1"
    )
    assert isinstance(grant.object, ReferenceGrant), grant.findings
    assert grant.object.spec.origins[0].namespace == "a"


def test_a_class_is_of_no_namespace() -> None:
    found = read("GatewayClass", "controllerName: nodemesh.io/gateway")
    assert isinstance(found.object, GatewayClass), found.findings
    assert found.key is not None
    assert (found.key.kind, found.key.namespace) == (Kind.GATEWAY_CLASS, "")


FILTER = "matches: [{path: {type: PathPrefix, value: /}}], " + BACKEND + ", filters: [{"


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (rule("matches: [{path: {type: Prefix}}], " + BACKEND), "none of Exact"),
        (rule("matches: [{path: {value: a}}], " + BACKEND), "matches no path"),
        (rule("matches: [{path: {type: RegularExpression, value: '(?=a)'}}], " + BACKEND), "no regular expression of RE2"),
        (rule("matches: [{headers: [{name: 'a b', value: c}]}], " + BACKEND), "no name of a header"),
        (rule("matches: [{method: get}], " + BACKEND), "no method"),
        (rule("matches: [{cookies: []}], " + BACKEND), "unknown field 'cookies'"),
        (rule("backendRefs: [{name: a}]"), "needs a port"),
        (rule("backendRefs: [{name: a, port: 80, weight: -1}]"), "no weight"),
        (rule(BACKEND + ", sessionPersistence: {type: Cookie}"), "is not supported"),
        (rule(BACKEND + ", timeouts: {request: soon}"), "no duration"),
        (rule(BACKEND + ", retry: {codes: [200]}"), "no status of a failure"),
        (rule(FILTER + "type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}]"), "ExtensionRef is not supported"),
        (rule(FILTER + "type: CORS, urlRewrite: {hostname: a.example}}]"), "its own field and no other"),
        (rule(FILTER + "type: RequestHeaderModifier}]"), "its own field and no other"),
        (rule(FILTER + "type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]"), "not changed as a header"),
        (rule(FILTER + "type: RequestRedirect, requestRedirect: {}}]"), "go to no backend"),
        (rule(FILTER + "type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath}}}]"), "its own field and no other"),
        (
            rule(
                "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, "
                "urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], " + BACKEND
            ),
            "no prefix to replace",
        ),
        ("parentRefs: [{name: edge}]\nhostnames: [10.0.0.1]\nrules: [{" + BACKEND + "}]", "no host name"),
    ],
)
def test_what_is_refused(spec: str, what: str) -> None:
    found = read("HTTPRoute", spec)
    errors = [finding.what for finding in found.findings if finding.severity is Severity.ERROR]
    assert any(what in one for one in errors), found.findings
    assert found.object is None


@pytest.mark.parametrize(
    ("kind", "spec", "what"),
    [
        ("GRPCRoute", rule("matches: [{method: {}}], " + BACKEND), "names neither"),
        ("GRPCRoute", rule("matches: [{method: {service: a/b}}], " + BACKEND), "no name of gRPC"),
        ("GRPCRoute", rule("filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}}], " + BACKEND), "no filter of this route"),
        ("TLSRoute", "rules: []", "connections have one"),
        ("TCPRoute", rule("backendRefs: []"), "leads nowhere"),
        ("ReferenceGrant", "from: []\nto: [{group: '', kind: Service}]", "grants nothing"),
    ],
)
def test_what_is_refused_of_the_others(kind: str, spec: str, what: str) -> None:
    found = read(kind, spec)
    assert any(what in finding.what for finding in found.findings if finding.severity is Severity.ERROR), found.findings
    assert found.object is None


def test_what_belongs_to_others_is_passed_over_with_a_warning() -> None:
    found = read("HTTPRoute", "parentRefs: [{group: x.example, kind: Mesh, name: m}]\nrules: [{backendRefs: [{kind: Bucket, name: b}]}]")
    assert isinstance(found.object, HTTPRoute)
    assert ["not looked at" in one.what or "they fail" in one.what for one in found.findings] == [True, True]
