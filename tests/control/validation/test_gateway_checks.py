"""What a Gateway of the Gateway API asks of clients is understood, or the Gateway is refused."""

import pytest

from control.kinds import Gateway
from control.validation.document import Document, read_documents
from control.validation.finding import Severity

CERT = "certificateRefs: [{name: a}]"


def read(listener: str, more: str = "") -> Document:
    text = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: g, namespace: shop}}
spec:
  gatewayClassName: istio
  listeners: [{{name: l, port: 443, {listener}}}]
  {more}
"""
    return read_documents(text, "f.yaml", "istio-system")[0]


@pytest.mark.parametrize(
    "listener",
    [
        "protocol: HTTP, hostname: '*.a.example'",
        "protocol: HTTPS, tls: {certificateRefs: [{name: a}, {name: b, namespace: other}]}",
        "protocol: HTTPS, tls: {" + CERT + ", frontendValidation: {caCertificateRefs: [{kind: ConfigMap, name: roots}]}}",
        "protocol: TLS, tls: {mode: Passthrough}",
        "protocol: HTTPS, tls: {" + CERT + ", options: {gateway.istio.io/tls-terminate-mode: MUTUAL}}",
        "protocol: HTTPS, tls: {options: {gateway.istio.io/tls-terminate-mode: ISTIO_MUTUAL}}",
    ],
)
def test_what_is_read(listener: str) -> None:
    found = read(listener, "tls: {frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, name: r}]}}}}")
    assert isinstance(found.object, Gateway), found.findings
    assert found.findings == ()


@pytest.mark.parametrize(
    ("listener", "more", "what"),
    [
        ("protocol: HTTPS", "", "HTTPS needs tls"),
        ("protocol: HTTP, tls: {" + CERT + "}", "", "can't be said of HTTP"),
        ("protocol: HTTP, hostname: 10.0.0.1", "", "no host name"),
        ("protocol: HTTPS, tls: {}", "", "needs a certificate"),
        ("protocol: HTTPS, tls: {mode: Open}", "", "none of Terminate"),
        ("protocol: TLS, tls: {mode: Passthrough, " + CERT + "}", "", "by the server"),
        ("protocol: HTTPS, tls: {" + CERT + ", clientAuth: yes}", "", "unknown field"),
        ("protocol: HTTPS, tls: {" + CERT + ", frontendValidation: {}}", "", "no client could be verified"),
        ("protocol: HTTPS, tls: {" + CERT + ", options: {gateway.istio.io/tls-terminate-mode: OPEN}}", "", "is none of SIMPLE"),
        ("protocol: HTTPS, tls: {" + CERT + ", options: {gateway.istio.io/other: a}}", "", "no option that is understood"),
        ("protocol: HTTP", "tls: {frontend: {perPort: [{port: 443, tls: {validation: {mode: Never}}}]}}", "none of AllowValidOnly"),
        ("protocol: HTTP", "tls: {backend: {clientCertificateRef: {name: a}}}", "is not supported"),
    ],
)
def test_what_is_refused(listener: str, more: str, what: str) -> None:
    found = read(listener, more)
    assert any(what in finding.what for finding in found.findings if finding.severity is Severity.ERROR), found.findings
    assert found.object is None


def test_options_of_others_are_passed_over_with_a_warning() -> None:
    found = read("protocol: HTTPS, tls: {" + CERT + ", options: {x.example/y: z}}")
    assert isinstance(found.object, Gateway)
    assert [finding.severity for finding in found.findings] == [Severity.WARNING]
