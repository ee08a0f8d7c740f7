"""The labels of a flow: names as Istio's dashboards expect them, values only from what the mesh itself knows.

Headers that a peer sends never become a label: only the certificate is authenticated, so a peer cannot choose its labels or make series.
"""

from enum import StrEnum
from typing import Final

from meshapi.spiffe import IdentityError, WorkloadIdentity
from meshapi.workload import Service, Workload
from nodeagent.ztunnel.protocol import Attributes

UNKNOWN: Final = "unknown"
MUTUAL_TLS: Final = "mutual_tls"
REQUEST_PROTOCOL: Final = "tcp"
LOG: Final = "log"
"""The key of the attributes under which the access log's own fields are (pod names, which metrics leave out for their number)."""

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


def flow_attributes(
    reporter: Reporter,
    *,
    source: Workload | None = None,
    destination: Workload | None = None,
    service: Service | None = None,
    source_principal: str | None = None,
    destination_principal: str | None = None,
    mutual_tls: bool = False,
) -> Attributes:
    """Returns what the proxy hands back with counters and log entries of a flow; what is missing reads `unknown` in the metrics.

    Principals are SPIFFE ids, given only where they are authenticated or expected by mutual TLS. The reporter of an inbound flow passes
    the source through `authenticated_source` first.
    """
    labels = {
        "reporter": str(reporter),
        **_side("source", source, source_principal),
        **_side("destination", destination, destination_principal),
        "request_protocol": REQUEST_PROTOCOL,
        "connection_security_policy": MUTUAL_TLS if mutual_tls else UNKNOWN,
    }
    log = {**_log_side("src", source, source_principal), **_log_side("dst", destination, destination_principal)}
    if service is not None:
        labels |= {
            "destination_service": service.hostname,
            "destination_service_namespace": service.namespace,
            "destination_service_name": service.name,
        }
        log["dst.service"] = service.hostname
    return {**{name: value for name, value in labels.items() if value}, LOG: {name: value for name, value in log.items() if value}}


def authenticated_source(peer: str | None, found: Workload | None) -> Workload | None:
    """Returns the workload found at a client's address if the client's certificate says the same, else None: an address proves nothing."""
    return found if found is not None and peer == str(found.identity) else None


def _side(side: str, workload: Workload | None, principal: str | None) -> dict[str, str]:
    if workload is None:
        return {f"{side}_workload_namespace": _namespace(principal), f"{side}_principal": principal or ""}
    return {
        f"{side}_workload": workload.workload_name or workload.name,
        f"{side}_canonical_service": workload.canonical_name,
        f"{side}_canonical_revision": workload.canonical_revision,
        f"{side}_workload_namespace": workload.namespace,
        f"{side}_principal": principal or "",
        f"{side}_app": workload.canonical_name,
        f"{side}_version": workload.canonical_revision,
        f"{side}_cluster": workload.cluster,
    }


def _log_side(side: str, workload: Workload | None, principal: str | None) -> dict[str, str]:
    if workload is None:
        return {f"{side}.namespace": _namespace(principal), f"{side}.identity": principal or ""}
    return {f"{side}.workload": workload.name, f"{side}.namespace": workload.namespace, f"{side}.identity": principal or ""}


def _namespace(principal: str | None) -> str:
    """The one thing beside the identity itself that a certificate says of its workload."""
    if principal is None:
        return ""
    try:
        return WorkloadIdentity.parse(principal).namespace
    except IdentityError:
        return ""
