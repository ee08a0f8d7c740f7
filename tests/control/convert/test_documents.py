"""control/convert: old documents in, today's out; what has no new form is said and nothing is made of it."""

from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from control.cli.main import main
from control.convert.documents import Conversion, Into, convert

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: products, namespace: shop}
spec: {selector: {app: products}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: products-next, namespace: shop}
spec: {selector: {app: next}, ports: [{port: 80}]}
"""


def converted(*texts: str) -> Conversion:
    return convert([one for text in texts for one in yaml.safe_load_all(text) if one], Into())


def made(conversion: Conversion) -> list[tuple[str, str, Any]]:
    """Kind, namespace/name and specification of what was made, services left out."""
    assert not conversion.failed, conversion.notes
    return [
        (one["kind"], f"{one['metadata'].get('namespace')}/{one['metadata']['name']}", one["spec"])
        for one in conversion.documents
        if one["kind"] != "Service"
    ]


def refused(*texts: str) -> str:
    notes = [note for note in converted(*texts).notes if note.error]
    assert notes
    return "; ".join(note.what for note in notes)


# ---- authentication


def policy(spec: str, kind: str = "Policy") -> str:
    return f"apiVersion: authentication.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: default, namespace: shop}}\nspec: {spec}"


def test_mutual_tls_of_the_mesh_and_of_a_namespace() -> None:
    assert made(converted(policy("{peers: [{mtls: {}}]}", "MeshPolicy"))) == [
        ("PeerAuthentication", "istio-system/default", {"mtls": {"mode": "STRICT"}})
    ]
    assert made(converted(policy("{peers: [{mtls: {mode: PERMISSIVE}}]}"))) == [
        ("PeerAuthentication", "shop/default", {"mtls": {"mode": "PERMISSIVE"}})
    ]
    assert made(converted(policy("{}")))[0][2] == {"mtls": {"mode": "PERMISSIVE"}}
    assert made(converted(policy("{peers: [{mtls: null}]}")))[0][2] == {"mtls": {"mode": "STRICT"}}


def test_mutual_tls_of_a_services_port() -> None:
    text = policy("{targets: [{name: products, ports: [{number: 80}]}], peers: [{mtls: {mode: STRICT}}]}")
    assert made(converted(SERVICES, text)) == [
        (
            "PeerAuthentication",
            "shop/default",
            {"selector": {"matchLabels": {"app": "products"}}, "mtls": {"mode": "UNSET"}, "portLevelMtls": {"8080": {"mode": "STRICT"}}},
        )
    ]


def test_tokens_are_asked_for() -> None:
    text = policy(
        "{targets: [{name: products}], peers: [{mtls: {}}], origins: [{jwt: {issuer: me, jwksUri: 'https://me/k', jwtHeaders: [x-token],"
        " triggerRules: [{excludedPaths: [{exact: /health}, {prefix: /open/}]}]}}]}"
    )
    peer, request, required = made(converted(SERVICES, text))
    target = {"targetRefs": [{"group": "", "kind": "Service", "name": "products"}]}
    assert peer[0] == "PeerAuthentication"
    rule = {"issuer": "me", "jwksUri": "https://me/k", "fromHeaders": [{"name": "x-token"}], "forwardOriginalToken": True}
    assert request == ("RequestAuthentication", "shop/default", {**target, "jwtRules": [rule]})
    assert required[2] == {
        **target,
        "action": "DENY",
        "rules": [
            {"from": [{"source": {"notRequestPrincipals": ["*"]}}], "to": [{"operation": {"notPaths": ["/health", "/open/*"]}}]},
        ],
    }


def test_optional_tokens_are_verified_and_not_asked_for() -> None:
    kinds = [
        one[0]
        for one in made(converted(SERVICES, policy("{targets: [{name: products}], originIsOptional: true, origins: [{jwt: {issuer: a}}]}")))
    ]
    assert kinds == ["PeerAuthentication", "RequestAuthentication"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("{targets: [{name: unknown}], peers: [{mtls: {}}]}", "give its manifest"),
        ("{peers: [{mtls: {mode: WEAK}}]}", "STRICT or PERMISSIVE"),
        ("{peers: [{jwt: {}}]}", "no new form"),
        ("{somethingElse: 1}", "no new form"),
        ("{origins: [{jwt: {issuer: a, triggerRules: [{includedPaths: [{regex: .*}]}]}}]}", "exact, prefix and suffix"),
        ("{origins: [{jwt: {audiences: [a]}}]}", "without an issuer"),
        ("{targets: [{name: products, ports: [{number: 81}]}], peers: [{mtls: {}}]}", "not known by number"),
    ],
)
def test_policies_without_a_new_form(spec: str, why: str) -> None:
    assert why in refused(SERVICES, policy(spec))


# ---- roles

CONFIG = """
apiVersion: rbac.istio.io/v1alpha1
kind: ClusterRbacConfig
metadata: {name: default}
spec: {mode: ON_WITH_INCLUSION, inclusion: {namespaces: [shop]}}
"""


def role(rules: str) -> str:
    return f"apiVersion: rbac.istio.io/v1alpha1\nkind: ServiceRole\nmetadata: {{name: viewer, namespace: shop}}\nspec: {{rules: {rules}}}"


def binding(subjects: str, extra: str = "") -> str:
    return (
        "apiVersion: rbac.istio.io/v1alpha1\nkind: ServiceRoleBinding\nmetadata: {name: viewers, namespace: shop}\n"
        f"spec: {{subjects: {subjects}, roleRef: {{kind: ServiceRole, name: viewer}}{extra}}}"
    )


def test_a_role_of_connections_selects_the_services_workloads() -> None:
    texts = (
        SERVICES,
        CONFIG,
        role("[{services: [products.shop.svc.cluster.local], methods: ['*']}]"),
        binding("[{user: cluster.local/ns/a/sa/b}]"),
    )
    assert made(converted(*texts)) == [
        (
            "AuthorizationPolicy",
            "shop/viewers-products",
            {
                "selector": {"matchLabels": {"app": "products"}},
                "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/a/sa/b"]}}]}],
            },
        ),
        ("AuthorizationPolicy", "shop/allow-nothing", {}),
    ]


def test_a_role_of_requests_is_the_waypoints() -> None:
    texts = (CONFIG, role("[{services: [products], methods: [GET], paths: [/p*]}]"), binding("[{user: '*'}]"))
    documents = made(converted(*texts))
    assert documents[0][2] == {
        "targetRefs": [{"group": "", "kind": "Service", "name": "products"}],
        "rules": [{"to": [{"operation": {"methods": ["GET"], "paths": ["/p*"]}}]}],
    }
    assert [one[1] for one in documents[1:]] == ["shop/allow-nothing", "shop/allow-waypoint", "shop/waypoint-allow-nothing"]
    assert documents[2][2] == {"rules": [{"from": [{"source": {"principals": ["*/ns/shop/sa/waypoint"]}}]}]}


def test_every_service_that_a_pattern_matches() -> None:
    texts = (SERVICES, CONFIG, role("[{services: ['products*']}]"), binding("[{properties: {source.namespace: a}}]"))
    assert [one[1] for one in made(converted(*texts))][:2] == ["shop/viewers-products", "shop/viewers-products-next"]


def test_subjects_and_constraints() -> None:
    constraints = "[{key: 'destination.labels[version]', values: [v1]}, {key: destination.port, values: ['80']}]"
    texts = (
        SERVICES,
        CONFIG,
        role(f"[{{services: [products], constraints: {constraints}}}]"),
        binding("[{namespaces: [a], notIps: [10.0.0.0/8]}, {user: cluster.local/ns/b/sa/b}]"),
    )
    assert made(converted(*texts))[0][2] == {
        "selector": {"matchLabels": {"app": "products", "version": "v1"}},
        "rules": [
            {
                "from": [{"source": {"namespaces": ["a"], "notIpBlocks": ["10.0.0.0/8"]}}],
                "when": [{"key": "destination.port", "values": ["80"]}],
            },
            {"from": [{"source": {"principals": ["cluster.local/ns/b/sa/b"]}}], "when": [{"key": "destination.port", "values": ["80"]}]},
        ],
    }


def test_groups_and_claims_are_conditions_of_tokens() -> None:
    subjects = "[{group: admin, properties: {'request.auth.claims[iss]': me}}]"
    rules = made(converted(CONFIG, role("[{services: [products]}]"), binding(subjects)))[0][2]["rules"]
    assert rules == [
        {"when": [{"key": "request.auth.claims[groups]", "values": ["admin"]}, {"key": "request.auth.claims[iss]", "values": ["me"]}]}
    ]


def test_what_was_not_enforced_only_reports() -> None:
    off = CONFIG.replace("ON_WITH_INCLUSION, inclusion: {namespaces: [shop]}", '"OFF"')
    for text, more in ((off, ""), (CONFIG, ", mode: PERMISSIVE")):
        documents = converted(SERVICES, text, role("[{services: [products]}]"), binding("[{user: a}]", more)).documents
        policies = [one for one in documents if one["metadata"]["name"] == "viewers-products"]
        assert [one["metadata"]["annotations"] for one in policies] == [{"istio.io/dry-run": "true"}]


def test_what_is_excluded_stays_open() -> None:
    text = CONFIG.replace("ON_WITH_INCLUSION, inclusion", "ON_WITH_EXCLUSION, exclusion")
    assert made(converted(text)) == [
        ("AuthorizationPolicy", "istio-system/allow-nothing", {}),
        ("AuthorizationPolicy", "shop/allow-all", {"rules": [{}]}),
    ]


@pytest.mark.parametrize(
    ("rules", "subjects", "why"),
    [
        ("[{services: [products]}]", "[{}]", "names nobody"),
        ("[{services: [products]}]", "[]", "without subjects"),
        ("[{services: [products]}]", "[{user: 7}]", "is no text"),
        ("[{services: [products]}]", "[{users: [a]}]", "no new form"),
        ("[{services: [products]}]", "[{properties: {request.time: now}}]", "no new form"),
        ("[{services: [products], constraints: [{key: destination.user, values: [a]}]}]", "[{user: a}]", "no new form"),
        ("[{services: [products], constraints: [{key: destination.namespace, values: [b]}]}]", "[{user: a}]", "let nobody in"),
        ("[{services: [products], constraints: [{key: 'destination.labels[app]', values: [x]}]}]", "[{user: a}]", "let nobody in"),
        ("[{services: [products], method: [GET]}]", "[{user: a}]", "no new form"),
        ("[{services: ['other*']}]", "[{user: a}]", "matches no service"),
        ("[{services: [products.elsewhere.svc.cluster.local]}]", "[{user: a}]", "no service of namespace shop"),
        ("[{methods: [GET]}]", "[{user: a}]", "without services"),
    ],
)
def test_roles_without_a_new_form(rules: str, subjects: str, why: str) -> None:
    assert why in refused(SERVICES, CONFIG, role(rules), binding(subjects))


def test_a_binding_without_its_role_and_roles_without_a_configuration() -> None:
    assert "its role viewer" in refused(binding("[{user: a}]"))
    conversion = converted(SERVICES, role("[{services: [products]}]"), binding("[{user: a}]"))
    assert any("no RbacConfig" in note.what for note in conversion.notes)


# ---- the rest, and the command


def test_versions_and_fields_are_renewed_and_all_else_is_left() -> None:
    text = """
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: one, namespace: shop}
spec: {hosts: [a], http: [{mirrorPercent: 5}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: two}
spec: {}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: three}
"""
    conversion = converted(text)
    first, second, third = conversion.documents
    assert first["apiVersion"] == "networking.istio.io/v1"
    assert first["spec"]["http"] == [{"mirrorPercentage": {"value": 5}}]
    assert second["apiVersion"] == "networking.istio.io/v1alpha3"
    assert third == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "three"}}
    assert len(conversion.notes) == 2


def test_filters_of_the_first_envoy_filters_have_no_new_form() -> None:
    text = "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: old}\nspec: {workloadLabels: {a: b}, filters: []}"
    assert "configPatches" in refused(text)


def test_tokens_of_a_namespace_are_for_the_waypoint_that_is_named() -> None:
    documents = list(yaml.safe_load_all(policy("{origins: [{jwt: {issuer: me}}]}")))
    found = convert(documents, Into(waypoint="way")).documents
    assert [one["spec"]["targetRefs"][0]["name"] for one in found[1:]] == ["way", "way"]


def test_the_command(tmp_path: Any) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(SERVICES + "---\n" + policy("{targets: [{name: products}], peers: [{mtls: {}}]}"))
    result = CliRunner().invoke(main, ["convert", str(file)])
    assert result.exit_code == 0
    kinds = [one["kind"] for one in yaml.safe_load_all(result.stdout)]
    assert kinds == ["Service", "Service", "PeerAuthentication"]
    assert "note: Policy shop/default: became 1 documents" in result.stderr
    file.write_text(policy("{targets: [{name: products}]}"))
    result = CliRunner().invoke(main, ["convert", str(file)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "error: Policy shop/default" in result.stderr
