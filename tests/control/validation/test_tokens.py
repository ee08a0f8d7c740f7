"""control/validation/token_checks.py: rules that could not be honoured, or would accept more than meant, are refused."""

import json
from typing import Any

import pytest

from control.kinds import RequestAuthentication
from control.validation.document import read_documents
from control.validation.durations import seconds

PUBLIC = json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b"}]})
PRIVATE = json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b", "d": "c"}]})


def findings(rule: dict[str, Any], **spec: Any) -> list[str]:
    manifest = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "one", "namespace": "shop"},
        "spec": {"jwtRules": [rule], **spec},
    }
    (document,) = read_documents(json.dumps(manifest), "one.yaml", "istio-system")
    assert (document.object is None) == bool(document.findings)
    assert document.object is None or isinstance(document.object, RequestAuthentication)
    return [finding.what for finding in document.findings]


def test_good_rules() -> None:
    assert findings({"issuer": "me", "jwks": PUBLIC}) == []
    rule = {"issuer": "me", "jwksUri": "https://me.test/keys", "timeout": "2s", "fromHeaders": [{"name": "x-token", "prefix": "T "}]}
    assert findings(rule, targetRefs=[{"kind": "Service", "name": "a", "group": ""}]) == []


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ({"issuer": "", "jwks": PUBLIC}, "empty issuer"),
        ({"issuer": "me"}, "neither jwks nor jwksUri"),
        ({"issuer": "me", "jwks": PUBLIC, "jwksUri": "https://a/b"}, "both"),
        ({"issuer": "me", "jwks": PRIVATE}, "private key"),
        ({"issuer": "me", "jwks": '{"keys":[{"kty":"oct","k":"a"}]}'}, "public keys"),
        ({"issuer": "me", "jwks": "{}"}, "no keys"),
        ({"issuer": "me", "jwks": "[" * 10_000}, "no JSON"),
        ({"issuer": "me", "jwksUri": "file:///etc/passwd"}, "no http or https"),
        ({"issuer": "me", "jwksUri": "https://a@b/keys"}, "no http or https"),
        ({"issuer": "me", "jwksUri": "https://b/k\r\nX: y"}, "no address"),
        ({"issuer": "me", "jwks": PUBLIC, "timeout": "soon"}, "no duration"),
        ({"issuer": "me", "jwks": PUBLIC, "fromHeaders": [{"name": "x y"}]}, "header"),
        ({"issuer": "me", "jwks": PUBLIC, "outputPayloadToHeader": "host"}, "header"),
        ({"issuer": "me", "jwks": PUBLIC, "outputClaimToHeaders": [{"header": "x", "claim": "a..b"}]}, "no claim"),
        ({"issuer": "me", "jwks": PUBLIC, "jwks_url": "x"}, "unknown field"),
    ],
)
def test_rules_that_are_refused(rule: dict[str, Any], what: str) -> None:
    assert any(what in found for found in findings(rule)), findings(rule)


@pytest.mark.parametrize(("text", "length_s"), [("5s", 5.0), ("1.5h", 5400.0), ("2m30s", 150.0), ("100ms", 0.1), ("0s", 0.0)])
def test_durations(text: str, length_s: float) -> None:
    assert seconds(text) == pytest.approx(length_s)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5s ", "1e3s", "5d", "9" * 20 + "h", "1s" * 40])
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|long"):
        seconds(text)
