"""The producers of security: whose tokens are good, and who may ask for what."""

import hashlib
from typing import Final

from control.envoy.built import ROUTES, Built, built
from control.envoy.callers import callers_of
from control.envoy.external import Asking, asking, authorizer, provider_name
from control.envoy.filter_parts import Parts
from control.envoy.guarding import authentication_of, authorization_of
from control.envoy.messages import TYPE_PREFIX, message_class, new
from control.envoy.naming import ClusterRef, Layer, chain_name
from control.envoy.parts import extension, seconds
from control.envoy.place import Place
from control.envoy.proxies import ProxyKind, find_proxy
from control.envoy.rbac.filters import Judges, http_judges, http_seats, network_judges, route_judges
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


def judged_by_routes(world: World, place: Place) -> bool:
    """Whether the routes say what requests are judged by: then policies may change under open connections."""
    proxy = world.ask(find_proxy, place.proxy)
    return place.service is not None and proxy is not None and proxy.kind is ProxyKind.WAYPOINT


def table_name(world: World, place: Place) -> str:
    """What the routes of a waypoint's place are called: another name with other CUSTOM policies.

    Those judge in the chain, all others with the routes. A chain waits for routes that it has not had yet, so that a policy that
    becomes another action's is at no moment in neither.
    """
    if place.service is None:
        raise ValueError(f"{place} is no service's")
    name = chain_name(place.service, place.port, Layer.HTTP)
    asked = sorted(str(one.key) for one in world.ask(authorization_of, place) if one.spec.action is PolicyAction.CUSTOM)
    return f"{name}~{hashlib.blake2b(' '.join(asked).encode(), digest_size=4).hexdigest()}" if asked else name


def with_judges(world: World, place: Place, routes: Built) -> Built:
    """The routes of a place with what requests are judged by."""
    message = message_class(ROUTES.removeprefix(TYPE_PREFIX)).FromString(routes.resource.body)
    policies = [one for one in world.ask(authorization_of, place) if one.spec.action is not PolicyAction.CUSTOM]
    for name, config in route_judges(policies, world.ask(callers_of, place.proxy)).items():
        message.typed_per_filter_config[name].CopyFrom(config)
    message.name = world.ask(table_name, place)
    return built(message.name, message, (*routes.sources, *(policy.key for policy in policies)), routes.problems)


def network_judging(world: World, place: Place) -> Judges:
    """What judges connections."""
    return network_judges(world.ask(authorization_of, place), world.ask(callers_of, place.proxy))


def http_parts(world: World, place: Place) -> Parts:
    """The filters that let requests in, or not. CUSTOM without anybody to ask denies, in the place of who would be asked."""
    policies, asked = world.ask(authorization_of, place), world.ask(asking_of, place)
    by_routes = world.ask(judged_by_routes, place)
    here = [one for one in policies if one in asked.unasked or (one.spec.action is not PolicyAction.CUSTOM and not by_routes)]
    judges = http_judges(here, world.ask(callers_of, place.proxy)).filters
    sources = [one.key for one in policies if one.spec.action is PolicyAction.CUSTOM or not by_routes]
    return Parts((*asked.filters, *judges, *(http_seats() if by_routes else ())), tuple(sources))


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
