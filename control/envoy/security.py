"""The producers of security: whose tokens are good, and who may ask for what."""

from typing import Final

from control.envoy.built import Built, built
from control.envoy.callers import callers_of
from control.envoy.external import Asking, asking, authorizer, provider_name
from control.envoy.filter_parts import Parts
from control.envoy.guarding import authentication_of, authorization_of
from control.envoy.messages import new
from control.envoy.naming import ClusterRef
from control.envoy.parts import extension, seconds
from control.envoy.place import Place
from control.envoy.rbac.filters import Judges, http_judges, network_judges
from control.envoy.tokens import KeyServer, Tokens, token_filter
from control.envoy.world import World
from control.kinds.security import PolicyAction

SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
_CONNECT_S: Final = 5


def tokens_of(world: World, place: Place) -> Tokens:
    """The token filter of a place, with what it needs."""
    return token_filter(world.ask(authentication_of, place), world.settings.key_hosts)


def token_parts(world: World, place: Place) -> Parts:
    """The filter that verifies tokens, where a policy asks for it."""
    found = world.ask(tokens_of, place)
    if found.filter is None:
        return Parts()
    return Parts((found.filter,), tuple(policy.key for policy in world.ask(authentication_of, place)))


def asking_of(world: World, place: Place) -> Asking:
    """Whom to ask about requests of a place."""
    policies = world.ask(authorization_of, place)
    names = {provider_name(policy) for policy in policies if policy.spec.action is PolicyAction.CUSTOM}
    return asking(policies, {name: world.ask(authorizer, name) for name in sorted(names)}, world.ask(callers_of, place.proxy))


def asked_clusters(world: World, place: Place) -> tuple[ClusterRef, ...]:
    """The clusters of those who are asked."""
    return world.ask(asking_of, place).clusters


def http_judging(world: World, place: Place) -> Judges:
    """What judges requests itself; CUSTOM without anybody to ask denies."""
    unasked = world.ask(asking_of, place).unasked
    policies = world.ask(authorization_of, place)
    judged = [one for one in policies if one.spec.action is not PolicyAction.CUSTOM or one in unasked]
    return http_judges(judged, world.ask(callers_of, place.proxy))


def network_judging(world: World, place: Place) -> Judges:
    """What judges connections."""
    return network_judges(world.ask(authorization_of, place), world.ask(callers_of, place.proxy))


def http_parts(world: World, place: Place) -> Parts:
    """The filters that let requests in, or not."""
    filters = (*world.ask(asking_of, place).filters, *world.ask(http_judging, place).filters)
    return Parts(filters, tuple(policy.key for policy in world.ask(authorization_of, place)))


def network_parts(world: World, place: Place) -> Parts:
    """The filters that let connections in, or not."""
    return Parts(world.ask(network_judging, place).filters, tuple(policy.key for policy in world.ask(authorization_of, place)))


def key_servers(world: World, place: Place) -> tuple[KeyServer, ...]:
    """Whom the proxy fetches keys from for this place."""
    return world.ask(tokens_of, place).key_servers


def key_cluster(_world: World, server: KeyServer) -> Built:
    """The cluster of a server of keys: looked up in DNS, and by https verified as browsers do."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": server.host, "port_value": server.port}}}}
    message = new(
        "envoy.config.cluster.v3.Cluster",
        name=server.cluster,
        type="STRICT_DNS",
        connect_timeout=seconds(_CONNECT_S),
        load_assignment={"cluster_name": server.cluster, "endpoints": [{"lb_endpoints": [endpoint]}]},
    )
    if server.tls:
        validation = {
            "trusted_ca": {"filename": SYSTEM_ROOTS},
            "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": server.host}}],
        }
        socket = extension(
            "tls", "transport_sockets.tls.v3.UpstreamTlsContext", sni=server.host, common_tls_context={"validation_context": validation}
        )
        message.transport_socket.MergeFrom(new("envoy.config.core.v3.TransportSocket", **socket))
    return built(server.cluster, message)
