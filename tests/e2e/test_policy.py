"""P3, P4, P6: policies on the whole mesh: pushed under open connections, on every path, at every level, bad ones included."""

from collections.abc import Iterator
from typing import Any

import pytest

from control.model.peer_modes import STATIC_STRICT
from demo import manifests
from demo.cluster import API_VIPS, eventually
from demo.manifests import Manifest
from demo.topology import Pod
from tests.e2e.mesh import ECHO, HTTP, SECRET, Mesh, closed_after, echoes, principal
from tests.e2e.test_reports import samples

CLOSED_S = 1.0
NOISE_S = 1.0
"""What a busy machine may add to it."""
DENIED = ("nodemesh_denied_connections_total", "nodemesh_refused_at_syn_total")
HEADLESS = manifests.service("direct", app="api", vips=())


def deny(name: str = "deny", **rule: Any) -> Manifest:
    return manifests.authorization_policy(name, "DENY", app="api", **rule)


def allow(name: str = "allow", **rule: Any) -> Manifest:
    return manifests.authorization_policy(name, "ALLOW", app="api", **rule)


def ways(mesh: Mesh) -> Iterator[tuple[str, Pod | str, object, int]]:
    """Every way into an api pod: name, source, address, port of the echo or of the service."""
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    yield "across nodes, IPv4", shop, far.ipv4, ECHO
    yield "across nodes, IPv6", shop, far.ipv6, ECHO
    yield "on one node, IPv4", shop, near.ipv4, ECHO
    yield "on one node, IPv6", shop, near.ipv6, ECHO
    yield "service, IPv4", shop, API_VIPS[0], ECHO
    yield "service, IPv6", shop, API_VIPS[1], ECHO


def own_ways(mesh: Mesh) -> Iterator[tuple[str, Pod | str, object, int]]:
    """A pod and itself."""
    near = mesh.pods["api-1"]
    yield "own address, IPv4", near, near.ipv4, ECHO
    yield "own address, IPv6", near, near.ipv6, ECHO
    yield "own service, IPv4", near, API_VIPS[0], ECHO
    yield "own service, IPv6", near, API_VIPS[1], ECHO


def plain_ways(mesh: Mesh) -> Iterator[tuple[str, Pod | str, object, int]]:
    """From outside of the mesh."""
    for name in ("api-1", "api-2"):
        pod = mesh.pods[name]
        yield f"plaintext to {name}, IPv4", mesh.outside, pod.ipv4, ECHO
        yield f"plaintext to {name}, IPv6", mesh.outside, pod.ipv6, ECHO


def answered(mesh: Mesh, source: Pod | str, address: object, port: int) -> bool:
    try:
        mesh.hold(source, address, port)
    except OSError:
        return False
    return True


def test_a_denial_closes_what_is_open_in_every_way(mesh: Mesh) -> None:
    every = [*ways(mesh), *own_ways(mesh), *plain_ways(mesh)]
    open_ones = [(name, mesh.hold(source, address, port)) for name, source, address, port in every]
    untouched = mesh.dial(mesh.pods["shop"], mesh.pods["api-2"].ipv4, HTTP)
    with untouched, mesh.applied("deny", deny(ports=[str(ECHO)])):
        took = {name: closed_after(connection, timeout_s=CLOSED_S + NOISE_S) for name, connection in open_ones}
        print(f"all {len(took)} closed within {max(took.values()):.2f} s of the one before")
        refused = {name: not answered(mesh, source, address, port) for name, source, address, port in every}
        assert refused == dict.fromkeys(took, True)
        untouched.sendall(b"GET /still HTTP/1.1\r\n\r\n")
        assert untouched.recv(64).startswith(b"HTTP/1.1 200")
    mesh.wait(lambda: all(answered(mesh, *one[1:]) for one in every), "every way to be open again")


