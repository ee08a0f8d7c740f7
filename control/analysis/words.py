"""Routes, and how endpoints are called, in words: a line for each, with the numbers that somebody would look up otherwise."""

from collections.abc import Iterator

from control.envoy.destinations.rules import Policy
from control.envoy.routing.api_model import Nowhere, PathRedirect, SeparatedPrefix
from control.kinds.destination import ConsistentHash, LoadBalancer, OutlierDetection, TLSMode
from control.kinds.routing import Destination, HTTPFault, HTTPMatch, HTTPRedirect, HTTPRoute, L4Match, Percent, StringMatch, TLSMatch


def route_words(route: HTTPRoute) -> str:
    """What a route asks for, and what becomes of requests that meet it."""
    conditions = " or ".join(_match(match) for match in route.match) or "anything"
    return f"{conditions} -> {_action(route)}"


def connection_words(kind: str, matches: tuple[TLSMatch, ...] | tuple[L4Match, ...], destinations: list[tuple[Destination, int]]) -> str:
    """Of a route of TCP or TLS."""
    asked = [part for match in matches for part in _l4_match(match)]
    return f"{kind}{' ' if asked else ''}{', '.join(dict.fromkeys(asked))} -> {_shares(destinations)}"


def calling_words(policy: Policy) -> str:
    """How endpoints are called, as far as rules say it."""
    return ", ".join(_calling(policy)) or "nothing but defaults"


# ---- conditions


def _match(match: HTTPMatch) -> str:
    parts = [f"{name} {_text(value)}" for name in ("uri", "method", "authority", "scheme") if (value := getattr(match, name)) is not None]
    parts += [f"header {name} {_text(value)}" for name, value in match.headers.items()]
    parts += [f"no header {name} {_text(value)}" for name, value in match.without_headers.items()]
    parts += [f"query {name} {_text(value)}" for name, value in match.query_params.items()]
    parts += [f"port {match.port}"] if match.port else []
    parts += [f"from {key}={value}" for key, value in match.source_labels.items()]
    parts += [f"from namespace {match.source_namespace}"] if match.source_namespace else []
    parts += [f"at {' or '.join(match.gateways)}"] if match.gateways else []
    return " and ".join(parts) or "anything"


def _text(match: StringMatch) -> str:
    if isinstance(match, SeparatedPrefix):
        return f"below {match.prefix}"
    return " ".join(f"{name} {getattr(match, name)}" for name in match.stated) or "present"


def _l4_match(match: TLSMatch | L4Match) -> Iterator[str]:
    if isinstance(match, TLSMatch):
        yield from match.sni_hosts
    yield from (f"to {block}" for block in match.destination_subnets)
    if match.port:
        yield f"port {match.port}"


# ---- what becomes of them


def _action(route: HTTPRoute) -> str:
    if route.redirect is not None:
        return f"redirect to {_redirect(route.redirect)}"
    if route.direct_response is not None:
        return f"answer {route.direct_response.status}"
    extras = ", ".join(_extras(route))
    return _shares([(one.destination, one.weight) for one in route.route]) + (f" ({extras})" if extras else "")


def _redirect(redirect: HTTPRedirect) -> str:
    scheme = f"{redirect.scheme}://" if redirect.scheme else ""
    port = f":{redirect.port}" if redirect.port else ""
    path = redirect.uri or (redirect.path.rewrite if isinstance(redirect, PathRedirect) and redirect.path is not None else "")
    return f"{scheme}{redirect.authority or 'the same host'}{port}{path}"


def _shares(destinations: list[tuple[Destination, int]]) -> str:
    total = sum(weight for _, weight in destinations)
    words = []
    for destination, weight in destinations:
        share = f" {100 * weight // total}%" if len(destinations) > 1 and total else ""
        words.append(f"{_destination(destination)}{share}")
    return ", ".join(words)


def _destination(destination: Destination) -> str:
    if isinstance(destination, Nowhere):
        return f"500 ({destination.why})"
    port = f":{destination.port.number}" if destination.port is not None else ""
    return f"{destination.host}{port}" + (f" subset {destination.subset}" if destination.subset else "")


def _extras(route: HTTPRoute) -> Iterator[str]:
    if route.fault is not None:
        yield from _fault(route.fault)
    if (rewrite := route.rewrite) is not None:
        path = rewrite.uri or (rewrite.uri_regex_rewrite.rewrite if rewrite.uri_regex_rewrite is not None else "")
        yield f"as {rewrite.authority}{path}"
    if route.timeout:
        yield f"within {route.timeout}"
    if (retries := route.retries) is not None:
        each = f" of {retries.per_try_timeout} each" if retries.per_try_timeout else ""
        yield f"tried again {retries.attempts} times{each}" if retries.attempts else "not tried again"
    if route.mirror is not None:
        yield f"{_percent(route.mirror_percentage, 100)} mirrored to {_destination(route.mirror)}"
    for one in route.mirrors:
        yield f"{_percent(one.percentage, 100)} mirrored to {_destination(one.destination)}"
    if route.headers is not None or any(one.headers is not None for one in route.route):
        yield "headers changed"
    if route.cors_policy is not None:
        yield "CORS"


def _fault(fault: HTTPFault) -> Iterator[str]:
    if fault.delay is not None:
        yield f"{_percent(fault.delay.percentage, 0)} delayed by {fault.delay.fixed_delay}"
    if fault.abort is not None:
        yield f"{_percent(fault.abort.percentage, 0)} answered {fault.abort.http_status or fault.abort.grpc_status}"


def _percent(stated: Percent | None, otherwise: float) -> str:
    return f"{stated.value if stated is not None else otherwise:g}%"


# ---- endpoints


def _calling(policy: Policy) -> Iterator[str]:
    if policy.load_balancer is not None:
        yield from _balancing(policy.load_balancer)
    pool = policy.connection_pool
    limits = {} if pool is None or pool.tcp is None else {"connections": pool.tcp.max_connections}
    if pool is not None and pool.http is not None:
        http = pool.http
        limits |= {"waiting requests": http.http1_max_pending_requests, "requests": http.http2_max_requests, "retries": http.max_retries}
    yield from (f"at most {count} {what}" for what, count in limits.items() if count)
    if policy.outlier_detection is not None:
        yield _outliers(policy.outlier_detection)
    if policy.tls is not None and policy.tls.mode is not TLSMode.DISABLE:
        yield f"TLS {policy.tls.mode}" + (f" by secret {policy.tls.credential_name}" if policy.tls.credential_name else "")


def _balancing(balancer: LoadBalancer) -> Iterator[str]:
    yield f"by {_hash(balancer.consistent_hash)}" if balancer.consistent_hash is not None else str(balancer.simple)
    if balancer.warmup is not None:
        yield f"new ones warmed up for {balancer.warmup.duration}"


def _hash(by: ConsistentHash) -> str:
    if by.http_cookie is not None:
        return f"cookie {by.http_cookie.name}"
    if by.http_header_name:
        return f"header {by.http_header_name}"
    return f"query {by.http_query_parameter_name}" if by.http_query_parameter_name else "source address"


def _outliers(outlier: OutlierDetection) -> str:
    counts = {"5xx": outlier.consecutive_5xx_errors, "gateway errors": outlier.consecutive_gateway_errors}
    stated = [f"{count} {what}" for what, count in counts.items() if count]
    if not stated and outlier.consecutive_5xx_errors is None:
        stated = ["5 5xx"]
    return f"set aside after {' or '.join(stated) or 'failed connections'} in a row"
