"""Who counts the requests of global limits: the service that the mesh configuration names."""

from typing import Final

from msgspec import Struct

from control.envoy.asked import asked_service
from control.envoy.built import Built, Problem, built
from control.envoy.mesh_options import own_options
from control.envoy.messages import new
from control.envoy.naming import ClusterRef
from control.envoy.parts import http_options
from control.envoy.world import World
from control.kinds import RateLimit
from control.kinds.mesh_config import NAME, OWN_KEY
from control.kinds.rate_limits import Scope
from control.validation.durations import seconds

NOBODY: Final = "rate-limits|nobody"
"""The cluster without endpoints that is asked where there is no server, so that each limit's `onFailure` decides."""
_ANSWER_S: Final = 0.5


class LimitServer(Struct, frozen=True):
    """`cluster`: None where there is none, and then `problem` says why."""

    cluster: ClusterRef | None
    timeout_s: float = _ANSWER_S
    problem: str = ""

    @property
    def cluster_name(self) -> str:
        return self.cluster.name if self.cluster is not None else NOBODY


def limit_server(world: World) -> LimitServer:
    """The server of the mesh."""
    stated = world.ask(own_options).rate_limit_service
    if stated is None:
        where = f"ConfigMap {world.settings.root_namespace}/{NAME}, key {OWN_KEY}"
        return LimitServer(None, problem=f"nobody counts for all: there is no rateLimitService ({where})")
    cluster = asked_service(world, stated.service, stated.port, grpc=True)
    if cluster is not None:
        return LimitServer(cluster, seconds(stated.timeout) if stated.timeout else _ANSWER_S)
    what = f"nobody counts for all: no service {stated.service} of the mesh has a port {stated.port} for gRPC"
    return LimitServer(None, problem=what)


def nobody_cluster(world: World) -> Built:
    """The cluster for where there is no server."""
    assignment = {"cluster_name": NOBODY}
    http2: dict[str, object] = {"explicit_http_config": {"http2_protocol_options": {}}}
    message = new(
        "envoy.config.cluster.v3.Cluster",
        name=NOBODY,
        type="STATIC",
        load_assignment=assignment,
        typed_extension_protocol_options=http_options(**http2),
    )
    problem = world.ask(limit_server).problem
    owners = [item.key for item in world.objects(RateLimit) if item.spec.scope is Scope.GLOBAL]
    return built(NOBODY, message, problems=tuple(Problem(owner, problem) for owner in owners))
