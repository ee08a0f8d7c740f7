"""What one owner writes never has Envoy refuse a table, cluster or listener: it would refuse every later policy there, too.

Each object here is at the border of what Envoy takes: it is refused with its line, or what comes of it passes Envoy's own judgement.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from control.validation.document import read_documents
from control.validation.durations import MAX_S
from control.validation.regex import MAX_CHARACTERS
from tests.control.envoy.test_waypoint import Served, pod, service
from tests.control.envoy.validation import validate

NETWORKING, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"
PORTS = "[{name: http, port: 80}, {name: tcp-x, port: 82}, {name: q, port: 83}]"
LONGEST = f"{MAX_S}s"
TO = [{"destination": {"host": "NAME"}}]


def written(kind: str, api: str, spec: dict[str, Any]) -> str:
    return json.dumps({"kind": kind, "apiVersion": api, "metadata": {"name": "NAME", "namespace": "shop"}, "spec": spec})


def routes(**route: Any) -> str:
    return written("VirtualService", NETWORKING, {"hosts": ["NAME"], "http": [{"route": TO, **route}]})


def matching(**match: Any) -> str:
    return routes(match=[match])


def rule(**policy: Any) -> str:
    return written("DestinationRule", NETWORKING, {"host": "NAME", "trafficPolicy": policy})


def policy(**what: Any) -> str:
    target = {"kind": "Service", "group": "", "name": "NAME"}
    return written("AuthorizationPolicy", SECURITY, {"targetRefs": [target], "action": "DENY", "rules": [what]})


def operation(**what: Any) -> str:
    return policy(to=[{"operation": what}])


def header(name: str, value: str) -> str:
    return policy(when=[{"key": f"request.headers[{name}]", "values": [value]}])


TAKEN = {
    "long expressions": matching(uri={"regex": "a" * MAX_CHARACTERS}, headers={"x": {"regex": "(?i)[^a]{150}"}}),
    "a long expression for parameters": matching(queryParams={"x": {"regex": "b" * MAX_CHARACTERS}}),
    "long hosts": operation(hosts=["h" * 253, f"*.{'é' * 2000}", "\u017f" * 2048]),
    "long values of headers": header("x-long", "v" * 2048),
    "long namespaces": policy(**{"from": [{"source": {"namespaces": ["n" * 2048], "requestPrincipals": [f"*/{'s' * 2000}"]}}]}),
    "long times": routes(timeout=LONGEST, retries={"attempts": 1, "perTryTimeout": LONGEST, "backoff": LONGEST}),
    "a long delay": routes(fault={"delay": {"fixedDelay": LONGEST, "percentage": {"value": 1}}}, corsPolicy={"maxAge": LONGEST}),
    "long times of connections": rule(
        connectionPool={
            "tcp": {"connectTimeout": LONGEST, "maxConnectionDuration": LONGEST, "tcpKeepalive": {"time": LONGEST, "interval": LONGEST}},
            "http": {"idleTimeout": LONGEST},
        },
        outlierDetection={"interval": LONGEST, "baseEjectionTime": LONGEST},
    ),
    "a long life of cookies": rule(loadBalancer={"consistentHash": {"httpCookie": {"name": "a", "ttl": LONGEST}}}),
    "percent signs": routes(headers={"request": {"set": {"x": "%REQ(x)%"}}, "response": {"add": {"x": "100%%"}}}),
}
REFUSED = {
    "a time that Envoy can't count": routes(timeout="10000000h"),
    "a time of the kernel's that is too long": rule(connectionPool={"tcp": {"tcpKeepalive": {"time": "10000000h"}}}),
    "an expression beyond all bounds": matching(uri={"regex": "(a{100}){100}"}),
    "too long a host": operation(hosts=["h" * 20_000]),
    "too long a method": operation(notMethods=["M" * 20_000]),
    "too long a principal": policy(**{"from": [{"source": {"requestPrincipals": ["p" * 20_000]}}]}),
    "too long a value": header("x", "v" * 20_000),
    "a header that no request has": header("x\ny", "v"),
    "a header with a NUL": header("x\0y", "v"),
    "the proxy's environment": routes(headers={"response": {"set": {"x": "%ENVIRONMENT(HOME)%"}}}),
    "files of the proxy's host": routes(headers={"request": {"set": {"x": "%FILE_CONTENT(/etc/passwd)%"}}}),
    "a header of two lines": routes(headers={"request": {"set": {"x": "a\nb"}}}),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_envoy_would_refuse_is_refused_with_its_line(text: str) -> None:
    (found,) = read_documents(text.replace("NAME", "cart"), "a.yaml", "istio-system")
    assert found.object is None
    assert found.findings


def test_what_is_taken_envoy_takes(tmp_path: Path) -> None:
    served = Served()
    for number, (what, text) in enumerate(TAKEN.items()):
        (found,) = read_documents(text.replace("NAME", f"s{number}"), "a.yaml", "istio-system")
        assert found.object is not None, (what, [str(one) for one in found.findings])
        manifests = (service(f"s{number}", f"10.96.0.{number + 1}", PORTS), pod(f"s{number}-1", f"s{number}", f"10.0.0.{number + 1}"))
        served.write(f"{number}.yaml", text.replace("NAME", f"s{number}"), *manifests)
    assert not served.view.failed
    validate(tmp_path, served.view)


def test_a_service_of_many_ports_can_be_asked_for(tmp_path: Path) -> None:
    ports = ", ".join(f"{{name: http-{number}, port: {number}}}" for number in range(20_000, 20_200))
    served = Served(service("many", "10.96.0.1", f"[{ports}]"))
    validate(tmp_path, served.view)
