"""The Debian package on a Debian with systemd: installed, joined, restarted, upgraded, removed while traffic runs, and none of it lost."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from demo import machines, manifests
from demo.cluster import Cluster
from demo.manifests import Manifest
from demo.topology import Pod, Topology
from tests.deploy import package
from tests.deploy.machine import Machine
from tests.e2e.mesh import Mesh, echoes, principal, spiffe

AGENT = "nodemesh-agent.service"
PROXIES = "nodemesh-proxy@*.service"
MOST_EXPOSED = {"nodemesh-proxy@x.service": 3.0, "nodemesh-controller.service": 2.0, "nodemesh-ratelimit.service": 2.0, AGENT: 5.0}
"""By systemd-analyze, from 0 (nothing) to 10 (everything)."""
CALLS_UNTIL_ANSWERED = """
import time, urllib.request
deadline_s = time.monotonic() + 60
while True:
    try:
        print(urllib.request.urlopen("{url}", timeout=3).read().decode())
        break
    except OSError:
        if time.monotonic() > deadline_s:
            raise
        time.sleep(0.1)
"""
"""A unit that begins is not known at once."""
SHOW_CAPTURES = """
import os, sys
sys.stdout.flush()
os.execvp("nodeagent", ["nodeagent", "capture", "-o", "json"])
"""
LEDGER, LEDGER_VIP = "ledger.default.svc.cluster.local", "10.96.0.30"


def only(app: str, other: str) -> Manifest:
    """Nobody but the other may call the app."""
    return manifests.authorization_policy(f"only-{other}", "ALLOW", app=app, principals=[principal(other)])


class VM:
    """A machine in a mesh, with a pod on another node that it calls and is called by; policies let nobody else."""

    def __init__(self, mesh: Mesh, machine: Machine, api: Pod, first: Path) -> None:
        self.mesh = mesh
        self.machine = machine
        self.api = api
        self.host = mesh.topology.hosts["vm"]
        self.first = first
        self.operators = machines.Machine(mesh.cluster, "vm")

    def installed(self) -> bool:
        return self.machine.run("dpkg-query", "-W", "-f=${db:Status-Abbrev}", "nodemesh", answers=(0, 1)).startswith("ii")

    def install(self, file: Path) -> None:
        self.machine.put(file, f"/root/{file.name}")
        self.machine.run("dpkg", "-i", f"/root/{file.name}", timeout_s=120)

    def join(self) -> None:
        """As its owner does it, with a bundle of the operator's."""
        self.operators.create_bundle("default/vm", "default/batch")
        self.machine.write("/etc/nodemesh/agent.yaml", "{host: default/vm, units: {batch.service: default/batch}}\n")
        self.machine.put(self.operators.bundle, "/root/bundle")
        self.machine.run("chmod", "600", "/root/bundle")
        self.machine.write("/etc/default/nodemesh-agent", "NODEMESH_PROXY_DRAIN=60\n")
        self.machine.run("nodeagent", "join", "/root/bundle", timeout_s=120)
        self.machine.wait(self.serves, "the machine to be in the mesh")

    def serves(self) -> bool:
        """Both ways, under policies that let only these two."""
        calls = (self.mesh.call(self.host.namespace, self.api.ipv4), self.mesh.call(self.api, self.host.ipv4))
        return all(call.ok for call in calls)

    def agent(self) -> int:
        return int(self.machine.property(AGENT, "MainPID"))

    def proxies(self) -> list[str]:
        """Their units, those that drain included."""
        return [unit for unit in self.machine.units(PROXIES) if self.machine.property(unit, "ActiveState") == "active"]

    @contextmanager
    def traffic(self) -> Iterator[None]:
        """Calls both ways without a pause, and open connections both ways: none fails, none ends, until the block does."""
        out, back = (self.host.namespace, self.api.ipv4), (self.api, self.host.ipv4)
        with ExitStack() as stack:
            streams = [stack.enter_context(self.mesh.stream(*way)) for way in (out, back)]
            held = [self.mesh.hold(*way) for way in (out, back)]
            before = [len(stream.calls) for stream in streams]
            yield
            assert all(map(echoes, held)), "open connections go on"
            for stream, count in zip(streams, before, strict=True):
                self.machine.wait(lambda stream=stream, count=count: len(stream.calls) > count + 5, "calls to go on")  # type: ignore[misc]
            for connection in held:
                connection.close()
        assert not [call for stream in streams for call in stream.failed]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VM]:
    built = package.build(tmp_path_factory.mktemp("package"))
    with Topology() as topology, Cluster(topology, patience=3) as cluster:
        host = topology.add_host("vm")
        topology.add_node("n1")
        topology.add_host("outside")
        api, ledger = topology.add_pod("n1", "api"), topology.add_pod("n1", "ledger")
        listed = Pod("vm", "vm", host.namespace, host.ipv4, host.ipv6)
        cluster.apply("namespaces", [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)])
        documents = [manifests.node("n1", zone="a"), *map(manifests.service_account, ("api", "ledger", "vm", "batch"))]
        documents += [manifests.pod(pod, service_account=pod.name, app=pod.name) for pod in (api, ledger)]
        documents += [machines.workload_group(name, app=name, service_account=name) for name in ("vm", "batch")]
        documents.append(manifests.service("ledger", app="ledger", vips=[LEDGER_VIP]))
        cluster.apply("mesh", [*documents, only("ledger", "batch")])
        cluster.apply("policies", [only("api", "vm"), only("vm", "api")])
        for pod in (api, ledger, listed):
            cluster.start_app(pod)
        cluster.start_controller()
        cluster.start_agent("n1")
        for pod in (api, ledger):
            cluster.enrol(pod, service_account=pod.name)
        with Machine(tmp_path_factory.mktemp("machine"), host.namespace) as machine:
            yield VM(Mesh(cluster, {"api": api, "ledger": ledger}), machine, api, built)


