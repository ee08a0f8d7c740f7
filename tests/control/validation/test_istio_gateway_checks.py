"""What Istio's Gateway says wrongly is told with its line, and nothing that is asked of clients falls away."""

import textwrap

import pytest

from control.kinds import Gateway, IstioGateway, Kind, ObjectKey
from control.kinds.istio_gateway import TLSMode, TLSVersion
from control.validation.document import Document, read_documents
from control.validation.finding import Severity

HEAD = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: infra}\nspec:\n"


def read(spec: str) -> Document:
    return read_documents(HEAD + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n", "f.yaml", "istio-system")[0]


def told(spec: str, severity: Severity) -> list[str]:
    return [finding.what for finding in read(spec).findings if finding.severity is severity]


def https(tls: str) -> str:
    return "selector: {istio: ingress}\nservers: [{port: {number: 443, name: s, protocol: HTTPS}, hosts: [a.example], tls: {" + tls + "}}]"


def test_everything_that_is_served_is_read() -> None:
    found = read("""
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 80, name: http, protocol: HTTP}
          hosts: ["*.example.com", shop/a.example, ./b.example, "*/c.example"]
          tls: {httpsRedirect: true}
        - name: secure
          bind: 10.0.0.1
          port: {number: 443, name: https, protocol: HTTPS}
          hosts: [a.example]
          tls:
            mode: MUTUAL
            credentialName: a-example
            caCertCredentialName: partners
            subjectAltNames: [spiffe://other/ns/a/sa/b]
            verifyCertificateHash: ["00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"]
            minProtocolVersion: TLSV1_2
            maxProtocolVersion: TLSV1_3
            cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384]
        - {port: {number: 8443, name: pass, protocol: TLS}, hosts: [p.example], tls: {mode: PASSTHROUGH}}
        - port: {number: 9443, name: files, protocol: TLS}
          hosts: ["*"]
          tls: {mode: SIMPLE, serverCertificate: /etc/certs/cert.pem, privateKey: /etc/certs/key.pem}
        - {port: {number: 3306, name: db, protocol: TCP}, hosts: ["*"]}
    """)
    assert isinstance(found.object, IstioGateway), found.findings
    tls = found.object.spec.servers[1].tls
    assert tls is not None
    assert (tls.mode, tls.min_protocol_version) == (TLSMode.MUTUAL, TLSVersion.V1_2)


def test_two_groups_have_a_gateway() -> None:
    other = """
        apiVersion: gateway.networking.k8s.io/v1
        kind: Gateway
        metadata: {name: edge, namespace: infra}
        spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
        """
    text = HEAD + "  servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}]\n---\n" + textwrap.dedent(other)
    mine, theirs = read_documents(text, "f.yaml", "istio-system")
    assert isinstance(mine.object, IstioGateway)
    assert isinstance(theirs.object, Gateway)
    assert mine.key == ObjectKey(Kind.ISTIO_GATEWAY, "infra", "edge")
    assert theirs.key == ObjectKey(Kind.GATEWAY, "infra", "edge")
    assert str(mine.key) == "Gateway.networking.istio.io infra/edge"


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("selector: {a: b}", "serves nothing"),
        ("servers: [{port: {number: 0, protocol: HTTP}, hosts: ['*']}]", "0 is no port"),
        ("servers: [{port: {number: 80, protocol: FTP}, hosts: ['*']}]", "no protocol of a gateway"),
        ("servers: [{port: {number: 80, protocol: HTTP}, hosts: []}]", "needs a host"),
        ("servers: [{port: {number: 80, protocol: HTTP}, hosts: ['a*']}]", "no host name"),
        ("servers: [{port: {number: 80, protocol: HTTP}, hosts: ['A/b.example']}]", "no DNS label"),
        ("servers: [{port: {number: 80, protocol: HTTPS}, hosts: ['*']}]", "HTTPS needs tls"),
        ("servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: a}}]", "is not encrypted"),
        ("servers: [{port: {number: 80, protocol: TCP}, hosts: ['*'], tls: {httpsRedirect: true}}]", "is not encrypted"),
        ("servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*'], bind: eth0}]", "no IP address"),
        (
            "servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}, {port: {number: 80, protocol: TCP}, hosts: ['*']}]",
            "shares a port with nothing else",
        ),
        (https("mode: SIMPLE"), "there is none"),
        (https("mode: SIMPLE, credentialName: a, serverCertificate: /a, privateKey: /b"), "and serverCertificate and privateKey"),
        (https("mode: SIMPLE, serverCertificate: /a"), "go together"),
        (https("mode: SIMPLE, serverCertificate: /a/../b, privateKey: /b"), "no absolute path"),
        (https("mode: SIMPLE, credentialName: other/a"), "is no name"),
        (https("mode: SIMPLE, credentialName: a, caCertificates: /roots"), "does not ask clients"),
        (https("mode: SIMPLE, credentialName: a, subjectAltNames: [b]"), "does not ask clients"),
        (https("mode: MUTUAL, serverCertificate: /a, privateKey: /b"), "needs the roots"),
        (https("mode: MUTUAL, credentialName: a, verifyCertificateSpki: [b]"), "the form that is expected"),
        (https("mode: MUTUAL, credentialName: a, caCrl: /c"), "is not supported"),
        (https("mode: PASSTHROUGH, credentialName: a"), "has no use for credentialName"),
        (https("mode: PASSTHROUGH, minProtocolVersion: TLSV1_3"), "the server's to choose"),
        (https("mode: AUTO_PASSTHROUGH"), "is not supported"),
        (https("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2"), "is above"),
        (https("mode: SIMPLE, credentialName: a, cipherSuites: [RC4-MD5]"), "no cipher suite"),
        (https("mode: SIMPLE, credentialName: a, httpsRedirect: true"), "nothing to redirect"),
        (https("mode: SIMPLE, credentialName: a, clientAuth: true"), "unknown field 'clientAuth'"),
        (https("mode: STRICT, credentialName: a"), "invalid enum value 'STRICT'"),
    ],
)
def test_what_is_refused(spec: str, what: str) -> None:
    found = read(spec)
    assert any(what in one for one in told(spec, Severity.ERROR)), found.findings
    assert found.object is None


def test_what_is_accepted_with_a_warning() -> None:
    old = told(https("mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_0"), Severity.WARNING)
    assert any("below 1.2" in one for one in old)
    assert any("no selector" in one for one in told("servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}]", Severity.WARNING))
