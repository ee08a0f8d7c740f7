"""A waypoint that the controller drives: its configuration follows the mesh, its identity is its own, and nothing that is open suffers."""

import json
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any

import pytest

from demo import manifests, waypoint
from demo.manifests import Manifest
from demo.topology import Pod
from demo.waypoint import HBONE_PORT, Waypoint
from nodeagent.ztunnel.protocol import SetIdentity
from tests.e2e.client_certificate import taken
from tests.e2e.mesh import ECHO, HTTP, SECRET, Mesh, closed_after, echoes, principal, spiffe
from tests.nodeagent.ztunnel.proxy.attacks.peer import Ended, Peer, client_context

VIPS = ("10.96.0.20", "fd96::20")
HOST = "front.default.svc.cluster.local"


def front(**spec: object) -> Manifest:
    """A service of the api pods, bound to the waypoint: HTTP, and TCP whose server is silent until it is spoken to."""
    ports: list[dict[str, object]] = [
        {"name": "http", "port": 80, "targetPort": "http"},
        {"name": "tcp-echo", "port": ECHO},
        {"name": "unsaid", "port": 8081, "targetPort": 8080},
        {"name": "unsaid-echo", "port": 9001, "targetPort": ECHO},
    ]
    made = manifests.service("front", app="api", vips=VIPS, spec={"ports": ports, **spec})
    made["metadata"]["labels"] = {"istio.io/use-waypoint": "gate"}
    return made


@pytest.fixture(scope="module")
def gate(mesh: Mesh) -> Iterator[Waypoint]:
    with waypoint.running(mesh.cluster) as made:
        yield made


@pytest.fixture
def bound(mesh: Mesh, gate: Waypoint) -> Iterator[None]:
    with mesh.applied("front", front()):
        for vip in VIPS:
            mesh.wait(lambda vip=vip: through(mesh, gate, vip), f"calls to {vip} to go through the waypoint", timeout_s=20)
        yield


def through(mesh: Mesh, gate: Waypoint, host: str, port: int = 80) -> bool:
    """Whether a call succeeds, and the application sees the waypoint as its client."""
    call = mesh.call(mesh.pods["shop"], host, port)
    return call.ok and call.client in {str(gate.pod.ipv4), str(gate.pod.ipv6)}


def test_a_service_through_it(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    shop = mesh.pods["shop"]
    with mesh.wiretap("driven") as tap:
        assert {mesh.call(shop, VIPS[0], 80).pod for _ in range(20)} == {"api-1", "api-2", "api-3"}
    assert not tap.contains(SECRET)
    assert through(mesh, gate, VIPS[0], 8081), "a port that does not say what it carries"
    connection = mesh.hold(shop, VIPS[0], ECHO)
    assert echoes(connection), "TCP"


def end(side: str, workload: str, app: str, account: str) -> dict[str, str]:
    """The labels of one end of a call, of pods that say what they are by the label `app` alone."""
    return {
        f"{side}_workload": workload,
        f"{side}_canonical_service": app,
        f"{side}_canonical_revision": "latest",
        f"{side}_workload_namespace": "default",
        f"{side}_principal": spiffe(account),
        f"{side}_app": app,
        f"{side}_version": "latest",
        f"{side}_cluster": "Kubernetes",
    }


def test_its_metrics_say_who_called_whom(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    """All labels: the client's from its certificate and what the mesh knows of the workload at its address."""
    answered = mesh.call(mesh.pods["shop"], VIPS[0], 80).pod
    connection = mesh.hold(mesh.pods["shop"], VIPS[0], ECHO)
    assert echoes(connection)
    source = end("source", "shop", "shop", "shop")
    service = {"destination_service": HOST, "destination_service_namespace": "default", "destination_service_name": "front"}
    both = {**source, **service, "reporter": "waypoint", "response_flags": "-", "connection_security_policy": "mutual_tls"}
    request = {**both, **end("destination", str(answered), "api", "api"), "request_protocol": "http", "response_code": "200"}
    mesh.wait(lambda: request | {"grpc_response_status": ""} in gate.metric("istio_requests_total"), "a request to be counted")

    def opened() -> bool:
        wanted = both | {"request_protocol": "tcp"}
        return any(one.items() >= wanted.items() for one in gate.metric("istio_tcp_connections_opened_total"))

    mesh.wait(opened, "a connection to be counted")


def test_its_policies_judge_requests_and_nobody_goes_around_them(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    rule = {"from": [{"source": {"principals": [principal("shop")]}}], "to": [{"operation": {"methods": ["GET"]}}]}
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "shop-reads", "namespace": "default"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "front"}], "action": "ALLOW", "rules": [rule]},
    }
    assert [asked(mesh, one, VIPS[0]) for one in (shop, near)] == [200, 200]
    with mesh.applied("policy", policy):
        mesh.wait(lambda: asked(mesh, shop, VIPS[0], "POST") == 403, "the waypoint to judge", timeout_s=20)
        assert asked(mesh, shop, VIPS[0]) == asked(mesh, shop, VIPS[1]) == 200
        assert asked(mesh, near, VIPS[0]) == 403
        mesh.wait(
            lambda: not any(mesh.call(shop, address, HTTP).ok for address in (near.ipv4, far.ipv4, far.ipv6)), "the way around to close"
        )
        assert not mesh.call(mesh.outside, far.ipv4, HTTP).ok
        assert asked(mesh, shop, VIPS[0]) == 200
    mesh.wait(
        lambda: asked(mesh, near, VIPS[0], "POST") != 403 and mesh.call(shop, far.ipv4, HTTP).ok, "all to be open again", timeout_s=20
    )


