"""C1 to C4: the wire while pods come and go, what a hostile pod can do, addresses used again, what a pod can reach of the node."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from demo import manifests
from demo.cluster import API_VIPS
from demo.shell import run
from demo.topology import Pod
from nodeagent.linux.namespaces import Namespace
from tests.e2e.mesh import HTTP, SECRET, Call, Mesh, echoes, principal, reset, spiffe
from tests.nodeagent import cgroups
from tests.nodeagent.dns.resolver import addresses, ask

PROXY_MARK = 0x539
TO_APPLICATION_MARK = 0x111
SYSCTLS = ("net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect", "net.ipv4.conf.all.rp_filter")
NOBODY = 65534


def only_allow_shop() -> manifests.Manifest:
    return manifests.authorization_policy("only-shop", "ALLOW", app="api", principals=[principal("shop")])


def network_state(pod: Pod) -> dict[str, str]:
    """All that capture may touch in a pod's namespace, as the kernel's tools list it."""
    commands = {
        "nft": ["nft", "list", "ruleset"],
        "rules": ["ip", "rule"],
        "rules6": ["ip", "-6", "rule"],
        "routes": ["ip", "route", "show", "table", "all"],
        "routes6": ["ip", "-6", "route", "show", "table", "all"],
        "sysctls": ["sysctl", *SYSCTLS],
        "listeners": ["ss", "-Hltn"],
    }
    return {name: run(command, namespace=pod.namespace) for name, command in commands.items()}


# ---- process groups of a node


@contextmanager
def units(mesh: Mesh, *names: str) -> Iterator[dict[str, Path]]:
    """Process groups on n1, each with the service account of its name; to Kubernetes they are pods on the host's network."""
    host = mesh.topology.hosts["n1"]
    ips = [{"ip": str(host.ipv4)}, {"ip": str(host.ipv6)}]
    with ExitStack() as stack:
        made: dict[str, Path] = {}
        for name in names:
            made[name] = stack.enter_context(cgroups.made())
            listed = Pod(name, "n1", host.namespace, host.ipv4, host.ipv6)
            document = manifests.pod(listed, service_account=name, app=name)
            document["spec"]["hostNetwork"] = True
            document["status"] |= {"hostIP": str(host.ipv4), "podIPs": ips}
            stack.enter_context(mesh.applied(f"unit-{name}", manifests.service_account(name), document))
            mesh.cluster.list_unit("n1", name, cgroup=made[name].name)
            stack.callback(mesh.cluster.unlist_unit, "n1", name)
        for name in names:
            mesh.wait(lambda name=name: unit(mesh, name).get("ready"), f"{name} to be captured with an identity")  # type: ignore[misc]
        yield made


def unit(mesh: Mesh, name: str) -> dict[str, Any]:
    return next((entry for entry in mesh.admin("n1", "/workloads") if entry["name"] == name), {})


def test_two_units_of_one_host_have_an_identity_each_and_the_host_has_none(mesh: Mesh) -> None:
    host, far = mesh.topology.hosts["n1"], mesh.pods["api-2"]
    only_billing = manifests.authorization_policy("only-billing", "ALLOW", app="api", principals=[principal("billing")])

    def ask(name: str, address: object) -> Call:
        with cgroups.inside(made[name]):
            return mesh.call(host.namespace, address)

    with units(mesh, "billing", "batch") as made:
        with mesh.policies(only_billing), mesh.wiretap("units") as tap:
            for address in (far.ipv4, far.ipv6):
                mesh.wait(lambda address=address: ask("billing", address).pod == "api-2", "billing to be let in")  # type: ignore[misc]
                assert not ask("batch", address).ok
        assert tap.read().ports == {15008}
        assert not tap.contains(SECRET)
        with mesh.policies(only_billing):
            assert not mesh.call(host.namespace, far.ipv4).ok, "other processes of the host have no identity"
        assert ask("batch", far.ipv4).client == str(host.ipv4)
        assert "it names no ports" in unit(mesh, "batch")["problem"]
        assert mesh.call(host.namespace, far.ipv4).ok, "in plaintext, as before"
    mesh.wait(lambda: not unit(mesh, "billing") and not unit(mesh, "batch"), "the units to be released", timeout_s=45)
    for command in (["nft", "list", "tables"], ["ip", "rule"], ["ip", "-6", "rule"]):
        left = run(command, namespace=host.namespace)
        assert "nodemesh_" not in left
        assert "0111" not in left


