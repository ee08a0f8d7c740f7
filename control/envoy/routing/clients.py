"""Which workloads a condition on the labels of clients means: who they are, and at which addresses."""

from msgspec import Struct

from control.envoy.world import World
from control.kinds.routing import HTTPMatch
from control.model.labels import selects
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress

Labels = tuple[tuple[str, str], ...]


class Clients(Struct, frozen=True):
    """The workloads with some labels. Also those that take no tunnel: units of a machine come by one all the same."""

    identities: tuple[WorkloadIdentity, ...]
    addresses: tuple[IPAddress, ...]


def clients_of(world: World, match: HTTPMatch) -> Clients | None:
    """Of a condition's labels; None where it asks for none."""
    return world.ask(_clients, tuple(sorted(match.source_labels.items()))) if match.source_labels else None


def _clients(world: World, labels: Labels) -> Clients:
    wanted = dict(labels)
    found = [one.workload for one in world.labelled(labels[0]) if selects(wanted, one.labels)]
    return Clients(
        identities=tuple(sorted({one.identity for one in found}, key=str)),
        addresses=tuple(sorted({address for one in found for address in one.addresses}, key=lambda one: (one.version, int(one)))),
    )