@pytest.fixture
def vm(running: VM) -> VM:
    """With the package, in the mesh."""
    if not running.installed():
        running.install(running.first)
        running.join()
    return running


pytestmark = pytest.mark.timeout(600)


def test_it_installs_without_a_word_and_starts_nothing_by_itself(running: VM) -> None:
    if running.installed():
        running.machine.run("dpkg", "--purge", "nodemesh")
    running.install(running.first)
    assert running.machine.units("nodemesh*") == []
    assert running.machine.run("systemctl", "is-enabled", AGENT, answers=(1,)).strip() == "disabled"
    assert "nodemesh" not in running.machine.journal("--priority=warning")
    running.machine.run("meshctl", "--help")
    for program in ("nodeagent", "meshctl"):
        assert f"{program} \\-" in running.machine.run("zcat", f"/usr/share/man/man1/{program}.1.gz")
        assert program in running.machine.run("cat", f"/usr/share/bash-completion/completions/{program}")
    assert running.machine.run("nodeagent", "status", answers=(3,)) == ""
    running.join()


def test_timeouts_are_timeouts_on_debians_python(vm: VM) -> None:
    vm.machine.put(package.ROOT / "tests/meshapi/test_old_python.py", "/root/timeouts.py")
    assert vm.machine.run("env", "PYTHONPATH=/usr/lib/nodemesh/python", "python3", "/root/timeouts.py").split() == ["True", "True"]


def test_units_are_confined(vm: VM) -> None:
    for unit, most in MOST_EXPOSED.items():
        said = vm.machine.run("systemd-analyze", "security", "--no-pager", unit)
        found = re.search(r"exposure level for .*: ([0-9.]+) ", said)
        assert found, said
        assert float(found[1]) <= most
    (proxy,) = vm.proxies()
    status = Path(f"/proc/{vm.machine.property(proxy, 'MainPID')}/status")
    fields = dict(line.split(":\t", 1) for line in vm.machine.run("cat", str(status)).splitlines())
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 12 | 1 << 10, "NET_ADMIN and NET_BIND_SERVICE"
    exec_only = vm.machine.run("sh", "-c", f"grep -E ' (/|/usr/lib) ' /proc/{vm.machine.property(proxy, 'MainPID')}/mounts").splitlines()
    assert ["noexec" in line for line in exec_only if line.split()[1] == "/"][-1], "no program but its own can be started"
    assert (fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()) == ("1", "2")


