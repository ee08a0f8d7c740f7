"""All open discovery streams: brings each change of the model to the streams that it concerns, and ends those whose right has gone.

For each stream there is an outbox of at most one response per type (the stream's state machine sees to that), so a slow client
costs bounded memory and delays nobody.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from control.ca.callers import Credentials, ProxyRunner
from control.ca.refusal import BusyError
from control.envoy.built import SECRET, SERVED
from control.envoy.proxies import ProxyKey
from control.metrics import Metrics
from control.resources import Changes, ResourceView, TypeURL
from control.xds.connection import AgentStatus, ClosedError, Connection, Follower, ProxyStatus
from control.xds.keys import NO_KEYS, Touched, keys_of
from control.xds.proxies import Proxies, listening
from control.xds.stream import Changed, Received, Ticked
from control.xds.subscription import RequestError
from control.xds.trust import TRUST
from control.xds.workload_names import WORKLOAD
from meshapi import discovery

MAX_STREAMS_PER_NODE = 8
MAX_STREAMS_PER_GATEWAY = 256
"""Four of each Envoy: its configuration, its certificates, what is trusted, and whom its metrics name."""
RUNNERS = frozenset({TRUST, WORKLOAD})
"""What is told to who runs an Envoy, beside the Envoy's configuration."""
log = logging.getLogger(__name__)