def test_a_denied_principal_is_the_same_one_in_every_way(mesh: Mesh) -> None:
    with mesh.policies(deny(principals=[principal("shop")])):
        assert {name for name, *way in ways(mesh) if answered(mesh, *way)} == set()
        allowed = [*own_ways(mesh), *plain_ways(mesh)]
        assert {name for name, *way in allowed if not answered(mesh, *way)} == set()
    with mesh.policies(deny(principals=[principal("api")])):
        assert {name for name, *way in own_ways(mesh) if answered(mesh, *way)} == set()
        assert {name for name, *way in ways(mesh) if not answered(mesh, *way)} == set()
        assert mesh.call(mesh.pods["api-1"], "127.0.0.1").ok, "loopback is the pod's own"


def test_only_whom_a_policy_allows_comes_in_any_way(mesh: Mesh) -> None:
    with mesh.policies(allow(principals=[principal("api")])):
        others = [*ways(mesh), *plain_ways(mesh)]
        assert {name for name, *way in others if answered(mesh, *way)} == set()
        assert {name for name, *way in own_ways(mesh) if not answered(mesh, *way)} == set()


def test_headless_services_have_the_same_verdicts(mesh: Mesh) -> None:
    shop = mesh.pods["shop"]
    with mesh.applied("headless", HEADLESS), mesh.policies(deny(principals=[principal("shop")], ports=[str(HTTP)])):
        for name in ("api-1", "api-2", "api-3"):
            explained = mesh.cluster.nodeagent("n1", "explain", "default/shop", f"default/{name}:{HTTP}")
            assert "DENIED" in explained
            assert not mesh.call(shop, mesh.pods[name].ipv4).ok
            assert not mesh.call(shop, mesh.pods[name].ipv6).ok
            assert mesh.call(mesh.outside, mesh.pods[name].ipv4).ok


def test_sources_by_address_are_the_clients_own(mesh: Mesh) -> None:
    shop, outside = mesh.pods["shop"], mesh.topology.hosts["outside"]
    blocks = [f"{shop.ipv4}/32", f"{shop.ipv6}/128", f"{outside.ipv4}/32"]
    policy = deny()
    policy["spec"]["rules"] = [{"from": [{"source": {"ipBlocks": blocks}}]}]
    with mesh.policies(policy):
        assert {name for name, *way in ways(mesh) if answered(mesh, *way)} == set()
        open_ones = {name for name, *way in plain_ways(mesh) if answered(mesh, *way)}
        assert open_ones == {"plaintext to api-1, IPv6", "plaintext to api-2, IPv6"}


def test_what_needs_no_identity_is_refused_by_the_kernel(mesh: Mesh) -> None:
    """By address and by STRICT: no connection to the proxy, and the same traces as of a denial by the proxy."""
    shop, outside, far = mesh.pods["shop"], mesh.topology.hosts["outside"], mesh.pods["api-2"]
    by_address = deny()
    by_address["spec"]["rules"] = [{"from": [{"source": {"ipBlocks": [f"{outside.ipv4}/32", f"{shop.ipv4}/32"]}}]}]
    strict = manifests.peer_authentication("strict", "STRICT", namespace="default", app="api")
    for document, policy in ((by_address, "default/deny"), (strict, f"istio-system/{STATIC_STRICT}")):
        with mesh.applied("kernel", document):
            mesh.wait(lambda: not mesh.call(mesh.outside, far.ipv4).ok, "it to be in force")
            mesh.wait(lambda policy=policy: policy in words(mesh), "the kernel to have it")
            before = at_rest(mesh, policy)
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    mesh.dial(mesh.outside, far.ipv4, HTTP)
            expected = [former + 3 for former in before]
            assert denied(mesh, policy) == expected, "each is the kernel's, and none the proxy's"
            lines = [line for line in mesh.cluster.nodeagent("n2", "logs").splitlines() if "refused at the SYN" in line]
            assert f'policy="{policy}"' in lines[-1]
            assert f"src.addr={outside.ipv4}:" in lines[-1]
            assert policy in mesh.cluster.nodeagent("n2", "status")
        mesh.wait(lambda: mesh.call(mesh.outside, far.ipv4).ok, "it to be open again")
    with mesh.applied("kernel", by_address):
        mesh.wait(lambda: "refused at the SYN by default/deny" in explained(mesh), "the table of a tunnel")
        assert not mesh.call(shop, far.ipv4).ok
        assert mesh.call(mesh.pods["api-1"], far.ipv4).ok
    every = [(source, pod.ipv4) for source in (mesh.outside, shop) for pod in mesh.pods.values() if pod is not shop]
    mesh.wait(lambda: all(mesh.call(*one).ok for one in every), "all of it to be open again")


