"""Checks of a VirtualService's HTTP routes: what Envoy would refuse, and what would do something else than it seems to say."""

from collections.abc import Iterator
from typing import Final

from control.kinds.routing import (
    Destination,
    HeaderOperations,
    Headers,
    HTTPMatch,
    HTTPRetry,
    HTTPRoute,
    StringMatch,
)
from control.validation import http_text, values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.durations import pause, positive
from control.validation.finding import Remark, warning
from control.validation.http_actions_checks import direct_response_remarks, redirect_remarks, rewrite_remarks
from control.validation.http_filter_checks import cors_remarks, fault_remarks, percent_remarks, string_match_remarks

MAX_WEIGHTS: Final = (1 << 32) - 1
RETRY_ON: Final = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
        "retriable-status-codes", "retriable-headers", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal",
        "resource-exhausted", "unavailable",
    }
)  # fmt: skip


def http_route_remarks(route: HTTPRoute, path: Path) -> Iterator[Remark]:
    """One route, as far as it can be judged alone."""
    yield from attempt(http_text.label, route.name, (*path, "name"))
    yield from _action_remarks(route, path)
    for index, match in enumerate(route.match):
        yield from match_remarks(match, (*path, "match", index))
    yield from weight_remarks([one.weight for one in route.route], path)
    for index, one in enumerate(route.route):
        yield from destination_remarks(one.destination, (*path, "route", index, "destination"))
        yield from _header_remarks(one.headers, (*path, "route", index, "headers"))
    yield from _header_remarks(route.headers, (*path, "headers"))
    yield from _mirror_remarks(route, path)
    if route.timeout:
        yield from attempt(pause, route.timeout, (*path, "timeout"))
    if route.retries is not None:
        yield from _retry_remarks(route.retries, (*path, "retries"))
    if route.fault is not None:
        yield from fault_remarks(route.fault, (*path, "fault"))
    if route.cors_policy is not None:
        yield from cors_remarks(route.cors_policy, (*path, "corsPolicy"))


def destination_remarks(destination: Destination, path: Path) -> Iterator[Remark]:
    """Where a route leads."""
    yield from attempt(destination_host, destination.host, (*path, "host"))
    if destination.subset:
        yield from attempt(subset_name, destination.subset, (*path, "subset"))
    if destination.port is not None:
        yield from attempt_port(destination.port.number, (*path, "port", "number"))


def destination_host(text: str) -> str:
    """A service, by its whole name or by the first labels of it."""
    if text.startswith("*"):
        raise ValueError(f"{text[:80]!r} is no single host")
    return values.host(text)


def subset_name(text: str) -> str:
    """A subset's name."""
    return values.label_name(text)


def weight_remarks(weights: list[int], path: Path) -> Iterator[Remark]:
    """The shares of several destinations."""
    if any(weight < 0 for weight in weights) or sum(weights) > MAX_WEIGHTS:
        yield Remark((*path, "route"), f"weights are numbers from 0, {MAX_WEIGHTS} in all at most")
    elif len(weights) > 1 and sum(weights) == 0:
        yield Remark((*path, "route"), "all weights are 0: nothing would be sent anywhere", "give the destinations shares")
    elif len(weights) > 1 and sum(weights) != 100:
        yield warning((*path, "route"), f"the weights add up to {sum(weights)}: each is a share of that, and no percentage")


def match_remarks(match: HTTPMatch, path: Path) -> Iterator[Remark]:
    """One alternative of a route's conditions."""
    yield from attempt(http_text.label, match.name, (*path, "name"))
    yield from attempt(http_text.label, match.stat_prefix, (*path, "statPrefix"))
    for name, one in (("uri", match.uri), ("scheme", match.scheme), ("method", match.method), ("authority", match.authority)):
        if one is not None:
            yield from string_match_remarks(one, (*path, name), absent=False)
    if match.uri is not None:
        yield from _path_match_remarks(match.uri, match, path)
    for group, named in (("headers", match.headers), ("withoutHeaders", match.without_headers)):
        for name, one in named.items():
            yield from _header_match_remarks(name, (*path, group, name))
            yield from string_match_remarks(one, (*path, group, name), absent=True)
    for name, one in match.query_params.items():
        yield from attempt(http_text.plain_value, name, (*path, "queryParams", name))
        yield from string_match_remarks(one, (*path, "queryParams", name), absent=True)
    yield from source_remarks(match.port, match.source_labels, match.source_namespace, path)
    yield from gateway_remarks(match.gateways, (*path, "gateways"))


def _path_match_remarks(uri: StringMatch, match: HTTPMatch, path: Path) -> Iterator[Remark]:
    for text in (uri.exact, uri.prefix):
        if text and (not text.startswith("/") or "?" in text or "#" in text):
            yield Remark((*path, "uri"), f"{text[:80]!r} matches no path: those begin with /, and end ahead of ? and #")
    if uri.regex and match.ignore_uri_case:
        yield Remark((*path, "ignoreUriCase"), "does not work with a regular expression", "begin the expression with (?i)")


def source_remarks(port: int, labels: dict[str, str], namespace: str, path: Path) -> Iterator[Remark]:
    """Conditions on where traffic comes from that HTTP, TLS and TCP share."""
    if port:
        yield from attempt_port(port, (*path, "port"))
    yield from label_remarks(labels, (*path, "sourceLabels"))
    if namespace:
        yield from attempt(values.label_name, namespace, (*path, "sourceNamespace"))