def test_a_unit_is_called_at_its_ports_as_itself_and_its_host_is_not(mesh: Mesh) -> None:
    """In tunnels at the address that is its alone, in plaintext as policy has it; to no port but its own."""
    host, far = mesh.topology.hosts["n1"], mesh.pods["api-2"]
    own4, own6 = IPv4Address(f"10.77.{host.number}.77"), IPv6Address(f"fd77:{host.number}::77")
    only_api = manifests.authorization_policy("only-api", "ALLOW", app="counter", principals=[principal("api")])
    listed = Pod("counter", "n1", host.namespace, own4, own6)
    documents = (manifests.service_account("counter"), manifests.pod(listed, service_account="counter", app="counter"))
    for address in (f"{own4}/24", f"{own6}/64"):
        run(["ip", "address", "add", address, "dev", "uplink", "nodad"][: 6 if ":" not in address else 7], namespace=host.namespace)
    with cgroups.made() as cgroup, mesh.applied("unit-counter", *documents):
        app = mesh.cluster.start_app(listed)
        mesh.cluster.list_unit("n1", "counter", cgroup=cgroup.name, ports=[HTTP], addresses=[str(own4), str(own6)])
        try:
            mesh.wait(lambda: unit(mesh, "counter").get("ready"), "the unit to be captured with an identity")
            assert not unit(mesh, "counter")["problem"]
            with mesh.policies(only_api), mesh.wiretap("counter") as tap:
                for address in (own4, own6):
                    mesh.wait(lambda address=address: mesh.call(far, address).pod == "counter", "api to be let in")  # type: ignore[misc]
                    assert mesh.call(far, address).client == str(address), "the application sees its host"
                    for caller in (mesh.pods["shop"], mesh.outside):
                        assert not mesh.call(caller, address).ok
                assert not mesh.call(mesh.outside, host.ipv4).ok, "its port is its own at whichever address"
            assert tap.read().ports >= {15008}
            assert mesh.hold(mesh.outside, own4), "another port of the host is the host's"
            with pytest.raises(OSError, match=r"closed|reset"):
                mesh.hold(far, own4)
            assert mesh.call(mesh.outside, own4).pod == "counter", "plaintext, where no policy holds"
        finally:
            mesh.cluster.unlist_unit("n1", "counter")
            app.stop()
    mesh.wait(lambda: not unit(mesh, "counter"), "the unit to be released", timeout_s=45)
    for address in (f"{own4}/24", f"{own6}/64"):
        run(["ip", "address", "del", address, "dev", "uplink"], namespace=host.namespace)


# ---- a whole host


