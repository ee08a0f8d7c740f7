"""Checks of VirtualService beyond its types, as far as one object can be judged alone."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from msgspec import Struct

from control.kinds import VirtualService
from control.kinds.routing import MESH, HTTPMatch, HTTPRoute, L4Match, RegexRewrite, StringMatch, TCPRoute, TLSMatch, TLSRoute
from control.validation import values
from control.validation.core_checks import Path, attempt
from control.validation.finding import Remark, warning
from control.validation.http_route_checks import destination_remarks, gateway_remarks, http_route_remarks, source_remarks, weight_remarks

MAX_REGEXES: Final = 200
"""In one object: each can take the engine some milliseconds."""


def virtual_service_remarks(service: VirtualService) -> Iterator[Remark]:
    spec = service.spec
    if (count := regex_count(spec)) > MAX_REGEXES:
        # Ahead of all else: to judge each of them takes time.
        yield Remark(("spec",), f"{count} regular expressions: at most {MAX_REGEXES}")
        return
    if not (spec.http or spec.tls or spec.tcp):
        yield Remark(("spec",), "has no routes", "give it http, tls or tcp")
    yield from gateway_remarks(spec.gateways, ("spec", "gateways"))
    yield from _host_remarks(service)
    yield from export_remarks(spec.export_to)
    for index, route in enumerate(spec.http):
        yield from http_route_remarks(route, ("spec", "http", index))
    for index, tls in enumerate(spec.tls):
        yield from _tls_remarks(tls, service, ("spec", "tls", index))
    for index, tcp in enumerate(spec.tcp):
        yield from _tcp_remarks(tcp, ("spec", "tcp", index))
    yield from _delegation_remarks(service)
    yield from _unreachable_remarks(service)


def regex_count(part: object) -> int:
    """How many regular expressions there are in a part of a resource."""
    match part:
        case StringMatch():
            return part.regex is not None
        case RegexRewrite():
            return 1
        case Struct():
            return sum(regex_count(getattr(part, name)) for name in part.__struct_fields__)
        case tuple():
            return sum(map(regex_count, part))
        case dict():
            return sum(map(regex_count, part.values()))
    return 0


def export_remarks(export_to: tuple[str, ...]) -> Iterator[Remark]:
    """Which namespaces something is for: `*` all, `.` its own, or their names."""
    for index, text in enumerate(export_to):
        if text == "~" and len(export_to) > 1:
            yield Remark(("spec", "exportTo", index), "nowhere, and somewhere else, too", "keep one of them")
        elif text not in {"*", ".", "~"}:
            yield from attempt(values.label_name, text, ("spec", "exportTo", index))


def routed_host(text: str) -> str:
    """A host that routes are for: a name, `*.name`, `*`, or an address."""
    if text == "*":
        return text
    try:
        values.address(text)
    except ValueError:
        return values.host(text)
    return text


def _host_remarks(service: VirtualService) -> Iterator[Remark]:
    spec = service.spec
    seen: set[str] = set()
    for index, host in enumerate(spec.hosts):
        path: Path = ("spec", "hosts", index)
        yield from attempt(routed_host, host, path)
        if host in seen:
            yield Remark(path, f"the host {host[:80]} stands here twice")
        seen.add(host)
        if host == "*" and (not spec.gateways or MESH in spec.gateways):
            yield Remark(path, "* would take every host of the mesh", "name hosts, or gateways other than mesh")


def _tls_remarks(route: TLSRoute, service: VirtualService, path: Path) -> Iterator[Remark]:
    if not route.match:
        yield Remark((*path, "match"), "a TLS route needs a match with sniHosts")
    hosts = frozenset(service.spec.hosts)
    for index, match in enumerate(route.match):
        here: Path = (*path, "match", index)
        yield from _l4_match_remarks(match, here)
        if not match.sni_hosts:
            yield Remark((*here, "sniHosts"), "needs a name")
        for at, name in enumerate(match.sni_hosts):
            yield from attempt(routed_host, name, (*here, "sniHosts", at))
            if hosts and hosts.isdisjoint(covering(name)):
                yield Remark((*here, "sniHosts", at), f"{name[:80]} is none of the hosts", "add it to spec.hosts")
    yield from _l4_route_remarks(route, path)


@lru_cache(maxsize=10_000)
def covering(host: str) -> tuple[str, ...]:
    """The names by which rules can mean a host, the most specific first: itself, then ever shorter wildcards.

    Of an address only itself; of a wildcard those that cover all of it.
    """
    try:
        values.address(host)
    except ValueError:
        labels = host.removeprefix("*.").split(".")
        first = 0 if host.startswith("*.") else 1
        return tuple(dict.fromkeys((host, *(f"*.{'.'.join(labels[index:])}" for index in range(first, len(labels))), "*")))
    return (host, "*")


def _tcp_remarks(route: TCPRoute, path: Path) -> Iterator[Remark]:
    for index, match in enumerate(route.match):
        here: Path = (*path, "match", index)
        yield from _l4_match_remarks(match, here)
        if match.source_subnet:
            yield from attempt(values.block, match.source_subnet, (*here, "sourceSubnet"))
    yield from _l4_route_remarks(route, path)


def _l4_match_remarks(match: TLSMatch | L4Match, path: Path) -> Iterator[Remark]:
    for index, text in enumerate(match.destination_subnets):
        yield from attempt(values.block, text, (*path, "destinationSubnets", index))
    yield from source_remarks(match.port, match.source_labels, match.source_namespace, path)
    yield from gateway_remarks(match.gateways, (*path, "gateways"))


def _l4_route_remarks(route: TLSRoute | TCPRoute, path: Path) -> Iterator[Remark]:
    if not route.route:
        yield Remark(path, "leads nowhere", "give it a route")
    yield from weight_remarks([one.weight for one in route.route], path)
    for index, one in enumerate(route.route):
        yield from destination_remarks(one.destination, (*path, "route", index, "destination"))


def _delegation_remarks(service: VirtualService) -> Iterator[Remark]:
    spec = service.spec
    if not service.delegated:
        return
    if spec.gateways:
        yield Remark(("spec", "gateways"), "without hosts it is there to be delegated to: gateways are the other one's business")
    if spec.tls or spec.tcp:
        yield Remark(("spec",), "only http routes can be delegated", "name hosts, or remove tls and tcp")
    for index, route in enumerate(spec.http):
        if route.delegate is not None:
            yield Remark(("spec", "http", index, "delegate"), "what is delegated to does not delegate again")


def _unreachable_remarks(service: VirtualService) -> Iterator[Remark]:
    caught = next((index for index, route in enumerate(service.spec.http) if catches_all(route)), None)
    if caught is not None and caught + 1 < len(service.spec.http):
        what = f"is never reached: http[{caught}] takes every request"
        yield warning(("spec", "http", caught + 1), what, "put the route without conditions last")


def catches_all(route: HTTPRoute) -> bool:
    """Whether no request goes on to the next route."""
    return not route.match or any(_takes_all(match) for match in route.match)


def _takes_all(match: HTTPMatch) -> bool:
    anything = match.uri is None or match.uri.prefix == "/" or match.uri.regex == ".*"
    narrowing = (
        match.scheme, match.method, match.authority, match.headers, match.without_headers, match.query_params, match.port,
        match.source_labels, match.source_namespace, match.gateways,
    )  # fmt: skip
    return anything and not any(narrowing)
