"""Checks of DestinationRule beyond its types, as far as one object can be judged alone."""

from collections.abc import Iterator
from typing import Final

from control.kinds import DestinationRule
from control.kinds.destination import (
    ClientTLS,
    ConnectionPool,
    ConsistentHash,
    LoadBalancer,
    LocalityBalancing,
    OutlierDetection,
    PortPolicy,
    SimpleBalancer,
    TCPPool,
    TLSMode,
    TrafficPolicy,
)
from control.validation import http_text, values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.durations import pause, positive, seconds
from control.validation.finding import Remark, warning
from control.validation.http_route_checks import destination_host, subset_name
from control.validation.routing_checks import export_remarks

MAX_COUNT: Final = (1 << 31) - 1
MAX_RING: Final = 8 << 20
MAX_MAGLEV: Final = 5_000_011


def destination_rule_remarks(rule: DestinationRule) -> Iterator[Remark]:
    spec = rule.spec
    yield from attempt(values.host, spec.host, ("spec", "host"))
    yield from export_remarks(spec.export_to)
    if spec.workload_selector is not None:
        path: Path = ("spec", "workloadSelector")
        yield from label_remarks(spec.workload_selector.match_labels, (*path, "matchLabels"))
        if not spec.workload_selector.match_labels:
            yield Remark(path, "a selector without labels", "give it matchLabels or remove it")
    if spec.traffic_policy is not None:
        yield from _policy_remarks(spec.traffic_policy, ("spec", "trafficPolicy"))
    seen: set[str] = set()
    for index, subset in enumerate(spec.subsets):
        path = ("spec", "subsets", index)
        yield from attempt(subset_name, subset.name, (*path, "name"))
        if subset.name in seen:
            yield Remark((*path, "name"), f"the subset {subset.name[:80]} stands here twice")
        seen.add(subset.name)
        yield from label_remarks(subset.labels, (*path, "labels"))
        if subset.traffic_policy is not None:
            yield from _policy_remarks(subset.traffic_policy, (*path, "trafficPolicy"))


def _policy_remarks(policy: TrafficPolicy, path: Path) -> Iterator[Remark]:
    yield from _part_remarks(policy, path)
    seen: set[int] = set()
    for index, port in enumerate(policy.port_level_settings):
        here: Path = (*path, "portLevelSettings", index)
        yield from attempt_port(port.port.number, (*here, "port", "number"))
        if port.port.number in seen:
            yield Remark(here, f"port {port.port.number} stands here twice")
        seen.add(port.port.number)
        yield from _part_remarks(port, here)
    if policy.tunnel is not None:
        yield Remark((*path, "tunnel"), "tunnels of CONNECT through another proxy are not supported")
    if policy.proxy_protocol is not None and policy.proxy_protocol.version not in {"V1", "V2"}:
        yield Remark((*path, "proxyProtocol", "version"), f"{policy.proxy_protocol.version[:40]!r} is neither V1 nor V2")
    if (budget := policy.retry_budget) is not None:
        if budget.percent is not None and not 0 <= budget.percent <= 100:
            yield Remark((*path, "retryBudget", "percent"), f"{budget.percent} is no percentage: 0 to 100")
        yield from _count(budget.min_retry_concurrency, (*path, "retryBudget", "minRetryConcurrency"))


def _part_remarks(policy: TrafficPolicy | PortPolicy, path: Path) -> Iterator[Remark]:
    if policy.load_balancer is not None:
        yield from _balancer_remarks(policy.load_balancer, (*path, "loadBalancer"))
        locality = policy.load_balancer.locality_lb_setting
        if locality is not None and (locality.failover or locality.failover_priority) and policy.outlier_detection is None:
            yield warning(
                (*path, "loadBalancer", "localityLbSetting"), "endpoints that fail are noticed by outlierDetection only", "add it"
            )
    if policy.connection_pool is not None:
        yield from _pool_remarks(policy.connection_pool, (*path, "connectionPool"))
    if policy.outlier_detection is not None:
        yield from _outlier_remarks(policy.outlier_detection, (*path, "outlierDetection"))
    if policy.tls is not None:
        yield from _tls_remarks(policy.tls, (*path, "tls"))


def _balancer_remarks(balancer: LoadBalancer, path: Path) -> Iterator[Remark]:
    if balancer.consistent_hash is not None:
        if balancer.simple is not SimpleBalancer.UNSPECIFIED:
            yield Remark((*path, "simple"), "simple and consistentHash at once", "keep one of them")
        yield from _hash_remarks(balancer.consistent_hash, (*path, "consistentHash"))
    if balancer.warmup is not None:
        yield from _warmup_remarks(balancer, path)
    if balancer.locality_lb_setting is not None:
        yield from _locality_remarks(balancer.locality_lb_setting, (*path, "localityLbSetting"))


