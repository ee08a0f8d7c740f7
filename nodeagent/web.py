"""The agent's HTTP: metrics and readiness on the node, the admin socket. Apart, since aiohttp takes long to import."""

import asyncio
from typing import TYPE_CHECKING

from nodeagent.admin.server import AdminServer
from nodeagent.dns.metrics import DNSMetrics
from nodeagent.telemetry.gauges import AgentMetrics
from nodeagent.telemetry.server import TelemetryServer

if TYPE_CHECKING:
    from nodeagent.agent import Agent


async def serve(agent: "Agent") -> None:
    """Serves until it is cancelled; raises OSError if a port or the socket can't be had."""
    telemetry = TelemetryServer(
        metrics=agent.config.metrics_listen,
        readiness=agent.config.ready_listen,
        render=AgentMetrics(
            agent.recorder, agent.reports.readings, agent.kernel.metrics if agent.kernel else None, (DNSMetrics(agent.dns.counts),)
        ).render,
        refresh=agent.reports.refresh,
        not_ready=agent.reports.not_ready,
    )
    agent.telemetry = telemetry
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(telemetry.run(), name="telemetry")
        tasks.create_task(AdminServer(agent.reports, agent.config.run_dir, telemetry.page).run(), name="admin")
