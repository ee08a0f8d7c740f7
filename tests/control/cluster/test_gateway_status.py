"""What becomes of Gateways and routes, told in their status on a real API server under the controller's own rights."""

from pathlib import Path
from typing import Any

import pytest

from control.cluster import certificate_presence, gateway_status
from control.envoy.gateways.status import ParentState
from control.envoy.world import World
from control.kinds import ObjectKey
from tests.control.cluster.test_replicas import until
from tests.control.kube_controller import kube_world
from tests.kube.admin import Manifest
from tests.kube.cluster import Cluster
from tests.kube.objects import secret, service
from tests.kube.rights import CERTIFICATES, let

API = "gateway.networking.k8s.io/v1"
Stated = dict[str, tuple[str, str]]


def made(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> Manifest:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def gateway(namespace: str, *listeners: dict[str, Any]) -> Manifest:
    return made("Gateway", "gate", namespace, {"gatewayClassName": "nodemesh", "listeners": list(listeners)})


def route(namespace: str, backend: str, **parent: str) -> Manifest:
    rule = {"backendRefs": [{"name": backend, "port": 80}]}
    return made("HTTPRoute", "r", namespace, {"parentRefs": [{"name": "gate", **parent}], "rules": [rule]})


def conditions(found: list[dict[str, Any]]) -> Stated:
    return {one["type"]: (one["status"], one["reason"]) for one in found}


HTTP = {"name": "http", "port": 80, "protocol": "HTTP"}
HTTPS = {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "c", "namespace": "elsewhere"}]}}


async def test_a_gateway_and_its_route_say_what_becomes_of_them(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace("edge")

    def status(kind: str, name: str) -> dict[str, Any]:
        return kube.admin.get(API, kind, name, namespace).get("status") or {}

    def listeners() -> dict[str, tuple[int, Stated]]:
        return {
            one["name"]: (one["attachedRoutes"], conditions(one["conditions"])) for one in status("Gateway", "gate").get("listeners", ())
        }

    def at_parent() -> Stated:
        return conditions([one for parent in status("HTTPRoute", "r").get("parents", ()) for one in parent["conditions"]])

    def accepted_route() -> bool:
        return at_parent() == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}

    async with kube_world(kube, tmp_path):
        kube.admin.apply(gateway(namespace, HTTP, HTTPS))
        kube.admin.apply(route(namespace, "cart"))
        await until(lambda: at_parent().get("ResolvedRefs") == ("False", "BackendNotFound"), "that the service is missing")
        assert at_parent()["Accepted"] == ("True", "Accepted")
        await until(lambda: listeners().get("http", (0,))[0] == 1, "an attached route")
        assert listeners()["http"][1]["Programmed"] == ("True", "Programmed")
        assert listeners()["https"][1]["ResolvedRefs"] == ("False", "RefNotPermitted")
        assert conditions(status("Gateway", "gate")["conditions"])["Programmed"] == ("False", "AddressNotAssigned")
        kube.admin.create(service(namespace, "cart", {"app": "cart"}))
        kube.admin.create(service(namespace, "gate", {"app": "gate"}))
        await until(accepted_route, "that it resolves")
        await until(lambda: conditions(status("Gateway", "gate")["conditions"])["Programmed"][0] == "True", "an address")
        kube.admin.apply(route(namespace, "cart", sectionName="none"))
        await until(lambda: at_parent()["Accepted"] == ("False", "NoMatchingParent"), "that there is no such listener")
        await until(lambda: listeners()["http"][0] == 0, "that nothing is attached")


