"""What a workload says of itself in the `baggage` header of its tunnels, for peers that label by it: claims, that decide nothing."""

from typing import Final
from urllib.parse import quote

from meshapi.workload import Workload, WorkloadType

_KIND: Final = {
    WorkloadType.DEPLOYMENT: "deployment",
    WorkloadType.CRONJOB: "cronjob",
    WorkloadType.POD: "pod",
    WorkloadType.JOB: "job",
}


def baggage(workload: Workload) -> str:
    """The header's value: members with Istio's names, values percent-encoded (W3C Baggage, 3.3.1); what is not known is left out."""
    members = {
        "k8s.cluster.name": workload.cluster,
        "k8s.namespace.name": workload.namespace,
        f"k8s.{_KIND[workload.workload_type]}.name": workload.workload_name or workload.name,
        "service.name": workload.canonical_name,
        "service.version": workload.canonical_revision,
        "cloud.region": workload.locality.region,
        "cloud.availability_zone": workload.locality.zone,
    }
    return ",".join(f"{name}={quote(value, safe='')}" for name, value in members.items() if value)
