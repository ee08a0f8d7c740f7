"""The filters of WasmPlugins at a place. Without its module a plugin fails every request, unless it says that it may be missed."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from control.envoy.built import CLUSTER, Problem, Recipe
from control.envoy.filter_parts import Parts
from control.envoy.messages import Message, new, packed
from control.envoy.parts import extension, seconds
from control.envoy.patches.holding import held_by, names_place
from control.envoy.patches.spot import Spot, spot_at
from control.envoy.place import Place
from control.envoy.proxies import ProxyKey, ProxyKind
from control.envoy.security import key_cluster
from control.envoy.tokens import KeyServer, may_fetch
from control.envoy.wasm.capabilities import CAPABILITIES
from control.envoy.world import World
from control.kinds import WasmPlugin
from control.kinds.wasm_plugin import FailStrategy, PluginPhase, TrafficMode
from control.validation.wasm_checks import module_address

RUNTIME: Final = "envoy.wasm.runtime.v8"
FETCH_S: Final = 10
_TRIES: Final = 3
_FILTER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
_PORTS: Final = {"http": 80, "https": 443}
_POLICIES: Final = {
    FailStrategy.FAIL_CLOSE: "FAIL_CLOSED",
    FailStrategy.FAIL_OPEN: "FAIL_OPEN",
    FailStrategy.FAIL_RELOAD: "FAIL_RELOAD",
}


class Module(Struct, frozen=True):
    """Where a module is to be had; `problem`: why it is not."""

    source: Mapping[str, Any]
    server: KeyServer | None = None
    problem: str = ""


def plugins_in(phase: PluginPhase) -> Callable[[World, Place], Parts]:
    """The producer of the plugins of one phase."""

    def produce(world: World, place: Place) -> Parts:
        return world.ask(_parts, place, phase)

    return produce


def module_servers(world: World, proxy: ProxyKey) -> tuple[Recipe, ...]:
    """The clusters of those from whom a proxy fetches modules."""
    modules = (module_of(world, item) for item in _held(world, proxy))
    servers = {one.server for one in modules if one.server is not None}
    return tuple(Recipe(CLUSTER, server.cluster, key_cluster, (server,)) for server in sorted(servers))


def module_of(world: World, item: WasmPlugin) -> Module:
    """Where the operator lets a module come from."""
    if not item.spec.url:
        return Module({}, problem="there is no module")
    found, allowed = module_address(item.spec.url), world.settings.wasm_sources
    if found.scheme == "file":
        # Directories end with a slash, so that one is not taken for another that begins like it.
        if not any(one.startswith("/") and found.path.startswith(f"{one.rstrip('/')}/") for one in allowed):
            return Module({}, problem=f"the file {found.path[:200]} is in no directory that modules may come from (--wasm-source)")
        return Module({"local": {"filename": found.path}})
    host, port = found.hostname or "", found.port or _PORTS[found.scheme]
    if not may_fetch(host, allowed):
        return Module({}, problem=f"{host[:200]} is no host that modules may come from (--wasm-source)")
    server = KeyServer(host, port, found.scheme == "https")
    remote = {
        "http_uri": {"uri": item.spec.url, "cluster": server.cluster, "timeout": seconds(FETCH_S)},
        "sha256": item.spec.sha256,
        "retry_policy": {"num_retries": {"value": _TRIES}},
    }
    return Module({"remote": remote}, server)


def _parts(world: World, place: Place, phase: PluginPhase) -> Parts:
    spot = spot_at(world, place)
    if spot is None:
        return Parts()
    found = [one for one in _held(world, place.proxy) if one.spec.phase is phase and _holds(world, one, spot)]
    # The highest priority first; `_held` has them oldest first.
    found.sort(key=lambda one: -one.spec.priority)
    filters, problems = [], []
    for item in found:
        module = module_of(world, item)
        # What stands in for an object is told with why it does.
        if module.problem and item.spec.url:
            problems.append(Problem(item.key, f"{module.problem}: {_without(item)}"))
        if not module.problem:
            filters.append(_filter(item, module))
        elif item.spec.fail_strategy is not FailStrategy.FAIL_OPEN:
            filters.append(_failing(item))
    return Parts(tuple(filters), tuple(item.key for item in found), tuple(problems))


def _held(world: World, proxy: ProxyKey) -> tuple[WasmPlugin, ...]:
    keys = world.ask(held_by, WasmPlugin, proxy)
    found = (world.find(WasmPlugin, key.namespace, key.name) for key in keys)
    return tuple(one for one in found if one is not None)


def _holds(world: World, item: WasmPlugin, spot: Spot) -> bool:
    return names_place(world, item, spot) and (not item.spec.match or any(_matches(one, spot) for one in item.spec.match))


def _matches(match: Any, spot: Spot) -> bool:
    """A waypoint is its services' side, a gateway that of who calls them."""
    own = TrafficMode.CLIENT if spot.proxy.kind is ProxyKind.GATEWAY else TrafficMode.SERVER
    if match.mode not in {TrafficMode.UNDEFINED, TrafficMode.CLIENT_AND_SERVER, own}:
        return False
    return not match.ports or spot.port in {port.number for port in match.ports}


def _without(item: WasmPlugin) -> str:
    return "it is missed" if item.spec.fail_strategy is FailStrategy.FAIL_OPEN else "requests fail"


def _filter(item: WasmPlugin, module: Module) -> Message:
    name = f"{item.metadata.namespace}.{item.metadata.name}"
    configuration = packed(new("google.protobuf.StringValue", value=_text(item.spec.plugin_config)))
    variables = {one.name: one.value for one in item.spec.vm_config.env}
    plugin = {
        "name": name,
        "root_id": item.spec.plugin_name,
        "vm_config": {
            # One of its own, so that no plugin reads what another keeps.
            "vm_id": hashlib.blake2b(f"{item.key}".encode(), digest_size=8).hexdigest(),
            "runtime": RUNTIME,
            "code": module.source,
            "environment_variables": {"key_values": variables},
        },
        "configuration": configuration,
        "failure_policy": _POLICIES[item.spec.fail_strategy],
        "capability_restriction_config": {"allowed_capabilities": {one: {} for one in CAPABILITIES}},
    }
    return new(_FILTER, **extension(f"extensions.istio.io/wasmplugin/{name}", "filters.http.wasm.v3.Wasm", config=plugin))


def _failing(item: WasmPlugin) -> Message:
    """In its place: each request fails."""
    abort = {"http_status": 503, "percentage": {"numerator": 100}}
    return new(
        _FILTER, **extension(f"nodemesh.missing/{item.key.namespace}.{item.key.name}", "filters.http.fault.v3.HTTPFault", abort=abort)
    )


def _text(config: Mapping[str, Any]) -> str:
    return msgspec.json.encode(config).decode() if config else ""