def _warmup_remarks(balancer: LoadBalancer, path: Path) -> Iterator[Remark]:
    if balancer.consistent_hash is not None or balancer.simple in {SimpleBalancer.RANDOM, SimpleBalancer.PASSTHROUGH}:
        yield Remark((*path, "warmup"), "works with ROUND_ROBIN and LEAST_REQUEST only")
    if (warmup := balancer.warmup) is not None:
        yield from attempt(positive, warmup.duration, (*path, "warmup", "duration"))
        if warmup.minimum_percent is not None and not 0 <= warmup.minimum_percent <= 100:
            yield Remark((*path, "warmup", "minimumPercent"), f"{warmup.minimum_percent} is no percentage: 0 to 100")
        if warmup.aggression is not None and not 1 <= warmup.aggression <= 1000:
            yield Remark((*path, "warmup", "aggression"), f"{warmup.aggression}: 1 (linear) to 1000")


def _hash_remarks(by: ConsistentHash, path: Path) -> Iterator[Remark]:
    keys = [bool(by.http_header_name), by.http_cookie is not None, by.use_source_ip, bool(by.http_query_parameter_name)]
    if sum(keys) != 1:
        what = "needs one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName"
        yield Remark(path, what if not any(keys) else f"{what}, and one only")
    if by.http_header_name:
        yield from attempt(http_text.header_name, by.http_header_name, (*path, "httpHeaderName"))
    if by.http_cookie is not None:
        yield from attempt(http_text.header_name, by.http_cookie.name, (*path, "httpCookie", "name"))
        if by.http_cookie.path:
            yield from attempt(http_text.path, by.http_cookie.path, (*path, "httpCookie", "path"))
        if by.http_cookie.ttl:
            yield from attempt(seconds, by.http_cookie.ttl, (*path, "httpCookie", "ttl"))
    if by.ring_hash is not None and by.maglev is not None:
        yield Remark((*path, "maglev"), "ringHash and maglev at once", "keep one of them")
    if by.ring_hash is not None and not 0 <= by.ring_hash.minimum_ring_size <= MAX_RING:
        yield Remark((*path, "ringHash"), f"a ring of {by.ring_hash.minimum_ring_size}: at most {MAX_RING}")
    if by.maglev is not None and by.maglev.table_size and not (by.maglev.table_size <= MAX_MAGLEV and _prime(by.maglev.table_size)):
        yield Remark((*path, "maglev", "tableSize"), f"{by.maglev.table_size} is no prime number up to {MAX_MAGLEV}")


def _prime(number: int) -> bool:
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


def _locality_remarks(setting: LocalityBalancing, path: Path) -> Iterator[Remark]:
    stated = [name for name in ("distribute", "failover", "failover_priority") if getattr(setting, name)]
    if "distribute" in stated and len(stated) > 1:
        yield Remark((*path, "distribute"), "distribute and failover at once", "keep one of them")
    yield from _distribute_remarks(setting, path)
    for index, one in enumerate(setting.failover):
        here: Path = (*path, "failover", index)
        for name, region in (("from", one.source), ("to", one.to)):
            if not region or "/" in region or "*" in region:
                yield Remark((*here, name), f"{region[:80]!r} is no region")
        if one.source == one.to:
            yield Remark(here, "fails over to itself")
    for index, label in enumerate(setting.failover_priority):
        yield from attempt(values.label_key, label.partition("=")[0], (*path, "failoverPriority", index))


def _distribute_remarks(setting: LocalityBalancing, path: Path) -> Iterator[Remark]:
    sources: set[str] = set()
    for index, share in enumerate(setting.distribute):
        here: Path = (*path, "distribute", index)
        yield from attempt(locality_pattern, share.source, (*here, "from"))
        if share.source in sources:
            yield Remark((*here, "from"), f"{share.source[:80]} stands here twice")
        sources.add(share.source)
        for place in share.to:
            yield from attempt(locality_pattern, place, (*here, "to", place))
        if any(not 0 < weight <= 100 for weight in share.to.values()) or sum(share.to.values()) != 100:
            yield Remark((*here, "to"), "the shares must be 1 to 100, and add up to 100")


def locality_pattern(text: str) -> str:
    """`region/zone/subzone`, of which the last may be `*` for all of them."""
    if text == "*":
        return text
    plain = text.removesuffix("/*")
    if "*" in plain or not plain or any(not part for part in plain.split("/")):
        raise ValueError(f"{text[:80]!r} is no locality: region/zone/subzone, with * at the end for all")
    values.locality(plain)
    return text


def _pool_remarks(pool: ConnectionPool, path: Path) -> Iterator[Remark]:
    if pool.tcp is not None:
        yield from _tcp_pool_remarks(pool.tcp, (*path, "tcp"))
    if (http := pool.http) is not None:
        here = (*path, "http")
        counts = {
            "http1MaxPendingRequests": http.http1_max_pending_requests,
            "http2MaxRequests": http.http2_max_requests,
            "maxRequestsPerConnection": http.max_requests_per_connection,
            "maxRetries": http.max_retries,
            "maxConcurrentStreams": http.max_concurrent_streams,
        }
        for name, number in counts.items():
            yield from _count(number, (*here, name))
        if http.idle_timeout:
            yield from attempt(pause, http.idle_timeout, (*here, "idleTimeout"))
        if http.use_client_protocol and http.h2_upgrade_policy == "UPGRADE":
            yield Remark((*here, "h2UpgradePolicy"), "UPGRADE and useClientProtocol at once", "keep one of them")