def words(mesh: Mesh) -> str:
    """What is refused at the first packet of connections to api-2."""
    return next(str(one["prefilter"]) for one in mesh.admin("n2", "/capture") if one["name"] == "api-2")


def explained(mesh: Mesh) -> str:
    return mesh.cluster.nodeagent("n2", "explain", "default/shop", f"default/api-2:{HTTP}")


def denied(mesh: Mesh, policy: str) -> list[float]:
    """Connections that the node has denied by a policy, and those of them that its kernel has refused."""
    mesh.admin("n2", "/status")  # asks kernel and proxy, which the page does at most every tenth of a second
    page = samples(mesh, "n2")
    return [sum(one.value for one in page if one.name == name and one.labels["policy"] == policy) for name in DENIED]


def at_rest(mesh: Mesh, policy: str) -> list[float]:
    """Likewise, once what the proxy counted before has been told."""
    found = [denied(mesh, policy)]

    def rests() -> bool:
        found.append(denied(mesh, policy))
        return found[-1] == found[-2]

    eventually(rests, "the counters to rest", interval_s=0.2)
    return found[-1]


@pytest.mark.parametrize(
    ("where", "spec", "closed"),
    [
        ("istio-system", {"mtls": {"mode": "STRICT"}}, {"api-1", "api-2", "shop"}),
        ("default", {"mtls": {"mode": "STRICT"}}, {"api-1", "api-2", "shop"}),
        ("default", {"selector": {"matchLabels": {"app": "api"}}, "mtls": {"mode": "STRICT"}}, {"api-1", "api-2"}),
        (
            "default",
            {
                "selector": {"matchLabels": {"app": "api"}},
                "mtls": {"mode": "PERMISSIVE"},
                "portLevelMtls": {str(HTTP): {"mode": "STRICT"}},
            },
            {"api-1", "api-2"},
        ),
    ],
    ids=["mesh", "namespace", "workload", "port"],
)
def test_strict_refuses_plaintext(mesh: Mesh, where: str, spec: dict[str, Any], closed: set[str]) -> None:
    """The application of shop listens too, so that each level's reach can be told."""
    held = {name: mesh.dial(mesh.outside, mesh.pods[name].ipv4, HTTP) for name in sorted(closed)}
    for connection in held.values():
        ask(connection)
    document = {**manifests.peer_authentication("strict", "STRICT", namespace=where), "spec": spec}
    with mesh.applied("strict", document):
        for connection in held.values():
            assert closed_after(connection, timeout_s=CLOSED_S + NOISE_S) < CLOSED_S + NOISE_S
            connection.close()
        for name in ("shop", "api-1", "api-2"):
            pod = mesh.pods[name]
            results = {mesh.call(mesh.outside, address).ok for address in (pod.ipv4, pod.ipv6)}
            assert results == {name not in closed}, name
            assert mesh.call(mesh.pods["api-3"], pod.ipv4).ok, "the mesh's own calls go on"
        assert answered(mesh, mesh.outside, mesh.pods["api-2"].ipv4, ECHO) == ("portLevelMtls" in spec)
    mesh.wait(
        lambda: mesh.call(mesh.outside, mesh.pods["shop"].ipv4).ok and mesh.call(mesh.outside, mesh.pods["api-2"].ipv4).ok, "open again"
    )


