"""What is made to run a Gateway: owned by it, named and labelled so that it is found, with as few rights as it can do with."""

from typing import Any

import pytest

from control.cli.options import address_and_port
from control.cluster.gateway_objects import Image, objects_for
from control.kinds import Gateway
from control.validation.document import read_documents
from control.waypoint.readiness import PATH

IMAGE = Image("registry.example/nodemesh-envoy:1", "nodemesh-controller.nodemesh-system.svc")


def gateway(class_name: str, listeners: str, more: str = "", annotations: str = "{}") -> Gateway:
    (document,) = read_documents(
        f"""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: infra, uid: u-1, labels: {{istio: ingress}}, annotations: {annotations}}}
spec: {{gatewayClassName: {class_name}, listeners: {listeners}{more}}}
""",
        "f.yaml",
        "istio-system",
    )
    assert isinstance(document.object, Gateway), document.findings
    return document.object


def made(*of: str, **more: str) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in objects_for(gateway(*of, **more), IMAGE)}


HTTP = (
    "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: b.example}, {name: c, port: 3306, protocol: TCP}]"
)


def test_they_are_its_own_and_found_by_its_name() -> None:
    found = made("nodemesh", HTTP, ", infrastructure: {labels: {team: edge}, annotations: {cost: high}}")
    assert list(found) == ["ServiceAccount", "Service", "Deployment"]
    for one in found.values():
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Gateway", "u-1", True)
        assert (one["metadata"]["name"], one["metadata"]["labels"]["team"]) == ("edge", "edge")
        assert one["metadata"]["annotations"] == {"cost": "high"}
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Service"]["spec"]["selector"].items() <= labels.items()
    assert found["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert {"istio": "ingress", "istio.io/dataplane-mode": "none", "team": "edge"}.items() <= labels.items()


def test_a_port_for_each_that_it_listens_at() -> None:
    service = made("nodemesh", HTTP)["Service"]["spec"]
    assert [(one["name"], one["port"], one["appProtocol"]) for one in service["ports"]] == [
        ("http-80", 80, "http"),
        ("tcp-3306", 3306, "tcp"),
    ]
    assert (service["type"], service["externalTrafficPolicy"]) == ("LoadBalancer", "Local")


@pytest.mark.parametrize(
    ("class_name", "annotations", "kind"),
    [
        ("istio-waypoint", "{}", "ClusterIP"),
        ("nodemesh", "{networking.istio.io/service-type: ClusterIP}", "ClusterIP"),
        ("nodemesh", "{networking.istio.io/service-type: ExternalName}", "LoadBalancer"),
    ],
)
def test_how_it_is_reached(class_name: str, annotations: str, kind: str) -> None:
    spec = made(class_name, "[{name: m, port: 15008, protocol: HBONE}]", annotations=annotations)["Service"]["spec"]
    assert spec["type"] == kind
    assert ("externalTrafficPolicy" in spec) == (kind == "LoadBalancer")


def test_it_has_no_more_rights_than_it_needs() -> None:
    pod = made("nodemesh", HTTP)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"], pod["securityContext"]["runAsNonRoot"]) == ("edge", False, True)
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes["state"]["emptyDir"] == {"medium": "Memory"}, "a key that is on no disk"
    assert volumes["token"]["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "istio-ca"


@pytest.mark.parametrize(("class_name", "command"), [("nodemesh", "gateway"), ("istio-waypoint", "waypoint")])
def test_what_it_runs(class_name: str, command: str) -> None:
    (container,) = made(class_name, HTTP)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:3] == [command, "run", "--gateway=infra/edge"]
    from control.cli.main import main

    runner = main.commands[command].commands["run"]  # type: ignore[attr-defined]
    known = {option for parameter in runner.params for option in parameter.opts}
    assert {one.partition("=")[0] for one in container["args"][2:]} <= known


def test_it_is_asked_whether_it_is_ready_where_it_answers() -> None:
    (container,) = made("nodemesh", HTTP)["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": PATH, "port": 15090}
    assert "--metrics-listen=$(POD_IP):15090" in container["args"]
    assert address_and_port("", "10.0.0.1:15090") == ("10.0.0.1", 15090)
    assert address_and_port("", "fd00::1:15090") == ("fd00::1", 15090)
