"""The story that `make demo-vm` tells: a machine outside of the cluster joins a mesh that has pods, and what it can do there."""

import json
import re
import signal
from collections.abc import Callable
from typing import Any, Final

from demo import manifests
from demo.cluster import API_VIPS, TRUST_DOMAIN, Cluster, eventually
from demo.machines import Machine, workload_group
from demo.report import Report
from demo.shell import run
from demo.topology import Host, Pod
from demo.units import Unit
from demo.wire import Wiretap

SECRET: Final = "the-payload-in-question"  # noqa: S105  not a secret: the bytes that are looked for on the wire
API_NAME: Final = "api.default.svc.cluster.local"
WEB_NAME: Final = "web.default.svc.cluster.local"
WEB_VIPS: Final = ("10.96.0.20", "fd96::20")
PROBE: Final = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 2}
NODE: Final = "n1"
PATIENCE_S: Final = 60.0


def spiffe(service_account: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{service_account}"


class VMStory:
    """Holds what the chapters share; `tell` runs them in order."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self.cluster = cluster
        self.report = report
        self.pods: dict[str, Pod] = {}
        self.machine: Machine
        self.units: dict[str, Unit] = {}
        self.outside: Host
        self.resolver = cluster.directory / "resolv.conf"

    def tell(self) -> None:
        """All chapters, in order; what they started ends, whatever happens."""
        try:
            self.build()
            self.join()
            self.call()
            self.be_called()
            self.fall_ill()
            self.restart()
            self.leave()
        finally:
            for unit in self.units.values():
                unit.close()

    def build(self) -> None:
        """A node with pods, a controller, and a machine that is no node: two units run on it."""
        with self.report.step("Build a node with two pods, a controller, and a machine beside the cluster, on which two units run"):
            topology = self.cluster.topology
            topology.add_node(NODE)
            self.pods = {name: topology.add_pod(NODE, name) for name in ("shop", "api")}
            self.outside = topology.add_host("outside")
            documents = [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)]
            documents += [manifests.node(NODE, zone="a"), *map(manifests.service_account, ("shop", "api", "web", "batch"))]
            documents += [manifests.pod(pod, service_account=name, app=name) for name, pod in self.pods.items()]
            documents += [manifests.service("api", app="api", vips=API_VIPS), manifests.service("web", app="web", vips=WEB_VIPS)]
            # Nobody answers there: names of the mesh are answered by the agents.
            self.machine = Machine(self.cluster, "vm")
            self.resolver.write_text(f"nameserver 10.77.{self.machine.host.number}.1\n")
            both = f"{self.machine.host.ipv4}/32, {self.machine.host.ipv6}/128"
            documents += [
                workload_group("web", app="web", service_account="web", probe=PROBE, allowed_addresses=both),
                workload_group("batch", app="batch", service_account="batch"),
                manifests.peer_authentication("default", "STRICT", namespace="default"),
                manifests.authorization_policy("only-batch", "ALLOW", app="api", principals=[spiffe("batch").removeprefix("spiffe://")]),
                manifests.authorization_policy("only-shop", "ALLOW", app="web", principals=[spiffe("shop").removeprefix("spiffe://")]),
            ]
            self.cluster.apply("mesh", documents)
            self.cluster.start_app(self.pods["api"])
            self.cluster.start_controller()
            self.cluster.start_agent(NODE)
            for name, pod in self.pods.items():
                self.cluster.enrol(pod, service_account=name)
            self.units = {name: Unit(self.cluster, self.machine.host, name, self.resolver) for name in ("web", "batch")}
            self.units["web"].serve()
            self.report.say("STRICT holds; api lets in only batch, web only shop")
            answer = self.units["batch"].get(self.pods["api"].ipv4, 8080)
            self.report.claim("outside of the mesh, batch on the machine is refused by api", held=not answer["ok"], seen=_seen(answer))

    def join(self) -> None:
        """A bundle of the operator's, one command of the owner's."""
        with self.report.step("The operator makes a bundle; the machine's owner joins with it"):
            self.machine.create_bundle("default/web", "default/batch")
            self.report.say("meshctl vm create --group default/web --group default/batch --name vm -o bundle")
            host = self.machine.host
            units = {unit.path: f"default/{name}" for name, unit in self.units.items()}
            self.machine.configure(address=[str(host.ipv4), str(host.ipv6)], units=units)
            said = self.machine.join()
            self.report.show(said)
            self.report.claim("`nodeagent join` checks the host and joins", held="vm has joined" in said, seen=said.splitlines()[-2])
            self.machine.start()
            eventually(self.machine.ready, "the machine's workloads to be in the mesh", timeout_s=PATIENCE_S)
            held = {name: entry["identity"] for name, entry in self.machine.workloads().items()}
            self.report.claim(
                "each unit is a workload, with an SVID of its own",
                held=set(held.values()) == {spiffe("web"), spiffe("batch")},
                seen=", ".join(sorted(held.values())),
            )
            entries = eventually(lambda: self._entries() if len(self._entries()) == 2 else {}, "the entries of the machine")
            self.report.claim("the controller has made its entries by itself", held=len(entries) == 2, seen=", ".join(sorted(entries)))

    def call(self) -> None:
        """From a unit to a service of the cluster, by name."""
        with self.report.step("batch calls a service of the mesh by its name"):
            with self._wiretap("out") as tap:
                answer = eventually(
                    lambda: self._answered(lambda: self.units["batch"].get(API_NAME, 80)), "api to answer batch", timeout_s=PATIENCE_S
                )
            reading, clear = tap.read(), tap.contains(SECRET.encode())
            self.report.claim(f"{API_NAME} is answered by api", held=answer.get("pod") == "api", seen=_seen(answer))
            self.report.claim(
                "between machine and node only TLS 1.3 on port 15008, not a byte of the payload in the clear",
                held=not clear and reading.ports == {15008} and reading.tls_versions == {"TLS 1.3"} and reading.hbone_bytes > 0,
                seen=f"ports {sorted(reading.ports)}, {'/'.join(reading.tls_versions)}, {reading.hbone_bytes} bytes",
            )
            refused = self.units["web"].get(API_VIPS[0], 80)
            self.report.claim("web, the other unit, is not let in", held=not refused["ok"], seen=_seen(refused))
            rest = self.cluster.get(self.machine.host.namespace, self.pods["api"].ipv4, 8080)[0]
            self.report.claim("nor is the rest of the host, which is outside of the mesh", held=not rest["ok"], seen=_seen(rest))
            line = eventually(lambda: self._log_line(NODE, spiffe("batch")), "a line of the access log of api's node")
            self.report.show(line)
            self.report.claim("api's node knows the caller", held=spiffe("api") in line, seen=spiffe("batch"))

    def be_called(self) -> None:
        """From a pod to the machine, by the name of its service."""
        with self.report.step("shop, a pod, calls the service that the machine is the endpoint of"):
            with self._wiretap("in") as tap:
                answer = eventually(lambda: self._answered(self._shop_calls_web), "web to answer shop", timeout_s=PATIENCE_S)
            self.report.claim(f"{WEB_NAME} is answered by web", held=answer.get("pod") == "web", seen=_seen(answer))
            by_ipv6 = self.cluster.get(self.pods["shop"].namespace, WEB_VIPS[1], 80, path=f"/{SECRET}", timeout_s=3.0)[0]
            self.report.claim("by IPv6, too", held=by_ipv6.get("pod") == "web", seen=_seen(by_ipv6))
            self.report.claim("in mutual TLS", held=tap.read().ports == {15008} and not tap.contains(SECRET.encode()), seen="port 15008")
            outside = self.cluster.get(self.outside.namespace, self.machine.host.ipv4, 8080, timeout_s=2.0)[0]
            self.report.claim("a client outside of the mesh is refused", held=not outside["ok"], seen=_seen(outside))

    def fall_ill(self) -> None:
        """The group's probe takes it out of load balancing."""
        with self.report.step("web hangs, and recovers: the probe of its WorkloadGroup is run by the machine's agent"):
            self.units["web"].stop()
            eventually(lambda: self._healthy() == "False", "the probe to fail")
            refused = eventually(lambda: _refused(self._shop_calls_web()), "web to be out of load balancing")
            self.report.claim(
                "its entry says so, and shop's calls have no endpoint any more",
                held=not refused["ok"],
                seen=f"Healthy=False, {_seen(refused)}",
            )
            self.units["web"].serve()
            answer = eventually(lambda: self._answered(self._shop_calls_web), "web to be back", timeout_s=PATIENCE_S)
            self.report.claim("back with its application", held=answer["ok"], seen=f"Healthy={self._healthy()}, {_seen(answer)}")

    def restart(self) -> None:
        """The machine's agent is killed, and the controller gone."""
        with self.report.step("The machine's agent is killed while the controller is away, and comes back"):
            held = self.cluster.hold(self.pods["shop"].namespace, WEB_VIPS[0], 9000, name="restart")
            assert self.cluster.controller is not None  # noqa: S101
            self.cluster.controller.stop()
            self.cluster.agents["vm"].stop(signal_number=signal.SIGKILL)
            answer = self._shop_calls_web()
            self.report.claim("without agent and controller calls go on", held=answer["ok"], seen=_seen(answer))
            self.machine.start()
            eventually(self.machine.ready, "the next agent to serve from what is kept", timeout_s=PATIENCE_S)
            self.report.claim(
                "the next agent serves from what it kept; the connection from before is open",
                held=held.open,
                seen="open" if held.open else "CLOSED",
            )
            held.stop()
            self.cluster.start_controller()
            eventually(lambda: self._healthy() == "True", "the machine to be there for the controller again", timeout_s=PATIENCE_S)
            status = self.machine.command("status")
            self.report.show(status)

    def leave(self) -> None:
        """One command undoes it."""
        with self.report.step("The machine leaves"):
            self.report.show(self.machine.leave())
            left = "".join(run(command, namespace=self.machine.host.namespace) for command in (["nft", "list", "tables"], ["ip", "rule"]))
            held = not self._entries() and not re.search("nodemesh|0x111", left) and not list(self.machine.state.iterdir())
            self.report.claim(
                "the controller has forgotten it, and nothing is left on it: no entry, no rules, no state",
                held=held,
                seen=f"{len(self._entries())} entries, {len(list(self.machine.state.iterdir()))} files of state",
            )
            refused = eventually(lambda: _refused(self._shop_calls_web()), "shop to be sent there no more")
            self.report.claim("shop is sent there no more", held=not refused["ok"], seen=_seen(refused))
            answer = self.cluster.get(self.outside.namespace, self.machine.host.ipv4, 8080)[0]
            self.report.claim("its application goes on, as any host's", held=answer.get("pod") == "web", seen=_seen(answer))

    # ---- parts that chapters share

    def _shop_calls_web(self) -> Any:
        return self.cluster.get(self.pods["shop"].namespace, WEB_NAME, 80, path=f"/{SECRET}", timeout_s=3.0, resolver=self.resolver)[0]

    @staticmethod
    def _answered(call: Callable[[], Any]) -> Any:
        answer = call()
        return answer if answer["ok"] else None

    def _entries(self) -> dict[str, Any]:
        return {entry["metadata"]["name"]: entry for entry in json.loads(self.cluster.meshctl("get", "workloadentry", "-o", "json"))}

    def _healthy(self) -> str:
        conditions = [
            one
            for name, entry in self._entries().items()
            if name.startswith("web")
            for one in entry.get("status", {}).get("conditions", [])
        ]
        return next((str(one["status"]) for one in conditions if one["type"] == "Healthy"), "")

    def _log_line(self, node: str, identity: str) -> str:
        return next((line for line in reversed(self.cluster.nodeagent(node, "logs").splitlines()) if identity in line), "")

    def _wiretap(self, name: str) -> Wiretap:
        topology = self.cluster.topology
        file = self.cluster.directory / f"{name}.pcap"
        return Wiretap(topology.router, f"to-{NODE}", file, beyond=topology.hosts[NODE].bridge_ipv4)


def _seen(answer: Any) -> str:
    return str(answer.get("pod") or answer.get("error") or answer)


def _refused(answer: Any) -> Any:
    return None if answer["ok"] else answer
