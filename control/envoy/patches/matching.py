"""What a patch matches, by the names that Istio's users know."""

from control.envoy.messages import Message
from control.envoy.patches.allowed import MANAGER, type_name
from control.envoy.patches.reading import MANAGER_NAME, ReadPatch
from control.envoy.patches.spot import Spot

TCP_PROXY = "envoy.filters.network.tcp_proxy"
_CANONICAL = {MANAGER: MANAGER_NAME, "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": TCP_PROXY}


def at_listener(patch: ReadPatch, spot: Spot) -> bool:
    """Whether the listener of a spot is meant."""
    if patch.match.waypoint is not None:
        return patch.match.waypoint.port_number in {0, spot.port}
    match = patch.match.listener
    if match is None:
        return True
    return match.port_number in {0, spot.port} and match.name in {"", *spot.listeners} and not match.listener_filter


def at_chain(patch: ReadPatch, spot: Spot) -> bool:
    """Whether its filter chain is."""
    if not at_listener(patch, spot):
        return False
    if patch.match.listener is None:
        return True
    match = patch.match.listener.filter_chain
    return (
        match.name in {"", spot.chain}
        and (not match.sni or match.sni in spot.server_names)
        and match.destination_port in {0, spot.port}
        # Those tell a sidecar's chains apart.
        and not match.transport_protocol
        and not match.application_protocols
    )


def names_filter(name: str, filter_: Message) -> bool:
    """Whether a network filter goes by a name: its own, or the usual one of its type."""
    return name in {str(filter_.name), _CANONICAL.get(type_name(filter_.typed_config))}