def test_a_restart_of_the_agent_keeps_the_proxy_and_every_connection(vm: VM) -> None:
    agent, proxies = vm.agent(), vm.proxies()
    with vm.traffic():
        vm.machine.run("systemctl", "restart", AGENT)
        assert vm.agent() not in {agent, 0}
        # READY=1 came before `systemctl` returned: it serves.
        assert json.loads(vm.machine.run("nodeagent", "status", "-o", "json"))["ready"]
    assert vm.proxies() == proxies
    assert "serving" in vm.machine.property(AGENT, "StatusText")


def test_an_agent_that_hangs_is_started_again(vm: VM) -> None:
    vm.machine.write("/etc/systemd/system/nodemesh-agent.service.d/watchdog.conf", "[Service]\nWatchdogSec=3s\n")
    try:
        vm.machine.run("systemctl", "daemon-reload")
        vm.machine.run("systemctl", "restart", AGENT)
        hung = vm.agent()
        with vm.traffic():
            vm.machine.run("sh", "-c", f"kill -STOP {hung}")
            vm.machine.wait(lambda: vm.agent() not in {hung, 0}, "another agent")
            vm.machine.wait(lambda: vm.machine.property(AGENT, "ActiveState") == "active", "it to be ready")
    finally:
        vm.machine.run("rm", "-rf", "/etc/systemd/system/nodemesh-agent.service.d")
        vm.machine.run("systemctl", "daemon-reload")
        vm.machine.run("systemctl", "restart", AGENT)


def test_a_proxy_that_dies_is_followed_by_another(vm: VM) -> None:
    (former,) = vm.proxies()
    vm.machine.run("systemctl", "kill", "--signal=SIGKILL", former)
    vm.machine.wait(lambda: vm.proxies() not in ([], [former]) and vm.serves(), "another proxy that serves")
    assert former not in vm.machine.units(PROXIES), "nothing is left of it"
    files = vm.machine.run("sh", "-c", "ls /run/nodemesh/proxy-*.env").split()
    assert [f"nodemesh-{Path(file).stem.replace('-', '@', 1)}.service" for file in files] == vm.proxies()


def test_the_journal_is_asked_by_workload_and_peer(vm: VM) -> None:
    assert vm.serves()

    def entries() -> list[dict[str, str]]:
        asked = ("SYSLOG_IDENTIFIER=nodeagent", "LOGGER=access", f"SRC_IDENTITY={spiffe('api')}", f"DST_IDENTITY={spiffe('vm')}")
        return [json.loads(line) for line in vm.machine.run("journalctl", "--quiet", "--output=json", *asked).splitlines()]

    vm.machine.wait(entries, "an entry of a call from api")
    assert entries()[-1]["_SYSTEMD_UNIT"] == AGENT
    assert entries()[-1]["DIRECTION"] == "inbound"
    assert "nodemesh-proxy" in vm.machine.journal("--unit", vm.proxies()[0])


def test_a_unit_of_the_machine_has_an_identity_of_its_own(vm: VM) -> None:
    """The ledger lets in batch and nobody else, the rest of the machine not either. Its name is known to the mesh alone."""
    ledger = vm.mesh.pods["ledger"].ipv4
    vm.machine.write("/etc/resolv.conf", f"nameserver 10.77.{vm.host.number}.1\n")  # nobody answers there
    script = CALLS_UNTIL_ANSWERED.format(url=f"http://{LEDGER}/") + SHOW_CAPTURES
    said = vm.machine.run("systemd-run", "--unit=batch.service", "--wait", "--pipe", "--quiet", "python3", "-c", script, timeout_s=120)
    answer, captures = said.split("\n", 1)
    assert json.loads(answer)["pod"] == "ledger"
    [batch] = [one for one in json.loads(captures) if "batch" in one["uid"]]
    assert {one["rule"]: one["packets"] for one in batch["counters"]}["questions"] > 0, "asked as itself, not as its host"
    assert not vm.mesh.call(vm.host.namespace, ledger).ok


