"""Which client certificates are taken at a gateway, beyond what TLS verifies.

Where clients are verified by roots of the gateway's own, whoever has their keys could write any name into a certificate: one that names
an identity of the mesh is refused there, so that policies can rely on those. Where the mesh's roots are asked for, a certificate must
name exactly one identity, and one that was revoked is refused as at waypoints; connections that carry no requests can't be asked when their
certificate was issued, so there an identity that was ever revoked stays out until that is forgotten.
"""

from typing import Any

from control.envoy.gateways.servers import Terms
from control.envoy.listeners.callers import caller_filter, caller_settings
from control.envoy.messages import Message
from control.envoy.parts import extension
from control.envoy.world import World


def connection_filters(world: World, terms: Terms | None, *, requests: bool) -> list[dict[str, Any]]:
    """The network filters ahead of all others. `requests`: the connection carries some, which are judged one by one."""
    if terms is None or not terms.asks:
        return []
    if terms.own:
        named = [] if requests else [{"exact": one.identity} for one in world.revocations()]
    else:
        named = [{"prefix": f"spiffe://{world.settings.trust_domain}/"}]
    if not named:
        return []
    principals = [{"authenticated": {"principal_name": one}} for one in named]
    rules = {"action": "DENY", "policies": {"callers": {"permissions": [{"any": True}], "principals": principals}}}
    return [extension("callers", "filters.network.rbac.v3.RBAC", stat_prefix="callers.", rules=rules)]


def request_filters(terms: Terms | None) -> list[dict[str, Any]]:
    """The HTTP filters ahead of all others."""
    return [caller_filter()] if terms is not None and terms.own else []


def route_settings(world: World, terms: Terms | None) -> dict[str, Message]:
    """What the routes say to them."""
    return caller_settings(world.revocations()) if terms is not None and terms.own else {}