@pytest.mark.parametrize("blocks", ["ipBlocks", "remoteIpBlocks"])
def test_its_policies_know_the_clients_addresses(mesh: Mesh, gate: Waypoint, bound: None, blocks: str) -> None:
    shop, near = mesh.pods["shop"], mesh.pods["api-1"]
    rule = {"from": [{"source": {blocks: [f"{near.ipv4}/32", f"{near.ipv6}/128"]}}]}
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "not-from-there", "namespace": "default"},
        "spec": {"targetRefs": [{"kind": "Service", "name": "front"}], "action": "DENY", "rules": [rule]},
    }
    with mesh.applied("policy", policy):
        for vip in VIPS:
            mesh.wait(lambda vip=vip: asked(mesh, near, vip) == 403, f"calls to {vip} to be refused", timeout_s=20)
        assert asked(mesh, shop, VIPS[0]) == asked(mesh, shop, VIPS[1]) == 200
        if blocks == "ipBlocks":
            with pytest.raises(ConnectionError):
                mesh.hold(near, VIPS[0], ECHO)
            assert echoes(mesh.hold(shop, VIPS[0], ECHO)), "TCP"
    mesh.wait(lambda: asked(mesh, near, VIPS[0]) == 200, "all to be open again", timeout_s=20)


def asked(mesh: Mesh, source: Pod, host: str, method: str = "GET") -> int:
    """The status of a request; 0 if there is no answer."""
    try:
        with mesh.dial(source, host, 80) as connection:
            connection.sendall(f"{method} / HTTP/1.1\r\nhost: front\r\ncontent-length: 0\r\n\r\n".encode())
            with connection.makefile("rb") as answer:
                return int((answer.readline().split() or [b"", b"0"])[1])
    except OSError:
        return 0


