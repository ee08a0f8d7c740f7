"""The story that `make demo` tells, chapter by chapter, each with what it claims and what was seen."""

import re
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from demo import manifests
from demo.cluster import API_VIPS, TRUST_DOMAIN, Cluster, Held, basic_mesh, eventually
from demo.report import Report
from demo.shell import run
from demo.topology import Pod
from demo.wire import Wiretap

SECRET = "the-payload-in-question"  # noqa: S105  not a secret: the bytes that are looked for on the wire
SHOP = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/shop"
API = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/api"


class Story:
    """Holds what the chapters share; `tell` runs them in order."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self.cluster = cluster
        self.report = report
        self.pods: dict[str, Pod] = {}
        self.outside = ""

    def tell(self) -> None:
        """All chapters, in order; each leaves the mesh as the next expects it."""
        self.build()
        self.plain()
        self.enrol()
        self.encrypted()
        self.spread()
        self.strict()
        self.deny()
        self.allow()
        self.restart()
        self.metrics()
        self.status()

    def build(self) -> None:
        """Two nodes, four pods, a controller and a client outside the mesh."""
        with self.report.step("Build two nodes, a router between them, four pods and a client outside"):
            self.pods = basic_mesh(self.cluster, enrolled=False)
            self.outside = self.cluster.topology.add_host("outside").namespace
            for name in ("api-1", "api-2", "api-3"):
                self.cluster.start_app(self.pods[name])
            for pod in self.pods.values():
                self.report.say(f"{pod.name:6} on {pod.node}  {pod.ipv4}  {pod.ipv6}")
            self.cluster.start_controller()
            self.report.say("the controller serves; both nodes join with a one-time token")
            for node in ("n1", "n2"):
                self.cluster.start_agent(node)
            self.report.claim("both node agents are connected and ready", held=all(map(self.cluster.ready, ("n1", "n2"))), seen="n1, n2")

    def plain(self) -> None:
        """Before enrolment: plaintext on the wire."""
        with self.report.step("Before enrolment: shop calls api-2 on the other node"):
            for family, address in (("IPv4", self.pods["api-2"].ipv4), ("IPv6", self.pods["api-2"].ipv6)):
                with self._wiretap(f"plain-{family}") as tap:
                    answers = self._get_from_shop(address, 8080)
                seen = tap.contains(SECRET.encode())
                self.report.claim(
                    f"{family}: the call works and its payload is on the wire in the clear",
                    held=answers[0].get("pod") == "api-2" and seen,
                    seen=f"answered by {answers[0].get('pod')}, payload {'seen' if seen else 'not seen'} between the nodes",
                )

    def enrol(self) -> None:
        """The namespace is labelled; the pods of the static list are captured."""
        with self.report.step("Enrol: label the namespace, list the pods on their nodes"):
            documents = [manifests.namespace("istio-system", enrolled=False), manifests.namespace("default", enrolled=True)]
            self.cluster.apply("namespaces", documents)
            begin = time.monotonic()
            for name, pod in self.pods.items():
                self.cluster.enrol(pod, service_account="shop" if name == "shop" else "api")
            self.report.claim(
                "every pod is captured and has an SVID, nothing in the pods was restarted",
                held=all(map(self.cluster.enrolled, self.pods.values())),
                seen=f"{len(self.pods)} pods in {time.monotonic() - begin:.1f} s",
            )

    def encrypted(self) -> None:
        """The same calls, in mutual TLS."""
        with self.report.step("The same calls now: mutual TLS under each pod's own SVID"):
            for family, address, source in (
                ("IPv4", self.pods["api-2"].ipv4, self.pods["shop"].ipv4),
                ("IPv6", self.pods["api-2"].ipv6, self.pods["shop"].ipv6),
            ):
                with self._wiretap(f"mesh-{family}") as tap:
                    answer = self._get_from_shop(address, 8080)[0]
                reading, clear = tap.read(), tap.contains(SECRET.encode())
                seen = "SEEN" if clear else "not seen"
                self.report.claim(
                    f"{family}: answered, and api-2 sees shop's own address",
                    held=answer.get("pod") == "api-2" and answer.get("client") in {str(source), f"::ffff:{source}"},
                    seen=f"{answer.get('pod')} saw {answer.get('client')}",
                )
                self.report.claim(
                    f"{family}: between the nodes only TLS 1.3 on port 15008, not a byte of the payload in the clear",
                    held=not clear and reading.ports == {15008} and reading.tls_versions == {"TLS 1.3"} and reading.hbone_bytes > 0,
                    seen=f"ports {sorted(reading.ports)}, {'/'.join(reading.tls_versions)}, {reading.hbone_bytes} bytes, payload {seen}",
                )
            for node, direction in (("n1", "outbound"), ("n2", "inbound")):
                lines = eventually(partial(self._log_lines, node, direction), f"an {direction} log line on {node}")
                self.report.show(lines[-1])
                self.report.claim(
                    f"the access log of {node} ({direction}) names both SPIFFE ids",
                    held=SHOP in lines[-1] and API in lines[-1],
                    seen=f"{node}: {len(lines)} lines",
                )

    def spread(self) -> None:
        """A service address over endpoints on both nodes."""
        with self.report.step("A service address is spread over endpoints on both nodes"):
            for family, vip in zip(("IPv4", "IPv6"), API_VIPS, strict=True):
                pods = Counter(answer.get("pod") for answer in self._get_from_shop(vip, 80, count=60))
                self.report.claim(
                    f"{family}: 60 calls to the service reach all three endpoints, none fails",
                    held=set(pods) == {"api-1", "api-2", "api-3"},
                    seen=", ".join(f"{pod}: {count}" for pod, count in sorted(pods.items(), key=str)),
                )

    def strict(self) -> None:
        """PeerAuthentication STRICT refuses plaintext."""
        with self.report.step("STRICT: a client outside the mesh is refused"):
            target = self.pods["api-2"].ipv4
            before = self.cluster.get(self.outside, target, 8080)[0]
            self.report.claim(
                "PERMISSIVE: the outside client is answered", held=before["ok"], seen=str(before.get("pod", before.get("error")))
            )
            held = self.cluster.hold(self.outside, target, 9000, name="outside")
            self.cluster.apply("strict", [manifests.peer_authentication("default", "STRICT", namespace="default")])
            changed = time.time()
            end = held.end()
            self.report.claim(
                "its open plaintext connection is closed within a second", held=end["at"] - changed < 1, seen=_after(end["at"], changed)
            )
            for address in (target, self.pods["api-2"].ipv6):
                after = self.cluster.get(self.outside, address, 8080)[0]
                self.report.claim(f"STRICT: a new one to {address} is refused", held=not after["ok"], seen=str(after.get("error", after)))
            inside = self._get_from_shop(target, 8080)[0]
            self.report.claim("calls inside the mesh go on", held=inside["ok"], seen=str(inside.get("pod", inside.get("error"))))

    def deny(self) -> None:
        """A DENY policy, on an open connection too."""
        with self.report.step("DENY: shop may no longer reach port 9000 of api"):
            held = self._hold_from_shop("deny")
            policy = manifests.authorization_policy(
                "no-shop", "DENY", app="api", principals=[SHOP.removeprefix("spiffe://")], ports=["9000"]
            )
            self._changes(held, "no-shop", policy, "the open connection is closed within a second of the DENY")
            self._refused("while DENY holds, a new connection to port 9000 is refused", 9000)
            answer = self._get_from_shop(self.pods["api-2"].ipv4, 8080)[0]
            self.report.claim("port 8080 is not touched by it", held=answer["ok"], seen=str(answer.get("pod", answer.get("error"))))
            self.cluster.delete("no-shop")
            again = eventually(lambda: self._hold_from_shop("deny-again").open, "a new connection to port 9000 after the policy is gone")
            self.report.claim("without the policy a new connection to port 9000 is open", held=again, seen="open")

    def allow(self) -> None:
        """An ALLOW policy admits only whom it names."""
        with self.report.step("ALLOW: only api itself may call api, so shop may not"):
            held = self._hold_from_shop("allow")
            policy = manifests.authorization_policy("only-api", "ALLOW", app="api", principals=[API.removeprefix("spiffe://")])
            self._changes(held, "only-api", policy, "the open connection of shop is closed within a second of the ALLOW")
            self._refused("shop's new calls are refused", 8080)
            answer = self.cluster.get(self.pods["api-1"].namespace, self.pods["api-2"].ipv4, 8080)[0]
            self.report.claim("api-1 may call api-2", held=answer.get("pod") == "api-2", seen=str(answer.get("pod", answer.get("error"))))
            explanation = self.cluster.nodeagent("n2", "explain", "default/shop", f"{self.pods['api-2'].ipv4}:8080")
            self.report.show(explanation)
            self.report.claim("`nodeagent explain` names the rule", held="default/only-api" in explanation, seen="default/only-api")
            self.cluster.delete("only-api")
            eventually(lambda: self._get_from_shop(self.pods["api-2"].ipv4, 8080)[0]["ok"], "shop's calls after the policy is gone")

    def restart(self) -> None:
        """An agent that is killed takes no connection with it."""
        with self.report.step("The node agent of n1 is killed and comes back"):
            held = self._hold_from_shop("restart")
            agent = self.cluster.agents["n1"]
            agent.stop(signal_number=9)
            answer = self._get_from_shop(self.pods["api-2"].ipv4, 8080)[0]
            self.report.claim(
                "agent dead: known calls go on in mutual TLS", held=answer["ok"], seen=str(answer.get("pod", answer.get("error")))
            )
            begin = time.monotonic()
            self.cluster.start_agent("n1", join=False)
            took = time.monotonic() - begin
            answer = self._get_from_shop(self.pods["api-2"].ipv4, 8080)[0]
            self.report.claim(
                "agent back: ready, the connection from before is still open",
                held=answer["ok"] and held.open,
                seen=f"ready {took:.1f} s after its start, held connection {'open' if held.open else 'CLOSED'}",
            )
            held.stop()

    def metrics(self) -> None:
        """Prometheus metrics with Istio's names."""
        with self.report.step("Metrics of those calls"):
            for node, reporter in (("n1", "source"), ("n2", "destination")):
                host = self.cluster.topology.hosts[node]
                text = run(["curl", "-sS", "--max-time", "5", f"http://{host.ipv4}:15020/metrics"], namespace=host.namespace)
                lines = [
                    line
                    for line in text.splitlines()
                    if line.startswith("istio_tcp_connections_opened_total") and f'reporter="{reporter}"' in line
                ]
                named = [line for line in lines if f'source_principal="{SHOP}"' in line and f'destination_principal="{API}"' in line]
                for line in named[:2]:
                    self.report.show(line)
                opened = sum(float(line.rsplit(" ", 1)[1]) for line in named)
                secured = all('connection_security_policy="mutual_tls"' in line for line in named)
                self.report.claim(
                    f"{node} counts shop's connections to api in mutual TLS (reporter {reporter})",
                    held=opened > 0 and secured,
                    seen=f"{opened:.0f} connections in {len(named)} series",
                )

    def status(self) -> None:
        """`nodeagent status` of each node."""
        for node in ("n1", "n2"):
            with self.report.step(f"nodeagent status on {node}"):
                text = self.cluster.nodeagent(node, "status")
                self.report.show(text)
                here = [pod.name for pod in self.pods.values() if pod.node == node]
                named = [name for name in here if re.search(rf"\b{re.escape(name)}\b", text)]
                self.report.claim(f"it names every pod of {node}", held=named == here, seen=", ".join(named))

    # ---- parts that chapters share

    def _wiretap(self, name: str) -> Wiretap:
        topology = self.cluster.topology
        file = Path(self.cluster.directory) / f"{name}.pcap"
        return Wiretap(topology.router, "to-n2", file, beyond=topology.hosts["n2"].bridge_ipv4)

    def _get_from_shop(self, address: object, port: int, *, count: int = 1) -> list[Any]:
        return self.cluster.get(self.pods["shop"].namespace, address, port, count=count, path=f"/{SECRET}")

    def _hold_from_shop(self, name: str) -> Held:
        return self.cluster.hold(self.pods["shop"].namespace, self.pods["api-2"].ipv4, 9000, name=name)

    def _log_lines(self, node: str, direction: str) -> list[str]:
        lines = self.cluster.nodeagent(node, "logs").splitlines()
        return [line for line in lines if direction in line and SHOP in line]

    def _changes(self, held: Held, name: str, policy: manifests.Manifest, claim: str) -> None:
        self.cluster.apply(name, [policy])
        changed = time.time()
        end = held.end()
        self.report.claim(claim, held=end["at"] - changed < 1, seen=_after(end["at"], changed))

    def _refused(self, claim: str, port: int) -> None:
        answer = self._get_from_shop(self.pods["api-2"].ipv4, port)[0]
        self.report.claim(claim, held=not answer["ok"], seen=str(answer.get("error", answer)))


def _after(at: float, changed: float) -> str:
    return f"{(at - changed) * 1000:.0f} ms after the change"
