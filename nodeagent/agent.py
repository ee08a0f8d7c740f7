"""The agent: its parts, how they are put together, and how they run and end."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from meshapi.trust import Revocation as TrustRevocation
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, NAMES_TYPE, TRUST_TYPE
from nodeagent.admin.explaining import Explainer
from nodeagent.bpf.kubelet import KubeletRecorder
from nodeagent.bpf.outbound import Outbound
from nodeagent.capture.choice import choose, redirects, why_no_questions
from nodeagent.capture.ebpf import DIRECTORY, EbpfCapture
from nodeagent.capture.host import AgentsOwn, WithHost
from nodeagent.capture.outside import OutsideDestinations
from nodeagent.capture.units import UnitCapture, WithUnits
from nodeagent.config import Config, JoinedMachine, LogFormat, Outside
from nodeagent.control_link import ControlLink, read_roots
from nodeagent.dns.directory import Directory
from nodeagent.dns.endpoints import HeadlessEndpoints
from nodeagent.dns.held import HeldNames
from nodeagent.dns.owner import DNSOwner
from nodeagent.dns.server import Knowledge
from nodeagent.enrolment import records
from nodeagent.enrolment.owner import Enrolment
from nodeagent.feed import Feed
from nodeagent.identity.authority import CertificateService
from nodeagent.identity.keeper import IdentityKeeper
from nodeagent.identity.trust import Trust
from nodeagent.linux import memory
from nodeagent.linux.cgroups import own_directory
from nodeagent.linux.namespaces import Namespace
from nodeagent.prefilter.owner import PrefilterOwner
from nodeagent.prefilter.telling import Telling
from nodeagent.probes.known import Probes
from nodeagent.reporting import NodeReports
from nodeagent.residents import ObservedRuntime, Residents
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.interest import Interest
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.source import make_source
from nodeagent.state.files import StateDirectory, private_directory
from nodeagent.state.identities import IdentityFiles
from nodeagent.state.keeper import Keeper
from nodeagent.state.kept import load_kept
from nodeagent.subscriptions import Subscriptions
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.kernel.owner import KernelTelemetry
from nodeagent.telemetry.recorder import Recorder
from nodeagent.telemetry.records import as_json, as_text
from nodeagent.telemetry.sinks import sink_of
from nodeagent.turn import Turn
from nodeagent.ztunnel import transport
from nodeagent.ztunnel.protocol import Revocation, Settings, SetTrust
from nodeagent.ztunnel.proxy_process import ProxyPaths
from nodeagent.ztunnel.sessions import Sessions
from nodeagent.ztunnel.supervisor import BUNDLED, ProxySupervisor
from systemdapi.notify import ServiceManager

if TYPE_CHECKING:
    from nodeagent.telemetry.server import TelemetryServer

log = logging.getLogger(__name__)

DECISIONS_SOCKET: Final = "decisions.sock"
PROXY_LOCK: Final = "proxy.lock"
PROXY_LOG: Final = "proxy.log"
NAMES_OFF: Final = "switched off"
UNINSTALL_DRAIN_S: Final = 5.0
"""What open connections have when the mesh is taken off."""


class Agent:
    """Everything that one node's agent consists of. Made on the event loop; the files that it reads at start are few and small."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started_s = time.time()
        self._ending = asyncio.Event()
        self._yielded = False
        self._is_down = False
        private_directory(config.run_dir)
        self.state = StateDirectory(config.state_dir)
        self.state.prepare()
        self.store = SnapshotStore(Snapshot(root_namespace=config.root_namespace))
        self.trust = Trust(config.trust_domain, read_roots(config.root_ca))
        self.names = Directory()
        self.feed = Feed(self.store, self.trust, self.names, self._on_configuration)
        self._connect_controller()
        self.subscriptions = Subscriptions(self.client, self.store, interest=Interest(), connected=lambda: self.link.connected)
        self.keeper = Keeper(self.state, lambda: self.feed.collect(self.client.wanted, self.client.rejected))
        self._observe()
        self._choose_capture()
        self.sessions = Sessions(
            self.store, self.subscriptions, self.recorder, Settings(), self.outside, succession_drain_s=config.proxy_drain_s
        )
        self._enrol()
        self._refuse()
        self._answer_names()
        self._serve_proxy()
        self._report()

    # ---- putting it together

    def _connect_controller(self) -> None:
        self.link = ControlLink(self.config, self.state, self.trust, self.feed, on_rotated=self._on_rotated)
        self.client, self.credential = self.link.client, self.link.credential

    def _observe(self) -> None:
        config = self.config
        render = as_json if config.log_format is LogFormat.JSON else as_text
        self.access_log = AccessLog(sink_of(config.access_log, render), render)
        self.kernel = KernelTelemetry(self.store, DIRECTORY) if config.tcp_telemetry else None
        self.recorder = Recorder(self.access_log, self.kernel)

    def _choose_capture(self) -> None:
        self.capture = choose(self.config.capture)
        log.info("capture by %s: %s", self.capture.way.name, self.capture.reason)
        units = UnitCapture(DIRECTORY, self.capture.outbound or Outbound(DIRECTORY))
        units.sweep()
        with Namespace.own() as own:
            self.own_connections = AgentsOwn(self.capture.outbound, own_directory()) if self.capture.outbound else None
            self.way = WithUnits(WithHost(self.capture.way, self.own_connections, own.key), units)
        self._no_names = NAMES_OFF if not self.config.dns else why_no_questions(self.capture.way)
        self.outside: OutsideDestinations | None = None
        outbound = self.capture.outbound
        if outbound is not None:
            outbound.forget_outside()
        if outbound is not None and self.config.outside is Outside.DIRECT:
            self.outside = OutsideDestinations(outbound, self._network_of)

    def _network_of(self, uid: str) -> int | None:
        return self.residents.network(uid)

    def _enrol(self) -> None:
        config = self.config
        self.identities = IdentityKeeper(
            CertificateService(self.link.dial),
            IdentityFiles(self.state),
            self.trust,
            on_certificate=self._on_certificate,
            on_forgotten=self.sessions.forget_identity,
        )
        self.residents = Residents(
            trust_domain=config.trust_domain,
            cluster=config.cluster,
            store=self.store,
            subscriptions=self.subscriptions,
            want=self.identities.want,
            has_identity=self.sessions.has_identity,
        )
        self._turn = Turn()
        self.source = make_source(config, self.state, self._turn, self.link.dial)
        observed = ObservedRuntime(self.source.runtime, self._on_workloads, dns=not self._no_names)
        self.probes = Probes(
            config,
            KubeletRecorder(DIRECTORY),
            self.state,
            self.store,
            capture=self.capture.way.name,
            knows_connections=self.capture.outbound is not None,
        )
        self.enrolment = Enrolment(observed, self.way, self.residents.describe, self.state, turned=self._on_turn)
        self.store.watch(lambda _, touched: self.enrolment.touch() if not self.residents.uids.isdisjoint(touched) else None)
        self.trust.watch(self._on_trust)

    def _refuse(self) -> None:
        way = self.capture.way
        self.prefilter = PrefilterOwner(
            self.store,
            way.first_packets if isinstance(way, EbpfCapture) else None,
            self.enrolment.status,
            Telling(self.store, self.recorder),
            enabled=self.config.prefilter,
        )

    def _answer_names(self) -> None:
        HeldNames(self.store, self.names)
        knowledge = Knowledge(self.names, HeadlessEndpoints(self.store, self.subscriptions))
        self.dns = DNSOwner(knowledge, self.enrolment.status, why_not=self._no_names, redirected=redirects(self.capture.way))

    def _serve_proxy(self) -> None:
        config = self.config
        paths = ProxyPaths(
            binary=config.proxy_binary or BUNDLED,
            socket=config.run_dir / DECISIONS_SOCKET,
            lock=config.run_dir / PROXY_LOCK,
            log=config.run_dir / PROXY_LOG,
            arguments=() if config.proxy_workers is None else ("--workers", str(config.proxy_workers)),
            unit=config.proxy_unit,
        )
        self.supervisor = ProxySupervisor(paths, self._serving_pid, drain_s=config.proxy_drain_s, keep_found=not config.in_container)

    def _serving_pid(self) -> int | None:
        state = self.sessions.state
        return None if state is None else state.pid

    def _report(self) -> None:
        config = self.config
        self.reports = NodeReports(self)
        self.explainer = Explainer(self.store, self.subscriptions, cluster=config.cluster, at_syn=self.prefilter.refusal)
        self.telemetry: TelemetryServer | None = None
        """None until it is there: see `_serve_http`."""

    # ---- what one part tells another

    def _on_configuration(self, *, urgent: bool) -> None:
        self.keeper.changed(urgent=urgent)

    def _on_rotated(self) -> None:
        self.identities.retry_now()

    def _on_certificate(self, identity: str, chain_pem: str, key_pem: str) -> None:
        self.sessions.set_identity(identity, chain_pem, key_pem)
        self.enrolment.touch()

    def _on_turn(self) -> None:
        self._turn.tell()
        self.prefilter.touch()
        self.dns.touch()

    def _on_trust(self, roots: Any, revoked: tuple[TrustRevocation, ...]) -> None:
        """Any: a mapping from trust domains to roots (PEM)."""
        self.sessions.set_trust(SetTrust(dict(roots), tuple(Revocation(entry.identity, entry.issued_before_s) for entry in revoked)))

    def _on_workloads(self, workloads: tuple[LocalWorkload, ...]) -> None:
        self._see(workloads)
        self.identities.drop_unwanted()

    def _see(self, workloads: tuple[LocalWorkload, ...]) -> None:
        self.residents.set(workloads)
        if self.kernel is not None:
            self.kernel.see(workloads)

    # ---- running

    async def run(self) -> None:
        """Serves until `end` is called or it is cancelled. Captures stay in force then, and so does the proxy, but in a container."""
        await self._restore()
        tasks: dict[str, Coroutine[Any, Any, Any]] = {
            "controller": self.link.run(),
            "certificates": self.identities.run(),
            "subscriptions": self.subscriptions.run(),
            "state": self.keeper.run(),
            "access log": self.access_log.run(),
            "decisions": transport.serve(
                self.config.run_dir / DECISIONS_SOCKET, lambda session: self.sessions.handle(session, self.enrolment)
            ),
            "proxy": self.supervisor.run(),
            "enrolment": self.enrolment.run(),
            "prefilter": self.prefilter.run(),
            "dns": self.dns.run(),
            "http": self._serve_http(),
            "service manager": ServiceManager().run(self._not_serving),
        }
        tasks |= self.source.tasks(self.reports) | self.probes.tasks()
        if self.credential is not None:
            tasks["credential"] = self.credential.run()
        if self.kernel is not None:
            tasks["kernel telemetry"] = self.kernel.run()
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(part, name=name) for name, part in tasks.items()]
            await self._ending.wait()
            if not self._yielded and not self._is_down and await self.source.uninstalled():
                log.info("the mesh is taken off: its pods go on without it")
                await self.down(UNINSTALL_DRAIN_S)
            elif self.config.in_container:
                await self._end_with_proxy([task for task in running if task.get_name() != "proxy"])
            for task in running:
                task.cancel()

    def _not_serving(self) -> str | None:
        """Why whoever waits for this agent should wait on; None when it serves, and can be asked."""
        if self.telemetry is None or not self.telemetry.addresses:
            return "its ports are not open yet"
        return self.reports.not_ready()

    def end(self) -> None:
        """Ends `run`."""
        self._ending.set()

    def yield_place(self) -> None:
        """Another agent is to serve with this run directory: ends `run`; in a container, not before the proxy has ended."""
        self._yielded = True
        self._ending.set()

    def go_on_alone(self, for_s: float) -> None:
        """What is known stays in force for so long, whatever the controller makes of this node: it leaves, and carries on until it has."""
        self.link.stay_away(for_s)

    async def _end_with_proxy(self, others: list[asyncio.Task[Any]]) -> None:
        """The container goes with this process, and the proxy with the container: what it carries has time to finish."""
        if not self._yielded:
            await self.supervisor.stop(self.config.proxy_drain_s, self.sessions.shutdown)
            return
        for task in others:
            task.cancel()
        await self.supervisor.finish()

    async def down(self, drain_s: float) -> list[str]:
        """Takes the node's workloads out of the mesh, then ends the proxy; returns what was released."""
        self._is_down = True
        released = [f"{status.workload.namespace}/{status.workload.name}" for status in self.enrolment.status()]
        await self.source.remove()
        await self.enrolment.down(drain_s)
        await self.probes.remove()
        await self.supervisor.stop(0.0, self.sessions.shutdown)
        await self.source.settle()
        if self.kernel is not None:
            await self.kernel.leave()
        return released

    async def _restore(self) -> None:
        """Takes up what was kept on the node: the proxy is answered from it before the controller has said a word."""
        await self.identities.load()
        kept = load_kept(self.state)
        self.subscriptions.remember(kept.wanted)
        self.client.restore_answered(kept.answered)
        for url in (TRUST_TYPE, ADDRESS_TYPE, AUTHORIZATION_TYPE, NAMES_TYPE):  # what a later version kept beside them is not for this one
            self.client.restore(url, kept.resources.get(url, ()), kept.rejected.get(url, {}))
        self.feed.restore(kept)
        enrolled = tuple(record.workload for record in records.load(self.state) if not record.leaving)
        self._see(enrolled)
        if any(workload.whole_host for workload in enrolled) or isinstance(self.config.runtime, JoinedMachine):
            await asyncio.to_thread(self._stay_connected)
        known = self.store.current
        log.info("kept from before: %d workloads and %d policies of the mesh", len(known.workloads), len(known.policies_by_key))

    def _stay_connected(self) -> None:
        """The host is captured, or may soon be: what this agent dials before it is exempt would be captured, or cut off then."""
        try:
            with Namespace.own() as own:
                if self.own_connections is not None:
                    self.own_connections.exempt(own)
        except OSError as error:
            log.warning("the agent's own connections are captured: %s", error)

    async def _serve_http(self) -> None:
        """Imports what HTTP needs beside the running loop: the proxy's questions are answered a quarter of a second sooner."""
        web = await asyncio.to_thread(import_module, "nodeagent.web")
        await asyncio.to_thread(memory.settle)
        await web.serve(self)