def test_a_whole_host_is_one_workload(mesh: Mesh) -> None:
    """Its agent reaches the controller past the capture, before and after a restart; all else is in the mesh both ways."""
    host, far = mesh.topology.add_host("vm"), mesh.pods["api-2"]
    listed = Pod("vm", "vm", host.namespace, host.ipv4, host.ipv6)
    documents = (manifests.node("vm", zone="a"), manifests.service_account("vm"), manifests.pod(listed, service_account="vm", app="vm"))
    only_vm = manifests.authorization_policy("only-vm", "ALLOW", app="api", principals=[principal("vm")])
    only_api = manifests.authorization_policy("only-api", "ALLOW", app="vm", principals=[principal("api")])

    def entry() -> dict[str, Any]:
        return next((entry for entry in mesh.admin("vm", "/workloads") if entry["name"] == "vm"), {})

    with mesh.applied("vm", *documents):
        app = mesh.cluster.start_app(listed)
        mesh.cluster.start_agent("vm")
        mesh.cluster.list_host("vm", "vm", service_account="vm")
        mesh.wait(lambda: entry().get("ready"), "the host to be captured with an identity")
        mesh.wait(
            lambda: _asks(mesh, host.namespace, "api") == [API_VIPS[0]], "its questions to be answered, from its workload's namespace"
        )
        with mesh.policies(only_vm, only_api), mesh.wiretap("vm") as tap:
            for mine, theirs in ((host.ipv4, far.ipv4), (host.ipv6, far.ipv6)):
                mesh.wait(lambda theirs=theirs: mesh.call(host.namespace, theirs).pod == "api-2", "the host to be let in")  # type: ignore[misc]
                mesh.wait(lambda mine=mine: mesh.call(far, mine).client == str(far.ipv4 if mine is host.ipv4 else far.ipv6), "calls to it")  # type: ignore[misc]
                assert not mesh.call(mesh.pods["shop"], mine).ok
                assert not mesh.call(mesh.outside, mine).ok
        assert not tap.contains(SECRET)
        mesh.cluster.agents["vm"].stop()
        with mesh.policies(only_api):
            assert mesh.call(far, host.ipv4).ok, "without its agent"
        mesh.cluster.start_agent("vm", join=False)
        mesh.wait(lambda: entry().get("ready"), "the next agent to take it over")
        mesh.wait(lambda: mesh.admin("vm", "/status")["controller"]["connected"], "it to reach the controller")
        mesh.cluster.nodeagent("vm", "down", "--drain", "0")
        mesh.cluster.agents["vm"].stop()
    left = "".join(run(command, namespace=host.namespace) for command in (["nft", "list", "tables"], ["ip", "rule"], ["ip", "-6", "rule"]))
    assert "nodemesh" not in left
    assert "0x111" not in left
    app.stop()


def _asks(mesh: Mesh, namespace: str, name: str) -> list[str]:
    """What somebody's resolver answers, which is nobody's."""
    try:
        with Namespace.open(f"/run/netns/{namespace}") as opened:
            return addresses(ask(opened, str(mesh.topology.hosts["outside"].ipv4), name, timeout_s=2.0))
    except OSError:
        return []


# ---- C1: comings and goings


def test_a_pod_is_enrolled_under_open_connections(mesh: Mesh) -> None:
    far = mesh.pods["api-2"]
    late = mesh.add_pod("n1", "late", service_account="late", enrol=False)
    speaking, spoken_to = mesh.hold(late, far.ipv4), mesh.hold(mesh.outside, late.ipv6)
    # Its namespace's label says that it is in the mesh: once the mesh knows of it, its own calls to it fail rather than go in plaintext.
    mesh.wait(lambda: not mesh.call(far, late.ipv4).ok, "calls to a pod that is not captured yet to be refused")
    assert not mesh.call(far, late.ipv4).ok
    mesh.cluster.enrol(late, service_account="late")
    with mesh.wiretap("enrolled") as tap:
        # What was open ends as soon as it is used, from either side, and comes back in a tunnel.
        assert not echoes(speaking)
        assert not echoes(spoken_to)
        again = mesh.hold(late, far.ipv4), mesh.hold(far, late.ipv6)
        assert mesh.call(late, far.ipv6).client == str(late.ipv6)
        assert all(echoes(connection) for connection in again)
    assert not tap.contains(SECRET)
    assert tap.read().ports == {15008}
    mesh.remove_pod(late)


def test_a_pod_that_is_taken_off_the_list_goes_on_outside_of_the_mesh(mesh: Mesh) -> None:
    far = mesh.pods["api-2"]
    leaver = mesh.add_pod("n1", "leaver", service_account="leaver")
    held = mesh.hold(leaver, far.ipv4)
    mesh.cluster.unenrol(leaver)
    assert echoes(held), "what is open is drained, not cut"
    assert mesh.call(leaver, far.ipv4).client == str(leaver.ipv4)
    assert mesh.call(mesh.outside, leaver.ipv4).pod == "leaver"
    with mesh.policies(only_allow_shop()):
        assert not mesh.call(leaver, far.ipv4).ok, "it has no identity any more"
    mesh.release()
    mesh.remove_pod(leaver)


