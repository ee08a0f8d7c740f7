"""What an Envoy is served, in a form for people and programs: Envoy's own JSON, with a line for each resource."""

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from msgspec import Struct

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from control.envoy.messages import Message, message_class, pool
from control.envoy.view import ProxyView
from control.resources import TypeURL

KINDS: Final[dict[str, TypeURL]] = {"listeners": LISTENER, "clusters": CLUSTER, "endpoints": ENDPOINTS, "routes": ROUTES}
"""By the words of the command line."""


HTTP_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


class ReadableResource(Struct, frozen=True):
    """`summary` says the most of it in a line, `details` the rest in some; `sources` are the objects that shaped it."""

    kind: str
    name: str
    version: str
    summary: str
    details: list[str]
    sources: list[str]
    content: dict[str, Any]


def readable(view: ProxyView, kind: str, name: str = "") -> list[ReadableResource]:
    """The resources of a kind, or the one of a name; raises LookupError for a kind or name that is not there."""
    type_url = KINDS.get(kind)
    if type_url is None:
        raise LookupError(f"{kind!r} is none of {', '.join(KINDS)}")
    found = [_readable(view, kind, type_url, one) for one in sorted(view.names(type_url)) if name in {"", one}]
    if name and not found:
        raise LookupError(f"the proxy {view.key} has no {name!r} among its {kind}")
    return found


def _readable(view: ProxyView, kind: str, type_url: TypeURL, name: str) -> ReadableResource:
    resource = view.get(type_url, name)
    if resource is None:
        raise LookupError(name)
    message = message_class(type_url.partition("/")[2]).FromString(resource.body)
    content = json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=_typed(pool()))
    sources = [str(one) for one in view.sources(type_url, name)]
    summary, details = _SUMMARIES[kind](message)
    return ReadableResource(kind, name, resource.version, summary, details, sources, content)


def _typed(found: DescriptorPool) -> Any:
    """Any: the stubs know only the pool of the process."""
    return found


def _listener(message: Message) -> tuple[str, list[str]]:
    where = message.address.socket_address
    place = f"{where.address}:{where.port_value}" if message.HasField("address") else "inside"
    return place, [f"{chain.name}: {', '.join(_filters(chain)) or 'no filter'}" for chain in message.filter_chains]


def _filters(chain: Message) -> Iterator[str]:
    """The names of filters in their order, those of HTTP after the one that speaks it."""
    for one in chain.filters:
        yield one.name
        if one.typed_config.type_url.rpartition("/")[2] == HTTP_MANAGER:
            yield from (inner.name for inner in message_class(HTTP_MANAGER).FromString(one.typed_config.value).http_filters)


def _cluster(message: Message) -> tuple[str, list[str]]:
    kinds = type(message).DESCRIPTOR.enum_types_by_name["DiscoveryType"].values_by_number
    policies = type(message).DESCRIPTOR.enum_types_by_name["LbPolicy"].values_by_number
    return f"{kinds[message.type].name}, {policies[message.lb_policy].name}", []


def _endpoints(message: Message) -> tuple[str, list[str]]:
    lines = []
    for locality in message.endpoints:
        place = "/".join(filter(None, (locality.locality.region, locality.locality.zone, locality.locality.sub_zone)))
        where = f", {place}" if place else ""
        rank = f", rank {locality.priority}" if locality.priority else ""
        lines += [f"{_place(one.endpoint.address)}{_share(one)}{where}{rank}" for one in locality.lb_endpoints]
    return _counted(len(lines), "endpoint"), lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _share(endpoint: Message) -> str:
    weight = endpoint.load_balancing_weight.value
    return f", weight {weight}" if weight > 1 else ""


def _place(address: Message) -> str:
    if address.HasField("envoy_internal_address"):
        return f"{address.envoy_internal_address.endpoint_id} by tunnel"
    return f"{address.socket_address.address}:{address.socket_address.port_value}"


def _routes(message: Message) -> tuple[str, list[str]]:
    lines = []
    for host in message.virtual_hosts:
        lines.append(f"{', '.join(host.domains[:3])}{', ...' if len(host.domains) > 3 else ''}:")
        lines += [f"  {_match(route.match)} -> {_target(route)}" for route in host.routes]
    count = sum(len(host.routes) for host in message.virtual_hosts)
    return f"{_counted(len(message.virtual_hosts), 'host')}, {_counted(count, 'route')}", lines


def _match(match: Message) -> str:
    """The path, and the names of what else is asked for."""
    path = str(match.WhichOneof("path_specifier"))
    texts = {
        "prefix": f"{match.prefix}*",
        "path": match.path,
        "path_separated_prefix": f"{match.path_separated_prefix}[/*]",
        "safe_regex": f"~ {match.safe_regex.regex}",
        "connect_matcher": "CONNECT",
    }
    more = [f"header {one.name}" for one in match.headers] + [f"query {one.name}" for one in match.query_parameters]
    return " and ".join([texts.get(path, path), *more, *(["some clients"] if match.filter_state else [])])


def _target(route: Message) -> str:
    if route.HasField("redirect"):
        return f"redirect to {route.redirect.host_redirect or 'the same host'}{route.redirect.path_redirect}"
    if route.HasField("direct_response"):
        return f"answer {route.direct_response.status}"
    if route.route.HasField("weighted_clusters"):
        return ", ".join(f"{one.name} by {one.weight.value}" for one in route.route.weighted_clusters.clusters)
    return str(route.route.cluster)


_SUMMARIES: Final = {"listeners": _listener, "clusters": _cluster, "endpoints": _endpoints, "routes": _routes}