def test_requests_go_where_rules_say(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    """To a subset through its tunnel, and by who the client is."""
    shop, own = mesh.pods["shop"], mesh.add_pod("n2", "api-own", service_account="api", app="api")
    retold(mesh, own, "app: api", "app: api\n    version: one")
    subsets = {"host": "front", "subsets": [{"name": "one", "labels": {"version": "one"}}]}
    to_one = {"route": [{"destination": {"host": "front", "subset": "one", "port": {"number": 80}}}]}
    routes = [
        {"match": [{"headers": {"x-user": {"exact": "ann"}}}], **to_one},
        {"match": [{"uri": {"exact": "/own"}, "sourceNamespace": "default"}], "directResponse": {"status": 418}},
        {"match": [{"uri": {"exact": "/other"}, "sourceNamespace": "defaul"}], "directResponse": {"status": 418}},
        {"match": [{"uri": {"exact": "/labels"}, "sourceLabels": {"app": "shop"}}], "directResponse": {"status": 418}},
        {"route": [{"destination": {"host": "front", "port": {"number": 80}}}]},
    ]
    try:
        with mesh.applied(
            "rules", networking("DestinationRule", subsets), networking("VirtualService", {"hosts": ["front"], "http": routes})
        ):
            mesh.wait(lambda: asked_for(mesh, shop, "/own")[0] == 418, "the rules to hold", timeout_s=20)
            mesh.wait(lambda: b'"api-own"' in asked_for(mesh, shop, "/", "x-user: ann")[1], "the subset to be called", timeout_s=20)
            answers = [asked_for(mesh, shop, "/", "x-user: ann")[1] for _ in range(10)]
            assert all(b'"api-own"' in answer for answer in answers), answers
            assert len({b'"api-own"' in asked_for(mesh, shop, "/")[1] for _ in range(30)}) == 2
            assert asked_for(mesh, shop, "/other")[0] == 200
            assert [asked_for(mesh, one, "/labels")[0] for one in (shop, mesh.pods["api-1"])] == [418, 200]
    finally:
        mesh.remove_pod(own)
    mesh.wait(lambda: asked_for(mesh, shop, "/own")[0] == 200, "the rules to be gone", timeout_s=20)


def networking(kind: str, spec: dict[str, Any]) -> Manifest:
    meta = {"name": "front", "namespace": "default"}
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec}


def asked_for(mesh: Mesh, source: Pod, path: str, *headers: str) -> tuple[int, bytes]:
    """Status and body of the answer to a request; 0 without one."""
    lines = [f"GET {path} HTTP/1.1", "host: front", *headers, "", ""]
    try:
        with mesh.dial(source, VIPS[0], 80) as connection:
            connection.sendall("\r\n".join(lines).encode())
            answer = HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""


