"""Services of the mesh that proxies themselves ask or tell something, as the mesh configuration names them."""

from control.envoy.naming import ClusterRef
from control.envoy.world import World
from meshapi.workload import AppProtocol

SPEAKS_GRPC = frozenset((AppProtocol.GRPC, AppProtocol.HTTP2))


def asked_service(world: World, service: str, number: int, *, grpc: bool = False) -> ClusterRef | None:
    """A port of a host, or of a `namespace/host`; None if there is none. `grpc`: it must say that it speaks it."""
    namespace, _, host = service.rpartition("/")
    for key in world.services_named(host):
        found = world.service(key)
        port = found.port(number) if found is not None and namespace in {"", found.namespace} else None
        if port is not None and (not grpc or port.protocol in SPEAKS_GRPC):
            return ClusterRef(key, number)
    return None