def test_the_controller_runs_as_nobody_in_particular(vm: VM) -> None:
    controller = "nodemesh-controller.service"
    vm.machine.run("systemctl", "start", controller)
    try:
        assert "BEGIN CERTIFICATE" in vm.machine.run("meshctl", "root")
        fields = vm.machine.run("sh", "-c", f"cat /proc/$(systemctl show --value --property=MainPID {controller})/status")
        status = dict(line.split(":", 1) for line in fields.splitlines())
        assert int(status["CapBnd"], 16) == 0
        assert min(map(int, status["Uid"].split())) > 60_000, "a user that exists as long as it runs"
        root = vm.machine.run("meshctl", "root")
        vm.machine.run("systemctl", "restart", controller)
        assert vm.machine.run("meshctl", "root") == root, "its state is there for the next one"
    finally:
        vm.machine.run("systemctl", "stop", controller)


def test_the_rate_limit_server_is_a_unit_too(vm: VM) -> None:
    unit = "nodemesh-ratelimit.service"
    vm.machine.run("systemctl", "start", unit)
    try:
        assert vm.machine.property(unit, "ActiveState") == "active"
        assert "answers at 127.0.0.1:8081" in vm.machine.run("journalctl", "--unit", unit, "--no-pager")
    finally:
        vm.machine.run("systemctl", "stop", unit)


def test_an_upgrade_loses_no_connection(vm: VM) -> None:
    agent, (former,) = vm.agent(), vm.proxies()
    pid = vm.machine.property(former, "MainPID")
    with vm.traffic():
        vm.install(package.raised(vm.first))
        vm.machine.wait(lambda: vm.agent() not in {agent, 0}, "the new agent")
        vm.machine.wait(lambda: len(vm.proxies()) == 2, "the new proxy beside the former one, which drains")
        assert vm.machine.property(former, "MainPID") == pid
    vm.machine.wait(lambda: vm.proxies() not in ([former], []) and len(vm.proxies()) == 1, "the former proxy to end", timeout_s=90)
    assert vm.serves()
    assert vm.machine.run("dpkg-query", "-W", "-f=${Version}", "nodemesh").startswith("9.")


def test_removal_leaves_the_mesh_first_and_purging_leaves_nothing(vm: VM) -> None:
    vm.mesh.cluster.delete("policies")
    for address in (vm.api.ipv4, vm.host.ipv4):
        vm.machine.wait(lambda address=address: vm.mesh.call(vm.mesh.outside, address).ok, "plaintext to be let in")  # type: ignore[misc]
    out, back = (vm.host.namespace, vm.api.ipv4), (vm.api, vm.host.ipv4)
    with vm.mesh.stream(*out) as outgoing, vm.mesh.stream(*back) as incoming:
        vm.machine.run("dpkg", "--remove", "nodemesh", timeout_s=120)
    assert not [call for stream in (outgoing, incoming) for call in stream.failed]
    assert vm.machine.units("nodemesh*") == []
    assert "vm" not in vm.mesh.cluster.meshctl("get", "workloadentry", "-o", "json")
    vm.mesh.cluster.apply("policies", [only("api", "vm"), only("vm", "api")])
    vm.machine.wait(lambda: not vm.mesh.call(*out).ok, "api to let nobody in but a machine that is no member any more")
    assert vm.mesh.call(vm.mesh.outside, vm.host.ipv4).ok, "the host is an ordinary one again, and not a closed one"
    left = "".join(vm.machine.run(*command) for command in (("nft", "list", "tables"), ("ip", "rule"), ("ls", "/sys/fs/bpf/nodemesh")))
    assert "nodemesh" not in left
    assert "steer" not in left
    assert "0x111" not in left
    vm.machine.run("dpkg", "--purge", "nodemesh")
    places = vm.machine.run("sh", "-c", "find / -xdev -path '*nodemesh*' -not -path '/root/*' -not -path '/var/lib/apt/*' | head -20")
    assert [place for place in places.split() if not place.startswith(("/etc/nodemesh", "/proc", "/sys", "/var/log/journal"))] == []
