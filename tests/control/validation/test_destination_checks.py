"""What a DestinationRule says wrongly is told, and what no proxy could do is refused whole."""

import textwrap

import pytest

from control.kinds import DestinationRule
from control.validation.document import Document, read_documents
from control.validation.finding import Severity

HEAD = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: shop}\nspec:\n"


def read(spec: str) -> Document:
    return read_documents(HEAD + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n", "f.yaml", "istio-system")[0]


def policy(text: str) -> str:
    return f"host: a\ntrafficPolicy: {{{text}}}"


def test_everything_that_istio_has_is_read() -> None:
    found = read("""
        host: reviews.shop.svc.cluster.local
        exportTo: ["*"]
        workloadSelector: {matchLabels: {app: page}}
        trafficPolicy:
          loadBalancer:
            simple: LEAST_REQUEST
            warmup: {duration: 30s, minimumPercent: 10, aggression: 1.5}
            localityLbSetting:
              distribute: [{from: "eu/a/*", to: {"eu/a/*": 80, "eu/b/*": 20}}]
          connectionPool:
            tcp: {maxConnections: 10, connectTimeout: 3s, tcpKeepalive: {probes: 3, time: 60s, interval: 5s}, idleTimeout: 1h}
            http: {http1MaxPendingRequests: 1, http2MaxRequests: 2, maxRequestsPerConnection: 3, maxRetries: 4, idleTimeout: 5s}
          outlierDetection:
            splitExternalLocalOriginErrors: true
            consecutiveLocalOriginFailures: 3
            consecutiveGatewayErrors: 4
            consecutive5xxErrors: 5
            interval: 1s
            baseEjectionTime: 30s
            maxEjectionPercent: 50
            minHealthPercent: 20
          tls: {mode: MUTUAL, credentialName: client, sni: reviews, subjectAltNames: [reviews.example.com]}
          portLevelSettings:
          - port: {number: 9080}
            loadBalancer: {consistentHash: {httpCookie: {name: user, path: /, ttl: 0s}, ringHash: {minimumRingSize: 1024}}}
        subsets:
        - {name: v1, labels: {version: v1}}
        - name: v2
          labels: {version: v2}
          trafficPolicy: {loadBalancer: {simple: RANDOM}}
    """)
    assert isinstance(found.object, DestinationRule), found.findings
    assert found.findings == ()
    outlier = found.object.spec.traffic_policy.outlier_detection if found.object.spec.traffic_policy else None
    assert outlier is not None
    assert outlier.consecutive_5xx_errors == 5
    assert found.object.subset("v2") is not None


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("host: 'a b'", "no host name"),
        ("host: a\nsubsets: [{name: v1}, {name: v1}]", "stands here twice"),
        ("host: a\nsubsets: [{name: 'v|1'}]", "no DNS label"),
        ("host: a\nsubsets: [{name: v1, label: {a: b}}]", "unknown field 'label'"),
        (policy("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}"), "at once"),
        (policy("loadBalancer: {consistentHash: {}}"), "needs one of"),
        (policy("loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}"), "and one only"),
        (policy("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 100}}}"), "no prime"),
        (policy("loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 99999999}}"), "a ring of"),
        (policy("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}"), "ROUND_ROBIN and LEAST_REQUEST only"),
        (policy("loadBalancer: {simple: FASTEST}"), "FASTEST"),
        (policy("loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {eu: 60}}]}}"), "add up to 100"),
        (policy("loadBalancer: {localityLbSetting: {distribute: [{from: '*/a', to: {eu: 100}}]}}"), "no locality"),
        (policy("loadBalancer: {localityLbSetting: {failover: [{from: eu, to: eu}]}}"), "to itself"),
        (policy("connectionPool: {tcp: {maxConnections: -1}}"), "out of range"),
        (policy("connectionPool: {tcp: {tcpKeepalive: {time: 500ms}}}"), "whole seconds"),
        (policy("connectionPool: {http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}"), "at once"),
        (policy("outlierDetection: {maxEjectionPercent: 101}"), "no percentage"),
        (policy("outlierDetection: {interval: 0s}"), "less than a millisecond"),
        (policy("tls: {mode: MUTUAL}"), "needs a certificate"),
        (policy("tls: {mode: SIMPLE, caCertificates: /etc/shadow}"), "can't be named here"),
        (policy("tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k}"), "can't be named here"),
        (policy("tls: {mode: ISTIO_MUTUAL, credentialName: x}"), "the mesh's own"),
        (policy("tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}"), "means nothing"),
        (policy("tls: {mode: SIMPLE, sni: 'a:443'}"), "no host name"),
        (policy("tunnel: {targetHost: a, targetPort: 1}"), "not supported"),
        (policy("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}]"), "stands here twice"),
    ],
)
def test_what_is_refused(spec: str, what: str) -> None:
    found = read(spec)
    assert any(what in one.what for one in found.findings if one.severity is Severity.ERROR), found.findings
    assert found.object is None
