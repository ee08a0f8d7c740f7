"""The filters that a request passes, put together in one place: their order is what security rests on.

Each concern is a *producer*: a translator `(world, place) -> Parts` with the filters that it wants there, and the objects that they come
from. Per-route settings go into the routes' `typed_per_filter_config` under the filter's name.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from control.envoy.filter_parts import Parts
from control.envoy.limits.filters import limit_parts
from control.envoy.lookup import lookup_parts
from control.envoy.messages import new
from control.envoy.parts import extension
from control.envoy.patches.http_filters import Entry, Patched, Rank, patch_http_filters
from control.envoy.patches.spot import spot_at
from control.envoy.place import Place
from control.envoy.rbac.filters import sealed
from control.envoy.security import http_parts, network_parts, token_parts
from control.envoy.wasm.plugins import plugins_in
from control.envoy.world import World
from control.kinds.wasm_plugin import PluginPhase

CORS: Final = "envoy.filters.http.cors"
FAULT: Final = "envoy.filters.http.fault"
GRPC_STATS: Final = "envoy.filters.http.grpc_stats"
ROUTER: Final = "envoy.filters.http.router"


class Phase(IntEnum):
    """The order in which a request meets filters. CORS comes first, because a browser's preflight carries no credentials."""

    CORS = 0
    PLUGINS_AUTHENTICATION = 1
    AUTHENTICATION = 2
    PLUGINS_AUTHORIZATION = 3
    AUTHORIZATION = 4
    LIMITS = 5
    FAULTS = 6
    PLUGINS_STATISTICS = 7
    STATISTICS = 8
    PLUGINS = 9
    ROUTER = 10


Producer = Callable[[World, Place], Parts]


def _always(name: str, kind: str, **fields: Any) -> Producer:
    """A filter that is everywhere, and does what the routes say."""
    message = new("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter", **extension(name, kind, **fields))
    parts = Parts((message,))

    def produce(_world: World, _place: Place) -> Parts:
        return parts

    return produce


HTTP_PRODUCERS: Final[tuple[tuple[Phase, Producer], ...]] = (
    (Phase.CORS, _always(CORS, "filters.http.cors.v3.Cors")),
    (Phase.PLUGINS_AUTHENTICATION, plugins_in(PluginPhase.AUTHN)),
    (Phase.AUTHENTICATION, token_parts),
    (Phase.PLUGINS_AUTHORIZATION, plugins_in(PluginPhase.AUTHZ)),
    (Phase.AUTHORIZATION, http_parts),
    (Phase.LIMITS, limit_parts),
    (Phase.FAULTS, _always(FAULT, "filters.http.fault.v3.HTTPFault")),
    (Phase.PLUGINS_STATISTICS, plugins_in(PluginPhase.STATS)),
    (Phase.STATISTICS, _always(GRPC_STATS, "filters.http.grpc_stats.v3.FilterConfig", stats_for_all_methods={"value": False})),
    (Phase.PLUGINS, plugins_in(PluginPhase.UNSPECIFIED_PHASE)),
    (Phase.ROUTER, lookup_parts),
    (Phase.ROUTER, _always(ROUTER, "filters.http.router.v3.Router")),
)
"""Who adds HTTP filters; within a phase, in this order."""
NETWORK_PRODUCERS: Final[tuple[tuple[Phase, Producer], ...]] = ((Phase.AUTHORIZATION, network_parts),)
"""Who adds network filters ahead of the one that carries bytes or speaks HTTP."""


_PLUGINS: Final = frozenset((Phase.PLUGINS_AUTHENTICATION, Phase.PLUGINS_AUTHORIZATION, Phase.PLUGINS_STATISTICS, Phase.PLUGINS))
_RANKS: Final = {
    Phase.CORS: Rank.PREFLIGHT,
    Phase.PLUGINS_AUTHENTICATION: Rank.AUTHENTICATES,
    Phase.AUTHENTICATION: Rank.AUTHENTICATES,
    Phase.PLUGINS_AUTHORIZATION: Rank.AUTHORIZES,
    Phase.AUTHORIZATION: Rank.AUTHORIZES,
    Phase.LIMITS: Rank.FIXED,
    Phase.FAULTS: Rank.OPEN,
    Phase.PLUGINS_STATISTICS: Rank.FIXED,
    Phase.STATISTICS: Rank.COUNTS,
    Phase.PLUGINS: Rank.FIXED,
    Phase.ROUTER: Rank.FIXED,
}
"""What patches may do beside the filters of each phase, and to them."""


def http_filters(world: World, place: Place, chain: str = "", server_names: tuple[str, ...] = ()) -> Parts:
    """The HTTP filters of a place, patched for its chain (unnamed: that of a service's HTTP); the router is the last."""
    found = [(phase, producer(world, place)) for phase, producer in sorted(HTTP_PRODUCERS, key=lambda entry: entry[0])]
    entries = [Entry(one, Rank.ROUTER if one.name == ROUTER else _RANKS[phase]) for phase, parts in found for one in parts.filters]
    spot = spot_at(world, place, chain, server_names)
    patched = patch_http_filters(world, spot, entries) if spot is not None else Patched(tuple(one.message for one in entries))
    sources = dict.fromkeys((*(source for _, parts in found for source in parts.sources), *patched.sources))
    problems = (*(problem for _, parts in found for problem in parts.problems), *patched.problems)
    foreign = patched.sources or any(parts.filters for phase, parts in found if phase in _PLUGINS)
    return Parts(sealed(patched.filters) if foreign else patched.filters, tuple(sources), problems)


def network_filters(world: World, place: Place) -> Parts:
    """The network filters of a place that carries TCP."""
    return _assembled(world, place, NETWORK_PRODUCERS)


def _assembled(world: World, place: Place, producers: tuple[tuple[Phase, Producer], ...]) -> Parts:
    ordered = sorted(producers, key=lambda entry: entry[0])
    parts = [producer(world, place) for _, producer in ordered]
    sources = dict.fromkeys(source for part in parts for source in part.sources)
    return Parts(tuple(one for part in parts for one in part.filters), tuple(sources))