def test_an_endpoint_that_comes_changes_no_cluster(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    before = gate.stat("cluster_manager.cluster_modified"), gate.stat("cluster_manager.cds.update_attempt")
    pod = mesh.add_pod("n1", "api-4", service_account="api", app="api")
    try:
        mesh.wait(lambda: mesh.call(mesh.pods["shop"], VIPS[0], 80).pod == "api-4", "the new endpoint to be called", timeout_s=20)
        assert (gate.stat("cluster_manager.cluster_modified"), gate.stat("cluster_manager.cds.update_attempt")) == before
    finally:
        mesh.remove_pod(pod)


def test_services_that_come_and_go_cost_no_connection_of_others(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    shop = mesh.pods["shop"]
    held = {port: mesh.hold(shop, VIPS[0], port) for port in (ECHO, 9001)}
    for kind, vip in (("http", "10.96.0.21"), ("unsaid", "10.96.0.22")):
        ports = {"ports": [{"name": kind, "port": 7000, "targetPort": "http"}]}
        other = manifests.service(f"other-{kind}", app="api", vips=(vip,), spec=ports)
        other["metadata"]["labels"] = {"istio.io/use-waypoint": "gate"}
        with mesh.applied(f"other-{kind}", other):
            mesh.wait(lambda vip=vip: through(mesh, gate, vip, 7000), f"calls to {vip} to go through the waypoint", timeout_s=20)
            mesh.wait(lambda: not draining(gate), "what was replaced to be gone", timeout_s=20)
            assert all(echoes(connection) for connection in held.values()), kind
        mesh.wait(lambda vip=vip: not through(mesh, gate, vip, 7000), "the other service to be gone")
        mesh.wait(lambda: not draining(gate), "what was replaced to be gone", timeout_s=20)
        assert all(echoes(connection) for connection in held.values()), kind


def test_what_a_new_policy_forbids_is_closed(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    connection = mesh.hold(mesh.pods["shop"], VIPS[0], ECHO)
    spec = {
        "targetRefs": [{"kind": "Service", "name": "front"}],
        "action": "DENY",
        "rules": [{"to": [{"operation": {"ports": [str(ECHO)]}}]}],
    }
    deny = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "no-echo", "namespace": "default"},
        "spec": spec,
    }
    with mesh.applied("deny", deny):
        assert closed_after(connection, timeout_s=20) < 20
        with pytest.raises(OSError, match=r"closed|reset|timed"):
            mesh.hold(mesh.pods["shop"], VIPS[0], ECHO)
    mesh.wait(lambda: through(mesh, gate, VIPS[0]), "calls to go through the waypoint again", timeout_s=20)


def draining(gate: Waypoint) -> bool:
    return any(gate.stat(f"listener_manager.total_{what}_draining") for what in ("listeners", "filter_chains"))


def test_who_may_come_in_and_whither(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    """By a client of the test's own."""

    def peer(identity: SetIdentity | None) -> Peer:
        return Peer.over(mesh.dial(mesh.outside, gate.pod.ipv4, HBONE_PORT), client_context(gate.directory, identity)).greet()

    shop = taken(mesh, gate, "shop")
    with peer(shop) as known:
        answers = {authority: known.ask(authority) for authority in (f"{VIPS[0]}:80", f"[{VIPS[1]}]:{ECHO}")}
        assert set(answers.values()) == {200}, answers
        strange = (
            "10.96.0.99:80",
            f"{VIPS[0]}:81",
            VIPS[0],
            "127.0.0.1:80",
            f"{gate.pod.ipv4}:15000",
            f"{mesh.pods['api-1'].ipv4}:8080",
            HOST,
        )
        answers = {authority: known.ask(authority) for authority in strange}
        assert set(answers.values()) == {404}, answers
    with pytest.raises((OSError, Ended)):
        peer(None)
    mesh.wait(lambda: {"response_code": "404"} in gate.metric("nodemesh_waypoint_refused_tunnels_total"), "refused tunnels to be counted")
    assert gate.metric("envoy_server_live") == [{}], "what Envoy says of itself"


@pytest.fixture
def pair(mesh: Mesh, gate: Waypoint) -> Iterator[tuple[Pod, Pod]]:
    """Two workloads of one account that are bound to the waypoint, which takes calls to workloads."""
    pods = tuple(mesh.add_pod("n2", name, service_account="api", app="solo") for name in ("solo-1", "solo-2"))
    for pod in pods:
        retold(mesh, pod, "app: solo", "app: solo\n    istio.io/use-waypoint: gate")
    mesh.cluster.apply(gate.name, gate.objects("all"))
    try:
        yield pods[0], pods[1]
    finally:
        mesh.cluster.apply(gate.name, gate.objects())
        for pod in pods:
            mesh.remove_pod(pod)


def retold(mesh: Mesh, pod: Pod, old: str, new: str) -> None:
    """Changes what the mesh is told of a pod."""
    file = mesh.cluster.config / f"pod-{pod.name}.yaml"
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new))


def test_workloads_through_it(mesh: Mesh, gate: Waypoint, pair: tuple[Pod, Pod]) -> None:
    shop = mesh.pods["shop"]
    for pod in pair:
        for address in (pod.ipv4, pod.ipv6):
            mesh.wait(lambda address=address: through(mesh, gate, str(address), HTTP), f"calls to {address} to go through it", timeout_s=20)
    answers = [(pod.name, mesh.call(shop, address, HTTP).pod) for _ in range(5) for pod in pair for address in (pod.ipv4, pod.ipv6)]
    assert all(asked == answered for asked, answered in answers), "a connection to one is not used for the other"
    for pod in pair:
        # Ports of workloads do not say what they carry: HTTP is told from the first bytes.
        wanted = {"source_workload": "shop", "destination_workload": pod.name, "response_code": "200", "destination_cluster": "Kubernetes"}
        counted = lambda wanted=wanted: any(one.items() >= wanted.items() for one in gate.metric("istio_requests_total"))  # noqa: E731
        mesh.wait(counted, f"requests to {pod.name} to be counted under its name")
    assert echoes(mesh.hold(shop, pair[0].ipv4, ECHO))