def ask(connection: Any) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert b"pod" in connection.recv(4096)


def test_a_port_can_be_left_open_below_a_strict_namespace(mesh: Mesh) -> None:
    documents = [
        manifests.peer_authentication("default", "STRICT", namespace="default"),
        {
            **manifests.peer_authentication("api", "STRICT", namespace="default", app="api"),
            "spec": {
                "selector": {"matchLabels": {"app": "api"}},
                "mtls": {"mode": "STRICT"},
                "portLevelMtls": {str(HTTP): {"mode": "PERMISSIVE"}},
            },
        },
    ]
    far = mesh.pods["api-2"]
    with mesh.applied("ports", *documents):
        mesh.wait(lambda: not mesh.call(mesh.outside, mesh.pods["shop"].ipv4).ok, "STRICT in the namespace")
        mesh.wait(lambda: not answered(mesh, mesh.outside, far.ipv4, ECHO), "STRICT on the other port")
        assert mesh.call(mesh.outside, far.ipv4).ok
    mesh.wait(lambda: mesh.call(mesh.outside, mesh.pods["shop"].ipv4).ok, "open again")


def test_disable_takes_the_tunnel_away_and_nothing_else(mesh: Mesh) -> None:
    """Peers come in plaintext then; policies that name identities do not match them."""
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    document = manifests.peer_authentication("off", "DISABLE", namespace="default", app="api")
    with mesh.applied("off", document):
        mesh.wait(lambda: in_the_clear(mesh, "disable"), "calls in plaintext")
        assert mesh.call(shop, far.ipv4).client == str(shop.ipv4)
        assert mesh.call(mesh.outside, far.ipv4).ok
        with mesh.policies(allow(principals=[principal("shop")])):
            assert not mesh.call(shop, far.ipv4).ok
    mesh.wait(lambda: not in_the_clear(mesh, "enabled"), "calls in tunnels again")


def in_the_clear(mesh: Mesh, name: str) -> bool:
    with mesh.wiretap(name) as tap:
        assert mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4).ok
    return tap.contains(SECRET)


def test_policies_of_the_root_namespace_hold_everywhere(mesh: Mesh) -> None:
    policy = manifests.authorization_policy("root", "DENY", principals=[principal("shop")], namespace="istio-system")
    with mesh.policies(policy):
        assert not mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4).ok
        assert not mesh.call(mesh.pods["shop"], mesh.pods["shop"].ipv4).ok
        assert mesh.call(mesh.pods["api-1"], mesh.pods["api-2"].ipv4).ok
        assert "istio-system/root" in mesh.cluster.nodeagent("n2", "explain", "default/shop", f"default/api-2:{HTTP}")


def test_a_dry_run_only_says_what_it_would_do(mesh: Mesh) -> None:
    policy = deny("trial", principals=[principal("shop")])
    policy["metadata"]["annotations"] = {"istio.io/dry-run": "true"}
    with mesh.policies(policy):
        held = mesh.hold(mesh.pods["shop"], mesh.pods["api-2"].ipv4)
        assert echoes(held)
        explained = mesh.cluster.nodeagent("n2", "explain", "default/shop", f"default/api-2:{HTTP}")
        assert "ALLOWED" in explained
        assert "dry run" in explained
        assert [entry["dry_run"] for entry in mesh.admin("n2", "/policies") if entry["name"] == "trial"] == [True]


def test_an_empty_allow_lets_nobody_in(mesh: Mesh) -> None:
    policy = {**allow("nobody"), "spec": {"selector": {"matchLabels": {"app": "api"}}}}
    with mesh.policies(policy):
        every = [*ways(mesh), *own_ways(mesh), *plain_ways(mesh)]
        assert {name for name, *way in every if answered(mesh, *way)} == set()


