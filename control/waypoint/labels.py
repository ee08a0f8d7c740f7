"""The labels of requests and connections through this proxy: as Istio's dashboards expect them, and only what the mesh knows."""

from functools import lru_cache
from typing import Final

from msgspec import Struct

from control.envoy.reports import read_rules, split
from control.waypoint.traffic import Protocol, Way
from meshapi.spiffe import IdentityError, WorkloadIdentity

UNKNOWN: Final = "unknown"
WAYPOINT: Final = "waypoint"
SOURCE: Final = "source"
MUTUAL_TLS: Final = "mutual_tls"
MAX_VALUE_CHARS: Final = 512


class Labels(Struct, frozen=True):
    """In Prometheus' text format, without braces. `by_metric`: of those for which there are rules; None: there is no such metric."""

    text: str
    by_metric: dict[str, str | None] = {}

    def of(self, metric: str) -> str | None:
        """For a metric by Istio's name of it."""
        return self.by_metric.get(metric, self.text)


@lru_cache(4096)
def labels_of(way: Way) -> Labels:
    """What is missing reads `unknown`."""
    labels = {
        "reporter": SOURCE if way.own else WAYPOINT,
        **(_gateway(way.source, way.own) if way.own else _source(way.source, way.peer)),
        **_service(way.called or way.dialled),
        **_destination(way.workload, way.identity),
        "request_protocol": way.protocol,
        "response_flags": way.flags,
        # What comes by no tunnel comes to no proxy of this kind.
        "connection_security_policy": MUTUAL_TLS if way.peer else UNKNOWN,
    }
    if way.protocol is not Protocol.TCP:
        labels |= {"response_code": str(way.status), "grpc_response_status": way.grpc_status}
    rules = read_rules(way.rules) if way.rules else {}
    by_metric = {metric: None if rule.disabled else _text(labels, rule.removed) for metric, rule in rules.items()}
    return Labels(_text(labels), by_metric)


def _text(labels: dict[str, str], removed: frozenset[str] = frozenset()) -> str:
    return ",".join(
        f'{name}="{_escaped((value or _missing(name))[:MAX_VALUE_CHARS])}"' for name, value in labels.items() if name not in removed
    )


def _source(text: str, peer: str) -> dict[str, str]:
    name, namespace, canonical, revision, cluster = split(text, 5)
    return {
        "source_workload": name,
        "source_canonical_service": canonical,
        "source_canonical_revision": revision,
        "source_workload_namespace": namespace or _namespace(peer),
        "source_principal": peer,
        "source_app": canonical,
        "source_version": revision,
        "source_cluster": cluster,
    }


def _gateway(text: str, own: str) -> dict[str, str]:
    """Of the proxy itself; while the mesh does not know its workload, it is called as its Gateway is."""
    found = _source(text, own)
    return found | {"source_workload": found["source_workload"] or own.rpartition("/")[2]}


def _service(text: str) -> dict[str, str]:
    hostname, namespace, name = split(text, 3)
    return {"destination_service": hostname, "destination_service_namespace": namespace, "destination_service_name": name}


def _destination(text: str, identity: str) -> dict[str, str]:
    name, namespace, canonical, revision, cluster = split(text, 5)
    return {
        "destination_workload": name,
        "destination_workload_namespace": namespace or _namespace(identity),
        "destination_principal": identity,
        "destination_canonical_service": canonical,
        "destination_canonical_revision": revision,
        "destination_app": canonical,
        "destination_version": revision,
        "destination_cluster": cluster,
    }


def _namespace(identity: str) -> str:
    try:
        return WorkloadIdentity.parse(identity).namespace
    except IdentityError:
        return ""


def _missing(name: str) -> str:
    # Of calls that are no gRPC there is nothing to know.
    return "" if name == "grpc_response_status" else UNKNOWN


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
