"""What the admin socket and the metrics tell of the agent, read from its parts at the moment of asking."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from msgspec.structs import replace

from meshapi.workload import Workload
from nodeagent.admin import mesh, node
from nodeagent.admin.reports import (
    CaptureReport,
    CertificatesReport,
    ConfigurationReport,
    ConnectionReport,
    ControllerReport,
    PolicyReport,
    ProxyReport,
    RemoteWorkloadReport,
    ServiceReport,
    StatusReport,
    UnavailableError,
    WorkloadReport,
)
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.enrolment.tally import OUTBOUND, Tallied
from nodeagent.probes.known import Way
from nodeagent.resolve.explain import Capture
from nodeagent.resolve.explain_probe import KUBELET, explain_probe
from nodeagent.resolve.explanation import Explanation
from nodeagent.resolve.target import pod_uid
from nodeagent.telemetry.gauges import FailingOpen, Readings
from nodeagent.telemetry.kernel.sighting import NOTHING
from nodeagent.ztunnel.protocol import ProxyStatus
from nodeagent.ztunnel.requests import NoAnswerError

if TYPE_CHECKING:
    from nodeagent.agent import Agent


class NodeReports:
    """Implements `admin.server.Agent`."""

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._proxy: ProxyStatus | None = None

    def statuses(self) -> tuple[WorkloadStatus, ...]:
        """How far the enrolment of each workload is."""
        return self._agent.enrolment.status()

    def not_ready(self) -> str | None:
        """Why the node does not serve, None if it does. What was kept from before is as good as what the controller says now."""
        if not self._agent.store.current.policies_arrived:
            return "the mesh's configuration has not arrived"
        if self._agent.sessions.state is None:
            return "the proxy is not connected"
        return None

    async def refresh(self) -> None:
        """Asks kernel and proxy what they counted."""
        await self._agent.prefilter.collect()
        try:
            self._proxy = await self._agent.sessions.report()
        except NoAnswerError:
            self._proxy = None

    def readings(self) -> Readings:
        """For the metrics."""
        agent, connection = self._agent, self._agent.client.status
        age_s = None if connection.last_response_s is None else time.time() - connection.last_response_s
        return Readings(
            connected=connection.connected_since_s is not None,
            config_age_s=age_s,
            workloads=len(agent.residents.uids),
            certificates=agent.identities.states(),
            rejected=agent.client.rejected,
            proxy=self._proxy,
            tcp_telemetry=agent.kernel is not None and not agent.kernel.problem,
            kubelet_connections=agent.probes.connections,
            fail_open=[
                FailingOpen(one.workload.name, one.workload.namespace, one.state is EnrolmentState.OPEN, one.tally.get(Tallied.OPENLY, 0))
                for one in self.statuses()
                if one.workload.terms.fail_open
            ],
            # One that leaves and one that takes its place may have one name.
            opened={
                (one.workload.name, one.workload.namespace): {outcome: one.tally[outcome] for outcome in OUTBOUND}
                for one in self.statuses()
                if one.tally
            },
        )

    async def status(self) -> StatusReport:
        """The whole on one screen."""
        agent = self._agent
        await self.refresh()
        not_ready, probes = self.not_ready(), agent.probes.known()
        report = StatusReport(
            node=agent.config.node,
            trust_domain=agent.config.trust_domain,
            version=version("nodemesh"),
            ready=not_ready is None,
            now_s=time.time(),
            started_s=agent.started_s,
            controller=self._controller(),
            configuration=self._configuration(),
            proxy=self._proxy_report(),
            capture=agent.capture.way.name,
            capture_reason=agent.capture.reason,
            probes=probes.words,
            tcp_telemetry=agent.kernel.problem if agent.kernel else "switched off",
            prefilter=agent.prefilter.summary(),
            dns=agent.dns.summary(),
            workloads=tuple(self.workloads()),
            denials=tuple(node.denial(record) for record in agent.access_log.denials()),
        )
        found = node.problems(
            report,
            runtime=agent.source.runtime.problem,
            installed=agent.source.installation_problem(),
            probes=probes.problem,
            kept=agent.keeper.last_error,
            not_ready=not_ready,
        )
        return replace(report, problems=found)

    def workloads(self) -> list[WorkloadReport]:
        agent = self._agent
        states = {state.identity: state for state in agent.identities.states()}
        reports = []
        for status in agent.enrolment.status():
            identity = agent.residents.identity(status.workload.uid)
            reports.append(node.workload(status, identity, states.get(identity) if identity else None))
        return reports

    def known_workloads(self) -> list[RemoteWorkloadReport]:
        return mesh.workloads(self._agent.store.current)

    def services(self) -> list[ServiceReport]:
        return mesh.services(self._agent.store.current)

    def policies(self) -> list[PolicyReport]:
        return mesh.policies(self._agent.store.current, self._agent.residents.uids)

    def certificates(self) -> CertificatesReport:
        agent = self._agent
        states = [*([agent.credential.state()] if agent.credential is not None else []), *agent.identities.states()]
        return CertificatesReport(
            now_s=time.time(),
            certificates=tuple(node.certificate(state) for state in states),
            roots=node.roots(agent.trust.roots_pem()),
            revocations=len(agent.trust.revocations),
        )

    async def connections(self) -> list[ConnectionReport]:
        try:
            entries = await self._agent.sessions.connections()
        except NoAnswerError as error:
            raise UnavailableError(str(error)) from error
        kernel = self._agent.kernel
        sightings = kernel.sightings(entries, ended=False) if kernel else [NOTHING] * len(entries)
        return [node.connection(entry, sighting) for entry, sighting in zip(entries, sightings, strict=True)]

    async def captures(self) -> list[CaptureReport]:
        agent = self._agent
        return [
            node.capture(
                status,
                await asyncio.to_thread(node.inspect, agent.way, status.workload),
                agent.prefilter.words(status.workload.uid),
            )
            for status in agent.enrolment.status()
        ]

    async def log_lines(self, count: int, *, follow: bool) -> AsyncIterator[str]:
        """The last lines, and with `follow` those that come."""
        log = self._agent.access_log
        # The proxy sends its log in batches, ahead of the report that it is asked for.
        with suppress(NoAnswerError):
            await self._agent.sessions.report()
        records, position = log.recent(count)
        while True:
            for record in records:
                yield log.render(record)
            if not follow:
                return
            records, position = await log.after(position)

    async def explain(self, source: str, destination: str) -> Explanation:
        if source == KUBELET:
            known = self._agent.probes.known()
            return explain_probe(
                self._agent.store.current,
                destination,
                known.words,
                cluster=self._agent.config.cluster,
                is_exempt=known.way is Way.KUBELET,
            )
        return await self._agent.explainer.explain(source, destination, self._captured(source))

    async def down(self, drain_s: float) -> list[str]:
        return await self._agent.down(drain_s)

    def end(self) -> None:
        self._agent.end()

    def go_on_alone(self, for_s: float) -> None:
        self._agent.go_on_alone(for_s)

    def yield_place(self) -> None:
        self._agent.yield_place()

    def _captured(self, source: str) -> Capture | None:
        """How a source that runs here is captured."""
        names = {source, pod_uid(self._agent.config.cluster, source)}
        for status in self._agent.enrolment.status():
            if status.workload.uid in names or source in status.addresses:
                if status.state is EnrolmentState.CAPTURED:
                    past = self._agent.outside is not None and self._agent.outside.reaches(status.workload.uid)
                    return Capture(captured=True, words=f"captured on this node by {status.capture}", past_proxy=past)
                captured = status.state is EnrolmentState.CLOSED
                return Capture(captured, words=f"{status.state.value} on this node ({status.problem or 'not captured'})")
        return None

    def _controller(self) -> ControllerReport:
        agent, now = self._agent, self._agent.client.status
        error = now.last_error
        if now.connected_since_s is None and agent.credential is not None:
            error = error or agent.credential.state().error
        return ControllerReport(
            target=now.target or agent.config.controller.certificate_target,
            connected=now.connected_since_s is not None,
            since_s=now.connected_since_s,
            last_response_s=now.last_response_s,
            error=error,
        )

    def _configuration(self) -> ConfigurationReport:
        agent, snapshot = self._agent, self._agent.store.current
        rejected = {name: error for names in agent.client.rejected.values() for name, error in names.items()}
        return ConfigurationReport(
            current=agent.feed.ready,
            workloads=sum(isinstance(value, Workload) for value in snapshot.workloads.values()),
            services=len(snapshot.services),
            policies=len(snapshot.policies_by_key),
            subscriptions=len(agent.subscriptions),
            rejected={**dict(snapshot.rejected.items()), **rejected},
            missing_policies=mesh.missing_policies(snapshot, agent.residents.uids),
        )

    def _proxy_report(self) -> ProxyReport:
        process, session, gauges = self._agent.supervisor.state, self._agent.sessions.state, self._proxy
        report = ProxyReport(pid=process.pid, restarts=process.restarts, problem=process.problem or None)
        if session is not None:
            report = replace(report, connected=True, since_s=session.since_s, draining=session.draining)
            report = replace(report, held_answers=session.held, waiting_questions=session.waiting)
        if gauges is None:
            return report
        return replace(
            report,
            connections=gauges.connections,
            tunnels_in=gauges.tunnels_in,
            tunnels_out=gauges.tunnels_out,
            resident_bytes=gauges.resident_bytes,
            shed=gauges.shed,
        )