class Hub:
    """The streams. All calls come from the event loop's thread."""

    def __init__(
        self, views: Mapping[TypeURL, ResourceView], metrics: Metrics, clock: Callable[[], float], proxies: Proxies | None = None
    ) -> None:
        """`views` are by type. Who runs an Envoy gets those of `RUNNERS`, and what `proxies` has for it; agents get all but `WORKLOAD`."""
        self._views = views
        self._proxies = proxies
        self._metrics = metrics
        self._clock = clock
        self._connections: set[Connection] = set()
        self._per_node: Counter[str] = Counter()
        self._reported_types: set[str] = set()
        metrics.observe_proxies(
            connected=lambda: len(self._envoys),
            refused=lambda: sum(len(one.refusals.all()) for one in self._envoys if one.refusals is not None),
            untranslated=lambda: sum(len(one.proxy.failed) for one in self._envoys if one.proxy is not None),
        )
        self._unwatch = [view.watch(self._changed) for view in {id(view): view for view in views.values()}.values()]

    def close(self) -> None:
        """Stops following the model and closes the streams."""
        for unwatch in self._unwatch:
            unwatch()
        for connection in self._connections:
            connection.end(ClosedError())

    @property
    def connected(self) -> int:
        """How many streams of agents are open."""
        return sum(not isinstance(one.agent, ProxyRunner) for one in self._connections)

    @property
    def _envoys(self) -> list[Connection]:
        return [one for one in self._connections if one.proxy is not None]

    def open(self, agent: Follower, credentials: Credentials) -> Connection:
        """Raises BusyError if the node, or the Gateway, has too many streams open."""
        runner = isinstance(agent, ProxyRunner)
        most = MAX_STREAMS_PER_GATEWAY if runner else MAX_STREAMS_PER_NODE
        views = {one: view for one, view in self._views.items() if (one in RUNNERS if runner else one != WORKLOAD)}
        if self._per_node[agent.node] >= most:
            raise BusyError("streams", f"{agent.node} has {most} streams open")
        connection = Connection(agent, credentials, views, self._clock())
        self._connections.add(connection)
        self._per_node[agent.node] += 1
        return connection

    def leave(self, connection: Connection) -> None:
        self._connections.remove(connection)
        if connection.proxy is not None and self._proxies is not None:
            self._proxies.leave(connection.proxy, connection.changed)
            self._tell_refusals()
        if connection.secrets is not None and self._proxies is not None:
            self._proxies.leave_secrets(connection.secrets)
        self._per_node[connection.agent.node] -= 1
        if not self._per_node[connection.agent.node]:
            del self._per_node[connection.agent.node]

    def receive(self, connection: Connection, request: discovery.Request) -> None:
        """Takes a request; raises RequestError if the stream must end."""
        nacks = connection.stream.nacks
        if connection.proxy is None and request.type_url in SERVED:
            self._attach(connection, request.node)
        if connection.secrets is None and request.type_url == SECRET:
            self._attach_secrets(connection)
        refusals = connection.refusals
        revision = refusals.revision if refusals is not None else 0
        responses = connection.stream.step(Received(request, self._clock()))
        if connection.stream.wants_all(WORKLOAD):
            raise RequestError("workloads are named by their addresses alone")
        connection.send(responses)
        if refusals is not None and refusals.revision != revision:
            self._tell_refusals()
        if connection.proxy is not None and self._proxies is not None:
            self._proxies.judge(connection.proxy, connection.verdicts())
        if connection.stream.nacks > nacks:
            self._metrics.nacks.labels(request.type_url).inc()
            log.warning("%s refuses %s: %.1000r", connection.agent.node, request.type_url, request.error)
        self._report_unknown(connection.stream.unknown_types)

    @property
    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._connections)

    def status(self) -> list[AgentStatus]:
        """Of the agents."""
        agents = (connection.status() for connection in self._connections if not isinstance(connection.agent, ProxyRunner))
        return sorted(agents, key=lambda one: (one.node, one.since_s))

    def followers(self) -> list[AgentStatus]:
        """Of whoever is told what is trusted: agents, and who runs an Envoy, which has streams of other things, too."""
        found = ((connection.agent, connection.status()) for connection in self._connections)
        return [one for agent, one in found if not (isinstance(agent, ProxyRunner) and _about_others(one))]

    def proxy_status(self) -> list[ProxyStatus]:
        """Of the Envoys."""
        lacking = {one.agent.node: one.secrets.problems for one in self._connections if one.secrets is not None}
        found = (connection.proxy_status(lacking.get(connection.agent.node, {})) for connection in self._connections)
        return sorted((one for one in found if one is not None), key=lambda one: (one.proxy, one.client, one.since_s))

    def tick(self) -> None:
        """Time has passed: to be called about once a second."""
        for connection in self._connections:
            connection.send(connection.stream.step(Ticked(self._clock())))

    def _tell_refusals(self) -> None:
        if self._proxies is not None:
            self._proxies.refused(one for connection in self._connections for one in connection.told_refusals())

    def _attach(self, connection: Connection, node: discovery.Node | None) -> None:
        """Gives a stream what its Gateway's Envoys are served: the certificate decides which that is, the node at most where it listens."""
        agent = connection.agent
        if self._proxies is None or not isinstance(agent, ProxyRunner):
            return
        listen = listening(node) if node is not None else ()
        connection.proxy = self._proxies.join(ProxyKey(agent.namespace, agent.gateway), listen, connection.changed)
        connection.stream.add_views(dict.fromkeys(SERVED, connection.proxy))

    def _attach_secrets(self, connection: Connection) -> None:
        """Likewise its certificates: a stream of their own, which only who runs that Gateway's Envoys has."""
        agent = connection.agent
        if self._proxies is not None and isinstance(agent, ProxyRunner):
            connection.secrets = self._proxies.join_secrets(ProxyKey(agent.namespace, agent.gateway), connection.changed)
            connection.stream.add_views({SECRET: connection.secrets})

    def _changed(self, changes: Changes) -> None:
        concerned = [one for one in self._connections if _concern(changes, one)]
        if not concerned:
            return
        event = Changed({type_url: self._touched(type_url, names) for type_url, names in changes.items() if type_url in self._views})
        for connection in concerned:
            connection.send(connection.stream.step(event))

    def _touched(self, type_url: TypeURL, names: Collection[str]) -> Touched:
        touched: dict[str, tuple[str, ...]] = {}
        for name in names:
            resource = self._views[type_url].get(type_url, name)
            keys = keys_of(type_url, resource) if resource else NO_KEYS
            touched[name] = (*keys.aliases, *keys.serves)
        return touched

    def _report_unknown(self, types: set[str]) -> None:
        for type_url in types - self._reported_types:
            # Once each, and not without end: the names come from clients.
            if len(self._reported_types) < 100:
                self._reported_types.add(type_url)
                log.warning("an agent asks for %.200r, which this controller does not have", type_url)


def _concern(changes: Changes, connection: Connection) -> bool:
    types = changes.keys()
    return bool(types & RUNNERS if isinstance(connection.agent, ProxyRunner) else types - {WORKLOAD})


def _about_others(status: AgentStatus) -> bool:
    """Whether a stream is, as far as was asked, not for what is trusted."""
    return bool(status.types) and all(one.type_url != TRUST for one in status.types)
