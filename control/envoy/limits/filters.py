"""The filters of the limits of a place. They come after those that let requests in: what is refused uses nothing up."""

from collections.abc import Iterable
from typing import Any, Final

from control.envoy.callers import callers_of
from control.envoy.filter_parts import Parts
from control.envoy.guarding import limits_of
from control.envoy.limits.counting import NAME, RULE, CountedRule, counted_rules, noting_parts
from control.envoy.limits.server import LimitServer, limit_server
from control.envoy.messages import Message, new
from control.envoy.naming import ClusterRef
from control.envoy.parts import extension, seconds
from control.envoy.place import Place
from control.envoy.world import World
from control.kinds import RateLimit
from control.kinds.rate_limits import DOMAIN, LIMIT_ENTRY, Limit, OnFailure, Scope

_FILTER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
_ALL: Final = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
PLACE_ENTRY: Final = "place"
REMEMBERED: Final = 4096
"""How many values of its keys a local rule tells apart; those that came last."""
UNCOUNTED_STATUS: Final = 503
"""Of answers where nobody counts and so nobody may pass."""


def limit_parts(world: World, place: Place) -> Parts:
    """Each RateLimit's own filter, oldest first, and ahead of them what they need to know."""
    items = world.ask(limits_of, place)
    if not items:
        return Parts()
    callers = world.ask(callers_of, place.proxy)
    filters = [*noting_parts(items, callers).filters]
    for item in items:
        rules = counted_rules(item, callers)
        if not rules:
            filters.append(_closed(item))
        elif item.spec.scope is Scope.LOCAL:
            filters.append(_local(item, rules))
        else:
            filters.append(_global(item, rules, place, world.ask(limit_server)))
    return Parts(tuple(filters), tuple(item.key for item in items))


def limit_clusters(world: World, place: Place) -> tuple[ClusterRef, ...]:
    """The cluster of who is asked, if anybody is."""
    server = world.ask(limit_server).cluster
    return (server,) if server is not None and _asks(world, place) else ()


def lacks_server(world: World, place: Place) -> bool:
    """Whether somebody is to be asked, and there is nobody."""
    return _asks(world, place) and world.ask(limit_server).cluster is None


def _asks(world: World, place: Place) -> bool:
    return any(item.spec.scope is Scope.GLOBAL for item in world.ask(limits_of, place))


def _closed(item: RateLimit) -> Message:
    """Stands for one whose rules can't be read."""
    return _named(item, "filters.http.rbac.v3.RBAC", rules={"action": "ALLOW"})


def _local(item: RateLimit, rules: Iterable[CountedRule]) -> Message:
    buckets = [{"entries": _bucket_entries(one), "token_bucket": _bucket(one.rule.limit)} for one in rules]
    return _named(
        item,
        "filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=_statistics(item),
        status={"code": item.spec.status},
        filter_enabled=_ALL,
        filter_enforced=_ALL,
        descriptors=buckets,
        rate_limits=[{"actions": list(one.actions)} for one in rules],
        max_dynamic_descriptors={"value": REMEMBERED},
        **_answers(item),
    )


def _bucket_entries(rule: CountedRule) -> list[dict[str, str]]:
    """Without a value, an entry has a bucket for each."""
    return [{"key": RULE, "value": rule.name}, *({"key": key} for key in rule.keys)]


def _bucket(limit: Limit) -> dict[str, Any]:
    return {
        "max_tokens": limit.burst or limit.requests,
        "tokens_per_fill": {"value": limit.requests},
        "fill_interval": {"seconds": limit.per.seconds},
    }


def _global(item: RateLimit, rules: Iterable[CountedRule], place: Place, server: LimitServer) -> Message:
    grpc = {"cluster_name": server.cluster_name, "authority": server.cluster.hostname if server.cluster is not None else ""}
    return _named(
        item,
        "filters.http.ratelimit.v3.RateLimit",
        domain=f"{DOMAIN}{item.metadata.namespace}/{item.metadata.name}",
        stat_prefix=_statistics(item),
        timeout=seconds(server.timeout_s),
        failure_mode_deny=item.spec.on_failure is OnFailure.DENY,
        status_on_error={"code": UNCOUNTED_STATUS},
        rate_limited_status={"code": item.spec.status},
        rate_limit_service={"grpc_service": {"envoy_grpc": grpc, "timeout": seconds(server.timeout_s)}, "transport_api_version": "V3"},
        rate_limits=[{"actions": [*_stated(one.rule.limit, place), *one.actions]} for one in rules],
        **_answers(item),
    )


def _stated(limit: Limit, place: Place) -> list[dict[str, Any]]:
    """What the server must know: it has no configuration of these limits. Each service counts for itself, and each port of a gateway."""
    where = place.service if place.service is not None else f"Gateway {place.proxy}:{place.port}"
    stated = {LIMIT_ENTRY: str(limit), PLACE_ENTRY: where}
    return [{"generic_key": {"descriptor_key": key, "descriptor_value": value}} for key, value in stated.items()]


def _answers(item: RateLimit) -> dict[str, Any]:
    return {
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03" if item.spec.headers else "OFF",
        "rate_limited_as_resource_exhausted": True,
    }


def _statistics(item: RateLimit) -> str:
    return f"rate_limit.{item.metadata.namespace}.{item.metadata.name}"


def _named(item: RateLimit, kind: str, **fields: Any) -> Message:
    return new(_FILTER, **extension(f"{NAME}.{item.metadata.namespace}.{item.metadata.name}", kind, **fields))