def _tcp_pool_remarks(tcp: TCPPool, path: Path) -> Iterator[Remark]:
    yield from _count(tcp.max_connections, (*path, "maxConnections"))
    for name, text in (("connectTimeout", tcp.connect_timeout), ("maxConnectionDuration", tcp.max_connection_duration)):
        if text:
            yield from attempt(positive, text, (*path, name))
    if tcp.idle_timeout:
        yield from attempt(pause, tcp.idle_timeout, (*path, "idleTimeout"))
    if (alive := tcp.tcp_keepalive) is not None:
        here: Path = (*path, "tcpKeepalive")
        yield from _count(alive.probes, (*here, "probes"))
        for name, text in (("time", alive.time), ("interval", alive.interval)):
            if text:
                yield from attempt(_whole_seconds, text, (*here, name))


def _whole_seconds(text: str) -> None:
    if seconds(text) < 1 or seconds(text) % 1:
        raise ValueError(f"{text[:40]}: the kernel counts this in whole seconds")


def _count(number: int, path: Path) -> Iterator[Remark]:
    if not 0 <= number <= MAX_COUNT:
        yield Remark(path, f"{number} is out of range: 0 to {MAX_COUNT}")


def _outlier_remarks(outlier: OutlierDetection, path: Path) -> Iterator[Remark]:
    counts = {
        "consecutiveLocalOriginFailures": outlier.consecutive_local_origin_failures,
        "consecutiveGatewayErrors": outlier.consecutive_gateway_errors,
        "consecutive5xxErrors": outlier.consecutive_5xx_errors,
    }
    for name, count in counts.items():
        if count is not None:
            yield from _count(count, (*path, name))
    for name, text in (("interval", outlier.interval), ("baseEjectionTime", outlier.base_ejection_time)):
        if text:
            yield from attempt(positive, text, (*path, name))
    for name, percent in (("maxEjectionPercent", outlier.max_ejection_percent), ("minHealthPercent", outlier.min_health_percent)):
        if not 0 <= percent <= 100:
            yield Remark((*path, name), f"{percent} is no percentage: 0 to 100")
    if outlier.consecutive_local_origin_failures is not None and not outlier.split_external_local_origin_errors:
        yield warning((*path, "consecutiveLocalOriginFailures"), "counts only with splitExternalLocalOriginErrors", "set it to true")


def _tls_remarks(tls: ClientTLS, path: Path) -> Iterator[Remark]:
    files = {"clientCertificate": tls.client_certificate, "privateKey": tls.private_key, "caCertificates": tls.ca_certificates}
    if tls.mode is TLSMode.ISTIO_MUTUAL and (any(files.values()) or tls.credential_name):
        yield Remark(path, "ISTIO_MUTUAL uses the mesh's own certificates", "remove the others, or use MUTUAL")
    for name, value in (*files.items(), ("caCrl", tls.ca_crl)):
        if value and not (name == "caCertificates" and value == "system"):
            # A path would be read with the rights of the proxy, whose own key is a file to somebody.
            yield Remark(
                (*path, name), f"{name}: files of the proxy can't be named here", "put them into a secret, and name it by credentialName"
            )
    yield from _mode_remarks(tls, path)
    if tls.sni:
        yield from attempt(destination_host, tls.sni, (*path, "sni"))
    for index, name in enumerate(tls.subject_alt_names):
        yield from attempt(http_text.plain_value, name, (*path, "subjectAltNames", index))


def _mode_remarks(tls: ClientTLS, path: Path) -> Iterator[Remark]:
    if tls.mode is TLSMode.MUTUAL and not tls.credential_name:
        yield Remark(path, "MUTUAL needs a certificate of its own", "name the secret with it by credentialName")
    if tls.credential_name:
        yield from attempt(values.object_name, tls.credential_name, (*path, "credentialName"))
    if tls.mode is TLSMode.SIMPLE and not (tls.credential_name or tls.ca_certificates or tls.insecure_skip_verify):
        yield warning(path, "the server is verified by the system's authorities", "name others by credentialName")
    if tls.insecure_skip_verify:
        yield warning((*path, "insecureSkipVerify"), "whoever answers is taken for the server")
        if tls.subject_alt_names:
            yield Remark((*path, "subjectAltNames"), "means nothing beside insecureSkipVerify", "keep one of them")
    if tls.mode is TLSMode.DISABLE and (tls.sni or tls.subject_alt_names or tls.credential_name):
        yield Remark((*path, "mode"), "DISABLE beside settings of TLS", "say SIMPLE or MUTUAL, or remove them")
