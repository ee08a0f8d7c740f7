"""Which workloads a condition on the labels of clients means: who they are, and at which addresses."""

from msgspec import Struct

from control.envoy.world import World
from control.kinds.routing import HTTPMatch
from control.model.labels import selects
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress, TunnelProtocol

Labels = tuple[tuple[str, str], ...]


class Clients(Struct, frozen=True):
    """The workloads with some labels that come by a tunnel, whose identity is proven."""

    identities: tuple[WorkloadIdentity, ...]
    addresses: tuple[IPAddress, ...]


def clients_of(world: World, match: HTTPMatch) -> Clients | None:
    """Of a condition's labels; None where it asks for none."""
    return world.ask(_clients, tuple(sorted(match.source_labels.items()))) if match.source_labels else None


def _clients(world: World, labels: Labels) -> Clients:
    wanted = dict(labels)
    found = [one.workload for one in world.labelled(labels[0]) if selects(wanted, one.labels)]
    tunnelled = [one for one in found if one.tunnel_protocol is TunnelProtocol.HBONE]
    return Clients(
        identities=tuple(sorted({one.identity for one in tunnelled}, key=str)),
        addresses=tuple(sorted({address for one in tunnelled for address in one.addresses}, key=lambda one: (one.version, int(one)))),
    )
