"""WorkloadGroups: what is taken, and what is wrong with others."""

import pytest

from control.validation.document import read_documents

HEAD = """\
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: web, namespace: shop, annotations: {nodemesh.io/allowed-addresses: '%s'}}
spec:
"""


def findings(spec: str, allowed: str = "") -> list[str]:
    (document,) = read_documents(HEAD % allowed + "".join(f"  {line}\n" for line in spec.splitlines()), "g.yaml", "istio-system")
    return [finding.what for finding in document.findings]


def test_istios_own_example_is_taken() -> None:
    assert not findings(
        """metadata:
  labels: {app.kubernetes.io/name: reviews, app.kubernetes.io/version: "1.3.4"}
template:
  ports: {grpc: 3550, http: 8080}
  serviceAccount: default
probe:
  initialDelaySeconds: 5
  timeoutSeconds: 3
  periodSeconds: 4
  successThreshold: 3
  failureThreshold: 3
  httpGet:
    path: /foo/bar
    host: 127.0.0.1
    port: 3100
    scheme: HTTPS
    httpHeaders: [{name: Lit-Header, value: Im-The-Best}]""",
        "10.0.0.0/8, fd00::/8",
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("metadata: {}", "template"),
        ("template: {address: 10.0.0.1}", "has no effect"),
        ("template: {ports: {http: 0}}", "0 is no port"),
        ("template: {serviceAccount: A/b}", "is no name"),
        ("template: {}\nprobe: {}", "not none of them"),
        ("template: {}\nprobe: {exec: {command: [/bin/true]}, tcpSocket: {port: 1}}", "not tcpSocket and exec"),
        ("template: {}\nprobe: {exec: {command: [sh, -c, x]}}", "by its whole path"),
        ("template: {}\nprobe: {exec: {command: []}}", "by its whole path"),
        ("template: {}\nprobe: {tcpSocket: {port: 70000}}", "70000 is no port"),
        ("template: {}\nprobe: {httpGet: {port: 1, scheme: FTP}}", "neither HTTP nor HTTPS"),
        ('template: {}\nprobe: {httpGet: {port: 1, path: "/a b"}}', "no path can have"),
        ('template: {}\nprobe: {httpGet: {port: 1, httpHeaders: [{name: a, value: "b\\r\\nc: d"}]}}', "no header can have"),
        ("template: {}\nprobe: {periodSeconds: -1, tcpSocket: {port: 1}}", "period seconds"),
    ],
)
def test_what_is_wrong_is_said(spec: str, said: str) -> None:
    assert any(said in what for what in findings(spec)), findings(spec)


def test_blocks_of_addresses_are_checked() -> None:
    assert any("10.0.0.300" in what for what in findings("template: {}", "10.0.0.300/24"))