def test_fields_that_layer_4_cannot_see_never_widen(mesh: Mesh) -> None:
    """An ALLOW by path matches nothing, a DENY by path everything; the agents are told nothing that could be read otherwise."""
    by_path = [{"to": [{"operation": {"paths": ["/public"]}}]}]
    for action in ("ALLOW", "DENY"):
        policy = manifests.authorization_policy("by-path", action, app="api")
        policy["spec"]["rules"] = by_path
        with mesh.policies(policy):
            assert not mesh.call(mesh.pods["shop"], mesh.pods["api-2"].ipv4).ok
            status = mesh.cluster.meshctl_answer("get", "AuthorizationPolicy", "by-path", "-o", "yaml")
            assert "paths" in status.partition("status:")[2]


def test_a_policy_that_turns_bad_keeps_its_last_good_form(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    good = deny("turns", principals=[principal("shop")], ports=[str(ECHO)])
    bad = deny("turns", principals=[principal("shop")], ports=["0x2328"])
    with mesh.policies(good):
        assert not answered(mesh, shop, far.ipv4, ECHO)
        mesh.cluster.apply("policies", [bad])
        mesh.wait(lambda: not mesh.cluster.meshctl_ok("get", "AuthorizationPolicy", "turns"), "the controller to refuse it")
        shown = mesh.cluster.meshctl_answer("get", "AuthorizationPolicy", "turns", "-o", "yaml")
        assert "0x2328" in shown.partition("status:")[2]
        assert not answered(mesh, shop, far.ipv4, ECHO)
        assert mesh.call(shop, far.ipv4).ok
        mesh.cluster.apply("policies", [deny("turns", principals=[principal("shop")], ports=[str(HTTP)])])
        mesh.wait(lambda: not mesh.call(shop, far.ipv4).ok and answered(mesh, shop, far.ipv4, ECHO), "its corrected form")


def restart_controller(mesh: Mesh) -> None:
    assert mesh.cluster.controller is not None
    mesh.cluster.controller.stop()
    mesh.cluster.start_controller()


def test_bad_resources_at_the_controllers_start_close_what_they_seem_to_mean_and_nothing_else(mesh: Mesh) -> None:
    """Nothing was ever good of them: the policy denies those for whom it seems to be meant, the rest is served."""
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    broken = deny("broken", principals=[principal("nobody")], ports=["99999"])
    no_yaml = mesh.cluster.config / "no-yaml.yaml"
    no_yaml.write_text("kind: [\n")
    try:
        with mesh.applied("broken", broken):
            restart_controller(mesh)
            mesh.wait(lambda: not mesh.call(shop, far.ipv4).ok, "the closed form of the broken policy", timeout_s=20)
            assert mesh.call(mesh.pods["api-1"], mesh.pods["shop"].ipv4).ok
            assert "99999" in mesh.cluster.meshctl_answer("get", "AuthorizationPolicy", "broken", "-o", "yaml").partition("status:")[2]
    finally:
        no_yaml.unlink()
    mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "calls after the correction")


def test_a_file_that_can_not_be_read_at_the_controllers_start_takes_nothing_away(mesh: Mesh) -> None:
    """It may hold a denial: until it can be read the controller tells agents nothing, and they keep what they have."""
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    hidden = mesh.cluster.config / "policies.yaml"
    with mesh.policies(deny("hidden", principals=[principal("shop")])):
        written = hidden.read_text()
        hidden.write_bytes(b"\xff\xfe\x00 not a manifest any more")
        restart_controller(mesh)
        assert not mesh.cluster.meshctl_ok("status")
        assert not mesh.call(shop, far.ipv4).ok
        assert mesh.call(mesh.pods["api-1"], far.ipv4).ok
        hidden.write_text(written)
        mesh.wait(lambda: mesh.cluster.meshctl_ok("status"), "the controller to be ready")
        mesh.wait(mesh.settled, "the agents to be back", timeout_s=20)
        assert not mesh.call(shop, far.ipv4).ok
    assert mesh.call(shop, far.ipv4).ok