def test_a_pod_that_ends_says_nothing_in_the_clear(mesh: Mesh) -> None:
    far = mesh.pods["api-2"]
    brief = mesh.add_pod("n1", "brief", service_account="brief")
    held = [mesh.hold(brief, far.ipv4), mesh.hold(brief, far.ipv6), mesh.hold(far, brief.ipv4)]
    with mesh.wiretap("ended") as tap, mesh.stream(far, brief.ipv4, timeout_s=2) as stream:
        reset(held[0])
        held[1].close()
        mesh.remove_pod(brief)
        mesh.wait(lambda: not stream.calls[-1].ok, "calls to the pod to fail")
    assert not tap.contains(SECRET)
    assert tap.read().ports == {15008}


def test_a_pod_that_the_model_does_not_know_yet_is_closed_not_open(mesh: Mesh) -> None:
    """Its node lists it before the controller does: no identity, so nothing passes either way; then it comes by itself."""
    shop = mesh.pods["shop"]
    pod = mesh.topology.add_pod("n2", "early")
    app = mesh.cluster.start_app(pod)
    mesh.pods["early"], mesh.apps["early"] = pod, app
    mesh.cluster.list_pod(pod, service_account="early")
    mesh.wait(lambda: mesh.workload(pod).get("capture") == "closed", "it to be closed")
    with mesh.wiretap("early") as tap:
        assert not mesh.call(pod, shop.ipv4, timeout_s=1).ok
        assert not mesh.call(shop, pod.ipv4, timeout_s=1).ok
    assert not any(SECRET in segment.payload for segment in tap.segments() if segment.source == str(pod.ipv4))
    documents = [manifests.service_account("early"), manifests.pod(pod, service_account="early", app="early")]
    mesh.cluster.apply("pod-early", documents)
    mesh.wait(lambda: mesh.cluster.enrolled(pod), "it to be served", timeout_s=20)
    assert mesh.call(pod, shop.ipv4).client == str(pod.ipv4)
    mesh.remove_pod(pod)


# ---- C2: a pod with NET_ADMIN


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("name", ["api-1", "api-2"])
def test_marking_packets_as_the_proxys_earns_nothing(mesh: Mesh, name: str, family: str) -> None:
    """The marked connection goes past the pod's own capture, in plaintext, and is judged as that where it arrives."""
    shop, target = mesh.pods["shop"], getattr(mesh.pods[name], family)
    with mesh.policies(only_allow_shop()):
        assert mesh.call(shop, target).ok
        for mark in (PROXY_MARK, TO_APPLICATION_MARK, 0x7FFF0539):
            # The mark towards applications leads back into the pod: there its own application may answer.
            assert mesh.call(shop, target, mark=mark, timeout_s=1).pod != name
    strict = manifests.peer_authentication("strict", "STRICT", namespace="default")
    with mesh.applied("strict", strict):
        mesh.wait(lambda: not mesh.call(shop, target, mark=PROXY_MARK).ok, "STRICT")
        assert mesh.call(shop, target, mark=TO_APPLICATION_MARK, timeout_s=1).pod != name
        assert mesh.call(shop, target).ok
    mesh.wait(lambda: mesh.call(shop, target, mark=PROXY_MARK).ok, "PERMISSIVE, where plaintext is anyone's")


def test_a_pod_that_deletes_its_rules_reaches_no_more_than_an_outsider_until_they_are_back(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    with mesh.policies(only_allow_shop()):
        assert mesh.call(shop, far.ipv4).ok
        run(["nft", "delete", "table", "inet", "nodemesh"], namespace=shop.namespace)
        run(["ip", "rule", "del", "fwmark", "0x111/0xfff"], namespace=shop.namespace)
        assert not mesh.call(shop, far.ipv4).ok
        mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "the rules to be put back", timeout_s=25)
    captured = mesh.admin("n1", "/capture")
    assert {entry["name"]: entry["problem"] for entry in captured} == {"shop": "", "api-1": ""}


