"""The labels of a flow: names as Istio's dashboards expect them, values only from what the mesh itself knows.

Headers that a peer sends never become a label: only the certificate is authenticated, so a peer cannot choose its labels or make series.
"""

from enum import StrEnum
from functools import cache, lru_cache
from typing import Final

import msgspec
from msgspec import Raw, Struct

from meshapi.spiffe import IdentityError, WorkloadIdentity
from meshapi.workload import Service, Workload
from nodeagent.ztunnel.protocol import Attributes

UNKNOWN: Final = "unknown"
MUTUAL_TLS: Final = "mutual_tls"
REQUEST_PROTOCOL: Final = "tcp"
LOG: Final = "log"
"""The key of the attributes under which the access log's own fields are (pod names, which metrics leave out for their number)."""

PROBE: Final = "probe"
"""The access log's field for a connection that was let in as a probe; its value says how it was known to be one."""
PROBE_FROM_NODE: Final = "node"
PROBE_OF_KUBELET: Final = "kubelet"

KEPT_PARTS: Final = 4096
"""How many workloads, peers and services are kept encoded: the same few are in most answers."""

RESPONSE_FLAGS: Final = "response_flags"
"""The one label that is not an attribute of the flow: it comes with each counter."""

LABELS: Final = (
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    RESPONSE_FLAGS,
    "connection_security_policy",
)


class Reporter(StrEnum):
    SOURCE = "source"
    DESTINATION = "destination"


class _Part(Struct, frozen=True, gc=False):
    """What one thing adds to the attributes, encoded: members of the object and of its `log`, either may be empty."""

    labels: bytes
    log: bytes


def flow_attributes(
    reporter: Reporter,
    *,
    source: Workload | None = None,
    destination: Workload | None = None,
    service: Service | None = None,
    source_principal: str | None = None,
    destination_principal: str | None = None,
    mutual_tls: bool = False,
    is_probe: bool = False,
) -> Attributes:
    """Returns what the proxy hands back with counters and log entries of a flow; what is missing reads `unknown` in the metrics.

    Principals are SPIFFE ids, given only where they are authenticated or expected by mutual TLS. The reporter of an inbound flow passes
    the source through `authenticated_source` first.
    """
    parts = (
        _flow_part(reporter, mutual_tls),
        _side("source", "src", source, source_principal),
        _side("destination", "dst", destination, destination_principal),
        _NOTHING if service is None else _service_part(service.hostname, service.namespace, service.name),
        _PROBE if is_probe else _NOTHING,
    )
    labels = b",".join([part.labels for part in parts if part.labels])
    log = b",".join([part.log for part in parts if part.log])
    return Raw(b"".join((b"{", labels, _LOG, log, b"}}")))


def authenticated_source(peer: str | None, found: Workload | None) -> Workload | None:
    """Returns the workload found at a client's address if the client's certificate says the same, else None: an address proves nothing."""
    return found if found is not None and peer == str(found.identity) else None


def _side(side: str, short: str, workload: Workload | None, principal: str | None) -> _Part:
    if workload is None:
        return _stranger_part(side, short, principal)
    return _workload_part(
        side,
        short,
        principal,
        workload.name,
        workload.workload_name,
        workload.namespace,
        workload.canonical_name,
        workload.canonical_revision,
        workload.cluster,
    )


@cache
def _flow_part(reporter: Reporter, mutual_tls: bool) -> _Part:
    return _part(
        {
            "reporter": str(reporter),
            "request_protocol": REQUEST_PROTOCOL,
            "connection_security_policy": MUTUAL_TLS if mutual_tls else UNKNOWN,
        },
        {},
    )


@lru_cache(KEPT_PARTS)
def _workload_part(  # noqa: PLR0913, PLR0917 - whatever the part is made of, so that the cache can't give another's
    side: str, short: str, principal: str | None, name: str, workload_name: str, namespace: str, canonical: str, revision: str, cluster: str
) -> _Part:
    return _part(
        {
            f"{side}_workload": workload_name or name,
            f"{side}_canonical_service": canonical,
            f"{side}_canonical_revision": revision,
            f"{side}_workload_namespace": namespace,
            f"{side}_principal": principal or "",
            f"{side}_app": canonical,
            f"{side}_version": revision,
            f"{side}_cluster": cluster,
        },
        {f"{short}.workload": name, f"{short}.namespace": namespace, f"{short}.identity": principal or ""},
    )


@lru_cache(KEPT_PARTS)
def _stranger_part(side: str, short: str, principal: str | None) -> _Part:
    namespace = _namespace(principal)
    return _part(
        {f"{side}_workload_namespace": namespace, f"{side}_principal": principal or ""},
        {f"{short}.namespace": namespace, f"{short}.identity": principal or ""},
    )


@lru_cache(KEPT_PARTS)
def _service_part(hostname: str, namespace: str, name: str) -> _Part:
    return _part(
        {"destination_service": hostname, "destination_service_namespace": namespace, "destination_service_name": name},
        {"dst.service": hostname},
    )


def _part(labels: dict[str, str], log: dict[str, str]) -> _Part:
    return _Part(_members(labels), _members(log))


def _members(values: dict[str, str]) -> bytes:
    """The members of a JSON object, without its braces; what is empty is left out."""
    return msgspec.json.encode({name: value for name, value in values.items() if value})[1:-1]


_NOTHING: Final = _Part(b"", b"")
_PROBE: Final = _part({}, {PROBE: PROBE_FROM_NODE})
_LOG: Final = f',"{LOG}":{{'.encode()


def _namespace(principal: str | None) -> str:
    """The one thing beside the identity itself that a certificate says of its workload."""
    if principal is None:
        return ""
    try:
        return WorkloadIdentity.parse(principal).namespace
    except IdentityError:
        return ""
