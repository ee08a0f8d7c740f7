"""What a WorkloadEntry says of the machine that it is for: where it is, whether it is connected, whether it is healthy.

The annotations are those of Istio's auto-registration, where it has one for the purpose.
"""

from typing import Final

from control.kinds import WorkloadEntry, WorkloadGroup
from meshapi.vm import GroupName

GROUP: Final = "istio.io/autoRegistrationGroup"
CONTROLLER: Final = "istio.io/workloadController"
CONNECTED_AT: Final = "istio.io/connectedAt"
DISCONNECTED_AT: Final = "istio.io/disconnectedAt"
SEEN_AT: Final = "nodemesh.io/seenAt"
"""When its controller last had it, which says of a controller that has died that it has."""
HEALTH_CHECKED: Final = "proxy.istio.io/health-checks-enabled"
HEALTHY: Final = "Healthy"
"""The type of the condition."""
NODE: Final = "nodemesh.io/node"
SHARES_ADDRESS: Final = "nodemesh.io/shares-address"
"""Several workloads are at the address: none of them is found by it."""
OTHER_ADDRESS: Final = "nodemesh.io/other-address"
"""Where it is reached by the IP version that `spec.address` is not of: an entry has room for one."""
ALLOWED_ADDRESSES: Final = "nodemesh.io/allowed-addresses"
"""Of a WorkloadGroup: blocks from which its machines may choose an address; without, theirs is where they connect from."""
OWN: Final = (GROUP, CONTROLLER, CONNECTED_AT, DISCONNECTED_AT, SEEN_AT, HEALTH_CHECKED, NODE, SHARES_ADDRESS, OTHER_ADDRESS)
"""What only a controller writes: a group that asks for one of them does not get it."""
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})


def node_of(entry: WorkloadEntry) -> str:
    """The node that it runs on; empty for one that no machine has registered."""
    return entry.metadata.annotations.get(NODE, "") if group_of(entry) is not None else ""


def group_of(entry: WorkloadEntry) -> GroupName | None:
    """The group that it was made from; None for one that a person wrote."""
    name = entry.metadata.annotations.get(GROUP)
    return GroupName(entry.metadata.namespace, name) if name else None


def allowed_addresses(group: WorkloadGroup) -> list[str]:
    """The blocks of its annotation, as written."""
    return [text.strip() for text in group.metadata.annotations.get(ALLOWED_ADDRESSES, "").split(",") if text.strip()]


def shares_address(entry: WorkloadEntry) -> bool:
    return entry.metadata.annotations.get(SHARES_ADDRESS) == "true"


def other_address(entry: WorkloadEntry) -> str:
    """As written; empty for one that no machine has registered."""
    return entry.metadata.annotations.get(OTHER_ADDRESS, "") if node_of(entry) else ""


def healthy(entry: WorkloadEntry) -> bool:
    """As Istio has it: with health checks, what is not known to be healthy is not."""
    if entry.metadata.deletion_timestamp:
        return False
    if entry.metadata.annotations.get(HEALTH_CHECKED) not in _TRUE:
        return True
    return any(one.type == HEALTHY and one.status == "True" for one in entry.status.conditions)