def test_a_pod_that_takes_another_s_address_does_not_get_its_identity(mesh: Mesh) -> None:
    """With the victim's address as the source, bypassing capture: plaintext without an identity. Through capture: its own identity."""
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    policy = manifests.authorization_policy("only-api", "ALLOW", app="api", principals=[principal("api")])
    with mesh.policies(policy):
        assert mesh.call(near, far.ipv4).ok
        assert not mesh.call(shop, far.ipv4).ok
        run(["ip", "addr", "add", f"{near.ipv4}/32", "dev", "eth0"], namespace=shop.namespace)
        try:
            for mark in (0, PROXY_MARK):
                assert not forged(mesh, shop, near, far, mark)
        finally:
            run(["ip", "addr", "del", f"{near.ipv4}/32", "dev", "eth0"], namespace=shop.namespace)
        run(["ip", "neigh", "flush", "all"], namespace=mesh.topology.hosts["n1"].namespace)
        mesh.wait(lambda: mesh.call(near, far.ipv4).ok, "the victim's calls")


def forged(mesh: Mesh, thief: Pod, victim: Pod, target: Pod, mark: int) -> bool:
    """Whether a call from the thief's namespace with the victim's address is answered."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(); s.settimeout(1)\n"
        f"s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, {mark})\n"
        f"s.bind(({str(victim.ipv4)!r}, 0))\n"
        "try:\n"
        f"    s.connect(({str(target.ipv4)!r}, {HTTP})); s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); print(len(s.recv(10)))\n"
        "except OSError as error:\n"
        "    print(0)\n"
    )
    return int(run([sys.executable, "-c", script], namespace=thief.namespace)) > 0


# ---- C3: addresses used again


def test_an_address_used_again_carries_the_new_identity_only(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    begin_s = time.time()
    old = mesh.add_pod("n1", "old", service_account="old")
    reaching, reached = mesh.hold(old, far.ipv4), mesh.hold(far, old.ipv4)
    assert peers(mesh, "n2", old, since_s=begin_s) == {spiffe("old")}
    mesh.remove_pod(old)
    gone_s = time.time()
    new = mesh.add_pod("n1", "new", service_account="new")
    assert (new.ipv4, new.ipv6) == (old.ipv4, old.ipv6)
    try:
        assert not echoes(reaching)
        assert not echoes(reached)
        policy = manifests.authorization_policy("only-old", "ALLOW", app="api", principals=[principal("old")])
        with mesh.policies(policy):
            assert not mesh.call(new, far.ipv4).ok
            assert not mesh.call(new, far.ipv6).ok
        mesh.hold(new, far.ipv4)
        mesh.hold(far, new.ipv4)
        mesh.hold(shop, new.ipv6)
        assert mesh.call(far, new.ipv4).pod == "new"
        assert peers(mesh, "n2", new, since_s=gone_s) == {spiffe("new")}
        mesh.wait(lambda: denied(mesh, "n2", since_s=gone_s) == {spiffe("new")}, "the denials to be of the new identity alone")
    finally:
        mesh.release()
        mesh.remove_pod(new)


def test_another_account_in_the_same_namespace_is_another_pod(mesh: Mesh) -> None:
    far, begin_s = mesh.pods["api-2"], time.time()
    pod = mesh.add_pod("n1", "turns", service_account="first")
    held = mesh.hold(pod, far.ipv4)
    mesh.cluster.apply("pod-turns", [manifests.service_account("second"), manifests.pod(pod, service_account="second", app="turns")])
    mesh.cluster.list_pod(pod, service_account="second")
    try:
        mesh.wait(lambda: mesh.workload(pod).get("identity") == spiffe("second") and mesh.workload(pod)["ready"], "the other identity")
        assert not echoes(held)
        mesh.hold(pod, far.ipv4)
        assert peers(mesh, "n2", pod, since_s=begin_s) == {spiffe("second")}
    finally:
        mesh.release()
        mesh.remove_pod(pod)


def denied(mesh: Mesh, node: str, *, since_s: float) -> set[str]:
    """Whom a node has refused since then."""
    return {one["source"] for one in mesh.admin(node, "/status")["denials"] if one["at_s"] >= since_s}


def peers(mesh: Mesh, node: str, pod: Pod, *, since_s: float) -> set[str]:
    """The identities under which a node's proxy has connections with a pod's address, as either side, opened since then.

    Ends of a former pod's connections, of the same address, may still stand there, dead, until their pings fail.
    """
    addresses = {str(pod.ipv4), str(pod.ipv6)}
    found = set()
    for entry in (entry for entry in mesh.admin(node, "/connections") if entry["opened_s"] >= since_s):
        for side in ("source", "destination"):
            if entry[side].rpartition(":")[0].strip("[]") in addresses:
                found.add(entry[f"{side}_identity"])
    return found


# ---- C4: what a pod can reach of the node


def test_a_pod_reaches_the_metrics_of_its_node_and_nothing_else_of_it(mesh: Mesh) -> None:
    shop, node = mesh.pods["shop"], mesh.topology.hosts["n1"]
    with mesh.dial(shop, node.ipv4, 15020) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
    for port in (15000, 15001, 15006, 15008, 15011, 15012, 15014):
        for address in (node.ipv4, node.ipv6):
            with pytest.raises(OSError, match=r"refused|reset|closed"):
                hear(mesh, shop, address, port)


@pytest.mark.parametrize("port", [15001, 15006])
def test_the_proxys_own_ports_are_no_way_in(mesh: Mesh, port: int) -> None:
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    tries: list[tuple[Pod | str, Any]] = [(shop, "127.0.0.1"), (shop, "::1"), (shop, shop.ipv4), (shop, near.ipv4), (shop, far.ipv6)]
    tries += [(mesh.outside, near.ipv4), (mesh.outside, far.ipv6)]
    for source, address in tries:
        with pytest.raises(OSError, match=r"refused|reset|closed|timed out"):
            hear(mesh, source, address, port)


def hear(mesh: Mesh, source: Pod | str, address: object, port: int) -> None:
    """Raises OSError unless something answers a request there."""
    with mesh.dial(source, address, port, timeout_s=2) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if not connection.recv(1):
            raise ConnectionError("closed")


def test_the_sockets_of_the_agent_are_roots_alone(mesh: Mesh) -> None:
    shop = mesh.pods["shop"]
    directory = mesh.cluster.node_directory("n1") / "run"
    for name in ("admin.sock", "decisions.sock"):
        status = (directory / name).stat()
        assert status.st_mode & 0o777 == 0o600
        assert status.st_uid == 0
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({str(directory / name)!r})"
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c", script]
        with pytest.raises(Exception, match="PermissionError"):
            run(command, namespace=shop.namespace)
    assert directory.stat().st_mode & 0o777 == 0o700
    # Abstract sockets would be in reach of whoever is in the same network namespace, whatever the file's mode.
    names = [line.split()[-1] for line in Path(f"/proc/{mesh.cluster.agents['n1'].pid}/net/unix").read_text().splitlines()]
    assert [name for name in names if name.startswith("@")] == []


# ---- the end


def test_down_leaves_nothing_on_the_node(mesh: Mesh) -> None:
    """The last test: the node leaves the mesh, its pods go on outside; then it joins again with what it kept."""
    shop, near = mesh.pods["shop"], mesh.pods["api-1"]
    guest = mesh.add_pod("n1", "guest", service_account="guest", enrol=False)
    before = network_state(guest)
    mesh.cluster.enrol(guest, service_account="guest")
    assert network_state(guest) != before
    mesh.cluster.unenrol(guest)
    pid = mesh.cluster.proxy_pid("n1")
    agent = mesh.cluster.agents["n1"]
    said = mesh.cluster.nodeagent("n1", "down", "--drain", "0")
    assert "default/shop" in said
    mesh.wait(lambda: not agent.alive, "the agent to end")
    assert agent.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    for pod in (shop, near, guest):
        after = network_state(pod)
        # Routes and listeners name the pod's own addresses and ports: compared where nothing differs but capture.
        alike = after if pod is guest else {name: after[name] for name in ("nft", "rules", "rules6")}
        assert alike == {name: before[name] for name in alike}, pod.name
        assert mesh.call(mesh.outside, pod.ipv4).ok
    directory = mesh.cluster.node_directory("n1") / "run"
    assert {file.name for file in directory.iterdir() if file.is_socket()} == set()
    mesh.cluster.start_agent("n1", join=False)
    mesh.wait(mesh.settled, "the node to be back")
    assert mesh.call(shop, mesh.pods["api-2"].ipv4).ok
    mesh.remove_pod(guest)
