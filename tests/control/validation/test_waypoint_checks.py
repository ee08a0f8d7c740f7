"""control/validation/gateway_checks.py: Gateways of waypoints, and what they lack for being served."""

import pytest

from tests.control.validation.reading import read

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