def test_an_endpoint_that_is_somebody_else_gets_nothing(mesh: Mesh, gate: Waypoint, pair: tuple[Pod, Pod]) -> None:
    """What lives at the address proves another identity than the mesh says that it has."""
    address = str(pair[0].ipv4)
    mesh.wait(lambda: through(mesh, gate, address, HTTP), "calls to go through it", timeout_s=20)
    failures = "cluster.connect_originate.ssl.fail_verify_san"
    before = gate.stat(failures)
    retold(mesh, pair[0], "serviceAccountName: api", "serviceAccountName: shop")

    def fails_in_the_handshake() -> bool:
        assert not mesh.call(mesh.pods["shop"], address, HTTP).ok or gate.stat(failures) == before
        return gate.stat(failures) > before

    mesh.wait(fails_in_the_handshake, "the handshake to be what fails")
    retold(mesh, pair[0], "serviceAccountName: shop", "serviceAccountName: api")
    mesh.wait(lambda: through(mesh, gate, address, HTTP), "calls to go through it again", timeout_s=20)


def test_certificates_rotate_and_nothing_is_dropped(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    def serial() -> str:
        found = json.loads(gate.admin("/certs"))["certificates"]
        return next((one["serial_number"] for entry in found for one in entry["cert_chain"]), "")

    gate.stop()
    (gate.directory / "state/svid.json").unlink()
    # Good for a minute, and dated a minute back: half of its life is over when it comes.
    gate.start(extra=("--certificate-ttl=60s",))
    mesh.wait(lambda: through(mesh, gate, VIPS[0]), "calls to go through the waypoint again", timeout_s=20)
    connection, first = mesh.hold(mesh.pods["shop"], VIPS[0], ECHO), serial()
    with mesh.stream(mesh.pods["shop"], VIPS[0], port=80) as stream:
        mesh.wait(lambda: serial() not in {"", first}, "another certificate", timeout_s=30)
        second = serial()
        mesh.wait(lambda: serial() not in {"", second}, "and another", timeout_s=30)
    assert echoes(connection)
    assert len(stream.calls) > 20
    assert not stream.failed


def test_a_controller_that_restarts_sends_nothing_again(mesh: Mesh, gate: Waypoint, bound: None) -> None:
    names = ("cluster_manager.cluster_modified", "cluster_manager.cluster_added", "listener_manager.listener_modified")
    before = {name: gate.stat(name) for name in names}
    since = gate.status()["since_s"]
    with mesh.stream(mesh.pods["shop"], VIPS[0], port=80) as stream:
        assert mesh.cluster.controller is not None
        mesh.cluster.controller.stop()
        mesh.cluster.start_controller()
        mesh.wait(lambda: gate.synced and gate.status()["since_s"] > since, "the waypoint to be back", timeout_s=30)
    assert {name: gate.stat(name) for name in names} == before
    assert not stream.failed


def test_what_envoy_refuses_is_told_with_its_words(mesh: Mesh, gate: Waypoint) -> None:
    """A second Envoy of the Gateway, told to listen where its host has no address."""
    other = Waypoint(gate.cluster, gate.pod, gate.name, gate.vip, at="other")
    other.start(extra=("--address=203.0.113.9", "--instance=other", "--metrics-listen="), wait=False)
    try:
        mesh.wait(lambda: refusals(mesh), "the refusal", timeout_s=20)
        (refused,) = refusals(mesh)
        assert refused["name"] == "connect_terminate"
        assert "203.0.113.9" in refused["message"]
        told = mesh.cluster.meshctl_answer("proxy-status")
        assert "default/gate refuses Listener connect_terminate" in told
    finally:
        other.stop()
    mesh.wait(lambda: len(statuses(mesh)) == 1, "the other one to be gone")
    assert not refusals(mesh)


def test_who_loses_its_gateway_loses_its_configuration(mesh: Mesh, gate: Waypoint) -> None:
    file = mesh.cluster.config / f"{gate.name}.yaml"
    kept = file.read_text()
    file.write_text("\n---\n".join(part for part in kept.split("---") if "kind: Gateway" not in part))
    try:
        mesh.wait(lambda: not statuses(mesh), "its streams to be closed")
    finally:
        file.write_text(kept)
    mesh.wait(lambda: gate.synced, "the waypoint to be back", timeout_s=30)


def statuses(mesh: Mesh) -> list[dict[str, Any]]:
    return list(json.loads(mesh.cluster.meshctl_answer("proxy-status", "-o", "json")))


def refusals(mesh: Mesh) -> list[dict[str, Any]]:
    return [refused for one in statuses(mesh) for refused in one["refused"]]