def gateway_remarks(gateways: tuple[str, ...], path: Path) -> Iterator[Remark]:
    """`mesh`, `name` or `namespace/name`."""
    for index, text in enumerate(gateways):
        namespace, slash, name = text.rpartition("/")
        if slash and namespace != ".":
            yield from attempt(values.label_name, namespace, (*path, index))
        yield from attempt(values.object_name, name, (*path, index))


def _header_match_remarks(name: str, path: Path) -> Iterator[Remark]:
    if name.startswith("@request.auth."):
        yield Remark(path, "routing by claims of a token is not supported", "copy the claim to a header with outputClaimToHeaders")
    elif name not in {":method", ":path", ":scheme", ":authority"}:
        yield from attempt(http_text.header_name, name, path)


def _action_remarks(route: HTTPRoute, path: Path) -> Iterator[Remark]:
    actions = {
        "route": bool(route.route),
        "redirect": route.redirect is not None,
        "directResponse": route.direct_response is not None,
        "delegate": route.delegate is not None,
    }
    stated = [name for name, there in actions.items() if there]
    if not stated:
        yield Remark(path, "leads nowhere", "give it a route, a redirect, a directResponse or a delegate")
    if len(stated) > 1:
        yield Remark(path, f"{' and '.join(stated)} at once", "keep one of them")
    if stated in (["redirect"], ["directResponse"]):
        fields = {
            "rewrite": route.rewrite, "retries": route.retries, "timeout": route.timeout, "mirror": route.mirror, "mirrors": route.mirrors,
        }  # fmt: skip
        for name, value in fields.items():
            if value:
                yield Remark((*path, name), f"means nothing beside a {stated[0]}", "remove it")
    yield from _own_action_remarks(route, path)


def _own_action_remarks(route: HTTPRoute, path: Path) -> Iterator[Remark]:
    if route.redirect is not None:
        yield from redirect_remarks(route.redirect, (*path, "redirect"))
    if route.direct_response is not None:
        yield from direct_response_remarks(route.direct_response, (*path, "directResponse"))
    if route.rewrite is not None:
        yield from rewrite_remarks(route, (*path, "rewrite"))
    if route.delegate is not None:
        yield from attempt(values.object_name, route.delegate.name, (*path, "delegate", "name"))
        if route.delegate.namespace:
            yield from attempt(values.label_name, route.delegate.namespace, (*path, "delegate", "namespace"))


def _header_remarks(headers: Headers | None, path: Path) -> Iterator[Remark]:
    if headers is not None:
        yield from _operation_remarks(headers.request, (*path, "request"), {":authority", "host"})
        yield from _operation_remarks(headers.response, (*path, "response"), set())


def _operation_remarks(operations: HeaderOperations, path: Path, special: set[str]) -> Iterator[Remark]:
    for group, named in (("set", operations.set), ("add", operations.add)):
        for name, value in named.items():
            here: Path = (*path, group, name)
            if name.lower() in {":authority", "host"}:
                if name.lower() not in special:
                    yield Remark(here, f"a response has no {name}")
                yield from attempt(http_text.authority, value, here)
                continue
            yield from attempt(http_text.own_header_name, name, here)
            yield from attempt(http_text.header_value, value, here)
    for index, name in enumerate(operations.remove):
        yield from attempt(http_text.own_header_name, name, (*path, "remove", index))
        if name.lower() in {":authority", "host"}:
            yield Remark((*path, "remove", index), f"{name} can't be removed")


def _mirror_remarks(route: HTTPRoute, path: Path) -> Iterator[Remark]:
    if route.mirror is not None and route.mirrors:
        yield Remark((*path, "mirrors"), "mirror and mirrors at once", "keep mirrors")
    if route.mirror is not None:
        yield from destination_remarks(route.mirror, (*path, "mirror"))
    elif route.mirror_percentage is not None:
        yield Remark((*path, "mirrorPercentage"), "a percentage without a mirror", "say where to with mirror")
    yield from percent_remarks(route.mirror_percentage, (*path, "mirrorPercentage"))
    for index, one in enumerate(route.mirrors):
        yield from destination_remarks(one.destination, (*path, "mirrors", index, "destination"))
        yield from percent_remarks(one.percentage, (*path, "mirrors", index, "percentage"))


def _retry_remarks(retries: HTTPRetry, path: Path) -> Iterator[Remark]:
    if not 0 <= retries.attempts <= 1000:
        yield Remark((*path, "attempts"), f"{retries.attempts} attempts: 0 to 1000")
    if not retries.attempts and (retries.per_try_timeout or retries.retry_on):
        yield warning((*path, "attempts"), "0 attempts switch retries off: the rest means nothing")
    for name, text in (("perTryTimeout", retries.per_try_timeout), ("backoff", retries.backoff)):
        if text:
            yield from attempt(positive, text, (*path, name))
    for part in filter(None, (one.strip() for one in retries.retry_on.split(","))):
        status = part.isascii() and part.isdecimal() and 100 <= int(part[:4]) <= 599
        if part not in RETRY_ON and not status:
            yield Remark((*path, "retryOn"), f"{part[:40]!r} is no condition to retry on", "a status code, or one of Envoy's policies")