async def test_what_is_right_is_not_written_again_and_what_others_say_stays(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace("edge")
    theirs = {"parentRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []}

    def found() -> Manifest:
        return kube.admin.get(API, "HTTPRoute", "r", namespace)

    def parents() -> list[dict[str, Any]]:
        return list((found().get("status") or {}).get("parents", ()))

    async with kube_world(kube, tmp_path):
        kube.admin.apply(gateway(namespace, HTTP))
        kube.admin.apply(route(namespace, "cart"))
        kube.admin.status({**route(namespace, "cart"), "status": {"parents": [theirs]}})
        await until(lambda: len(parents()) == 2, "what we say beside what they say")
        assert theirs in parents()
        version = found()["metadata"]["resourceVersion"]
        # Another object of ours is told of after the mesh has changed: so the round went over this one, too.
        kube.admin.apply(made("Gateway", "two", namespace, {"gatewayClassName": "nodemesh", "listeners": [HTTP]}))
        await until(lambda: kube.admin.get(API, "Gateway", "two", namespace).get("status", {}).get("listeners"), "another round")
        assert found()["metadata"]["resourceVersion"] == version


async def test_what_is_not_valid_is_told_so_and_classes_are_answered_for(kube: Cluster, tmp_path: Path) -> None:
    namespace = kube.namespace("edge")

    def stated(kind: str, name: str, where: str = "") -> Stated:
        return conditions((kube.admin.get(API, kind, name, where).get("status") or {}).get("conditions", []))

    def at_parent() -> list[Any]:
        parents = (kube.admin.get(API, "HTTPRoute", "r", namespace).get("status") or {}).get("parents", [])
        return [(one["status"], one["reason"], "mtls.example" in one["message"]) for parent in parents for one in parent["conditions"]]

    async with kube_world(kube, tmp_path):
        kube.admin.apply(gateway(namespace, HTTP))
        wrong = route(namespace, "cart")
        wrong["spec"]["hostnames"] = ["not a mtls.example"]
        kube.admin.apply(wrong)
        await until(lambda: at_parent() == [("False", "UnsupportedValue", True)], "why it is not taken")
        kube.admin.apply(gateway(namespace, {**HTTP, "hostname": "not a host"}))
        await until(lambda: stated("Gateway", "gate", namespace).get("Accepted") == ("False", "Invalid"), "that it is not taken")
        ours = {
            "apiVersion": API,
            "kind": "GatewayClass",
            "metadata": {"name": "nodemesh"},
            "spec": {"controllerName": "nodemesh.io/gateway-controller"},
        }
        kube.admin.apply(ours)
        try:
            await until(lambda: stated("GatewayClass", "nodemesh").get("Accepted") == ("True", "Accepted"), "that the class is ours")
        finally:
            kube.admin.delete(API, "GatewayClass", "nodemesh")


async def test_a_certificate_that_is_not_there_is_told_at_its_listener(
    kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is in it nothing is read for that."""
    monkeypatch.setattr(certificate_presence, "AGAIN_S", 0.2)
    namespace = kube.namespace("edge")
    validation = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "roots"}]}
    tls = {"certificateRefs": [{"name": "cart"}], "frontendValidation": validation}

    def references() -> tuple[str, str, str]:
        listeners = (kube.admin.get(API, "Gateway", "gate", namespace).get("status") or {}).get("listeners", [])
        found = [one for listener in listeners for one in listener["conditions"] if one["type"] == "ResolvedRefs"]
        return (found[0]["status"], found[0]["reason"], found[0].get("message", "")) if found else ("", "", "")

    async def told(reason: str, words: str) -> None:
        await until(lambda: references()[1] == reason and words in references()[2], f"{reason} {words}")

    async with kube_world(kube, tmp_path) as world:
        kube.admin.apply(gateway(namespace, {"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}))
        await told("InvalidCertificateRef", "gatewayNamespaces")
        let(kube, world.namespace, CERTIFICATES, namespace)
        await told("InvalidCertificateRef", f"there is no Secret {namespace}/cart")
        kube.admin.create(secret(namespace, "cart", {"tls.crt": b"x"}))
        await told("InvalidCertificateRef", f"there is no ConfigMap {namespace}/roots")
        kube.admin.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots", "namespace": namespace}})
        await told("ResolvedRefs", "")
        kube.admin.delete("v1", "Secret", "cart", namespace)
        await told("InvalidCertificateRef", f"there is no Secret {namespace}/cart")


async def test_a_fault_of_ours_keeps_no_other_object_waiting(kube: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    namespace, real = kube.namespace("edge"), gateway_status.route_state

    def broken(world: World, key: ObjectKey) -> tuple[ParentState, ...]:
        if key.name == "r":
            raise RuntimeError("a fault of ours")
        return real(world, key)

    monkeypatch.setattr(gateway_status, "route_state", broken)
    async with kube_world(kube, tmp_path):
        for name in ("r", "s"):
            kube.admin.apply(route(namespace, "cart") | {"metadata": {"name": name, "namespace": namespace}})
        kube.admin.apply(gateway(namespace, HTTP))
        await until(lambda: kube.admin.get(API, "HTTPRoute", "s", namespace).get("status"), "that the other one is told of")
        assert not kube.admin.get(API, "HTTPRoute", "r", namespace).get("status")
