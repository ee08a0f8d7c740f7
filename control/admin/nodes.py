"""What the admin socket says of nodes: what runs on each, whether its agent is connected, and how far it is."""

import msgspec
from aiohttp import web
from msgspec import Struct

from control.model.nodes import NodeSummary, nodes
from control.xds.connection import AgentStatus
from control.xds.hub import Hub
from control.xds.proxies import Proxies


class NodeReport(Struct, frozen=True):
    """`connected` to this replica of the controller. `behind`: its agent has not acknowledged everything yet."""

    node: str
    workloads: int
    captured: int
    unhealthy: int
    machine: bool
    connected: bool
    since_s: float | None = None
    peer: str = ""
    behind: bool = False
    acked_s: float | None = None
    refused: tuple[str, ...] = ()


def node_routes(hub: Hub, proxies: Proxies | None) -> list[web.RouteDef]:
    """The routes; without `proxies` only what is connected is known."""

    async def status(_request: web.Request) -> web.Response:
        known = nodes(proxies.mesh) if proxies is not None else []
        return web.Response(body=msgspec.json.encode(reports(known, hub.status())), content_type="application/json")

    return [web.get("/nodes", status)]


def reports(known: list[NodeSummary], connected: list[AgentStatus]) -> list[NodeReport]:
    """Every node once, by name; of an agent with several streams the newest."""
    streams = {one.node: one for one in sorted(connected, key=lambda one: one.since_s)}
    summaries = {one.node: one for one in known}
    found = []
    for node in sorted(summaries.keys() | streams.keys()):
        summary, stream = summaries.get(node, NodeSummary(node)), streams.get(node)
        about = (node, summary.workloads, summary.captured, summary.unhealthy, summary.machine)
        found.append(NodeReport(*about, connected=False) if stream is None else _connected(about, stream))
    return found


def _connected(about: tuple[str, int, int, int, bool], stream: AgentStatus) -> NodeReport:
    types = stream.types
    return NodeReport(
        *about,
        connected=True,
        since_s=stream.since_s,
        peer=stream.peer,
        behind=any(one.pending for one in types) or not types,
        acked_s=max((one.acked_s for one in types if one.acked_s is not None), default=None),
        refused=tuple(f"{one.type_url.rpartition('/')[2]}: {one.last_nack.message}" for one in types if one.last_nack is not None),
    )
