"""What an Envoy is served, in a form for people and programs: Envoy's own JSON, with a line for each resource."""

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


class ReadableResource(Struct, frozen=True):
    """`summary` says the most of it in a line; `sources` are the objects that shaped it."""

    kind: str
    name: str
    version: str
    summary: str
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
    return ReadableResource(kind, name, resource.version, _SUMMARIES[kind](message), sources, content)


def _typed(found: DescriptorPool) -> Any:
    """Any: the stubs know only the pool of the process."""
    return found


def _listener(message: Message) -> str:
    where = message.address.socket_address
    place = f"{where.address}:{where.port_value}" if message.HasField("address") else "inside"
    return f"{place}, {len(message.filter_chains)} filter chain(s)"


def _cluster(message: Message) -> str:
    kinds = type(message).DESCRIPTOR.enum_types_by_name["DiscoveryType"].values_by_number
    policies = type(message).DESCRIPTOR.enum_types_by_name["LbPolicy"].values_by_number
    return f"{kinds[message.type].name}, {policies[message.lb_policy].name}"


def _endpoints(message: Message) -> str:
    places = [_place(one.endpoint.address) for locality in message.endpoints for one in locality.lb_endpoints]
    return f"{len(places)}: {', '.join(places[:4])}{', ...' if len(places) > 4 else ''}" if places else "none"


def _place(address: Message) -> str:
    if address.HasField("envoy_internal_address"):
        return f"{address.envoy_internal_address.endpoint_id} by tunnel"
    return f"{address.socket_address.address}:{address.socket_address.port_value}"


def _routes(message: Message) -> str:
    hosts = message.virtual_hosts
    return f"{len(hosts)} virtual host(s), {sum(len(host.routes) for host in hosts)} route(s)"


_SUMMARIES: Final = {"listeners": _listener, "clusters": _cluster, "endpoints": _endpoints, "routes": _routes}
