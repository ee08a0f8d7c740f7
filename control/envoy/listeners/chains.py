"""Filter chains of services and workloads, and the matchers that choose among them."""

from collections.abc import Iterable
from typing import Any, Final

from msgspec import Struct

from control.envoy.access_logs import connection_logs, request_logs
from control.envoy.built import Problem
from control.envoy.filters import http_filters
from control.envoy.listeners.requests import judges_paths, reading, unclaimed
from control.envoy.listeners.tunnel import MANAGER
from control.envoy.logging_rules import logging_at
from control.envoy.messages import Message, message_class, new, packed
from control.envoy.parts import extension
from control.envoy.patches.chains import patch_chain
from control.envoy.patches.spot import spot_at
from control.envoy.place import Place
from control.envoy.tracing import request_tracing
from control.envoy.tracing_rules import tracing_at
from control.envoy.world import World
from control.kinds import ObjectKey

FILTER_CHAIN: Final = "envoy.config.listener.v3.FilterChain"
TCP_PROXY: Final = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_INPUTS: Final = "matching.common_inputs.network.v3"
HTTP_VERSIONS: Final = ("http/1.0", "http/1.1", "h2c")


class Chain(Struct, frozen=True):
    """A filter chain, with what shaped it."""

    message: Message
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


def http_chain(world: World, place: Place, name: str, routes: dict[str, Any], ahead: tuple[dict[str, Any], ...] = ()) -> Chain:
    """Speaks HTTP at a place; `routes`: where its routes are (`rds`) or what (`route_config`); `ahead`: network filters before it."""
    parts = world.ask(http_filters, place, name, ())
    manager = extension(
        "http",
        MANAGER,
        stat_prefix=name,
        http_filters=list(parts.filters),
        **request_logs(world, place),
        **request_tracing(world, place),
        upgrade_configs=[{"upgrade_type": "websocket"}],
        stream_idle_timeout={},
        use_remote_address={"value": False},
        **reading(strict=world.ask(judges_paths, place)),
        **unclaimed(),
        server_header_transformation="PASS_THROUGH",
        proxy_100_continue=True,
        http_protocol_options={"accept_http_10": True, "default_host_for_http_10": _host(place)},
        **routes,
    )
    told, traced = world.ask(logging_at, place), world.ask(tracing_at, place)
    sources, problems = (*parts.sources, *told.sources, *traced.sources), (*parts.problems, *told.problems, *traced.problems)
    return Chain(new(FILTER_CHAIN, name=name, filters=[*ahead, manager]), sources, problems)


def _host(place: Place) -> str:
    """What a request of HTTP/1.0 asks for that names no host."""
    return place.service.partition("/")[2] if place.service is not None else "unnamed"


def described(chain: Chain, metadata: dict[str, Any], sources: tuple[ObjectKey, ...] = ()) -> Chain:
    """The same chain, with what reports are to say of it."""
    message = new(FILTER_CHAIN, name=chain.message.name, filters=list(chain.message.filters), metadata=metadata)
    return Chain(message, (*chain.sources, *sources), chain.problems)


def patched(world: World, place: Place, chain: Chain) -> Chain:
    """The same chain, as EnvoyFilters would have it."""
    found = patch_chain(world, spot_at(world, place, chain.message.name), chain.message)
    return Chain(found.message, (*chain.sources, *found.sources), (*chain.problems, *found.problems))


def logged(world: World, place: Place, carrier: Message) -> Message:
    """A filter that carries connections, with who is told of them."""
    proxying = message_class(TCP_PROXY).FromString(carrier.typed_config.value)
    proxying.MergeFrom(new(TCP_PROXY, **connection_logs(world, place)))
    return new("envoy.config.listener.v3.Filter", name=carrier.name, typed_config=packed(proxying))


def choose(name: str) -> dict[str, Any]:
    """Ends a match: this chain."""
    return {"action": {"name": name, "typed_config": packed(new("google.protobuf.StringValue", value=name))}}


def then(matcher: Message) -> dict[str, Any]:
    """Goes on matching."""
    return {"matcher": matcher}


def by_first_bytes(http: str, otherwise: dict[str, Any]) -> dict[str, Any]:
    """One chain for what begins as HTTP; `otherwise`: how to go on."""
    versions = dict.fromkeys((f"'{version}'" for version in HTTP_VERSIONS), choose(http))
    return then(exactly("ApplicationProtocolInput", versions, otherwise))


def by_server_name(chains: Iterable[tuple[tuple[str, ...], str]], otherwise: str) -> dict[str, Any]:
    """The first of several chains, each with its names (also `*.name`, `*`), that the client of a TLS connection asks for."""
    matchers = [{"predicate": _any_name(names), "on_match": choose(chain)} for names, chain in chains]
    fields: dict[str, Any] = {"matcher_list": {"matchers": matchers}, "on_no_match": choose(otherwise)}
    return then(new("xds.type.matcher.v3.Matcher", **fields))


def _any_name(names: tuple[str, ...]) -> dict[str, Any]:
    found = [{"single_predicate": {"input": extension("ServerNameInput", f"{_INPUTS}.ServerNameInput"), **_name(one)}} for one in names]
    return found[0] if len(found) == 1 else {"or_matcher": {"predicate": found}}


def _name(name: str) -> dict[str, Any]:
    if name == "*":
        # A name, whichever: what asks for none is no TLS that could be told apart.
        return {"value_match": {"safe_regex": {"regex": ".+"}}}
    return {"value_match": {"suffix": name[1:], "ignore_case": True} if name.startswith("*.") else {"exact": name, "ignore_case": True}}


def exactly(by: str, entries: dict[str, Any], otherwise: dict[str, Any] | None = None) -> Message:
    """A matcher of one property of a connection by its values."""
    tree = {"input": extension(by, f"{_INPUTS}.{by}"), "exact_match_map": {"map": entries}}
    fields = {"matcher_tree": tree} | ({"on_no_match": otherwise} if otherwise else {})
    return new("xds.type.matcher.v3.Matcher", **fields)
