"""Requests of one kind to one endpoint: by what they are told apart, which routes say, since clusters can't."""

from typing import Any

from control.envoy.destinations.rules import policy
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef
from control.envoy.parts import seconds
from control.envoy.proxies import ProxyKey
from control.envoy.world import World
from control.kinds.destination import ConsistentHash
from control.validation.durations import seconds as duration

_POLICY = "envoy.config.route.v3.RouteAction.HashPolicy"


def hash_policies(world: World, proxy: ProxyKey, ref: ClusterRef) -> tuple[Message, ...]:
    """What a request to this cluster is hashed by; nothing where it may go to any endpoint."""
    by = stated_hash(world, proxy, ref)
    return (new(_POLICY, **_by(by)),) if by is not None else ()


def hashed_by_source(world: World, proxy: ProxyKey, ref: ClusterRef) -> bool:
    """Whether connections go by their client's address: all that can be asked of them without reading requests."""
    by = stated_hash(world, proxy, ref)
    return by is not None and by.use_source_ip


def stated_hash(world: World, proxy: ProxyKey, ref: ClusterRef) -> ConsistentHash | None:
    """What the rules of a cluster say."""
    balancer = world.ask(policy, proxy, ref).load_balancer
    return balancer.consistent_hash if balancer is not None else None


def _by(by: ConsistentHash) -> dict[str, Any]:
    if by.http_header_name:
        return {"header": {"header_name": by.http_header_name}}
    if by.http_query_parameter_name:
        return {"query_parameter": {"name": by.http_query_parameter_name}}
    if by.http_cookie is not None:
        cookie: dict[str, Any] = {"name": by.http_cookie.name, "path": by.http_cookie.path}
        if by.http_cookie.ttl:
            cookie["ttl"] = seconds(duration(by.http_cookie.ttl))
        return {"cookie": cookie}
    return {"connection_properties": {"source_ip": True}}
