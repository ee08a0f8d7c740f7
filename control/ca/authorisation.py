"""For whom a caller gets a certificate: a pure function of who it is, what it asks, and where workloads run."""

from control.ca.callers import Caller, GatewayPod, JoiningNode, JoiningProxy, ProxyRunner
from control.ca.refusal import ForbiddenError, MalformedError
from control.ca.revocations import Identity
from control.resources import Placement
from meshapi.spiffe import AgentIdentity, IdentityError, WorkloadIdentity


def authorise(caller: Caller, impersonated: str | None, placement: Placement, trust_domain: str) -> Identity:
    """The identity that is granted: the caller's own without `impersonated`; raises ForbiddenError or MalformedError."""
    if isinstance(caller, JoiningProxy | GatewayPod | ProxyRunner):
        return _of_gateway(caller, impersonated, placement, trust_domain)
    own = AgentIdentity(trust_domain, caller.node)
    if not placement.has_node(caller.node):
        raise ForbiddenError("node-unknown", f"there is no node {caller.node}")
    if impersonated is None or impersonated == str(own):
        return own
    if isinstance(caller, JoiningNode):
        raise ForbiddenError("token-scope", "a join token is only for the certificate of the node's own agent")
    try:
        identity = WorkloadIdentity.parse(impersonated)
    except IdentityError as error:
        raise MalformedError("identity-form", str(error)) from error
    if identity.trust_domain != trust_domain:
        raise ForbiddenError("trust-domain", f"{identity} is not of {trust_domain}")
    if not placement.runs_on(identity, caller.node):
        raise ForbiddenError("placement", f"no live workload with {identity} runs on node {caller.node}")
    return identity


def _of_gateway(
    caller: JoiningProxy | GatewayPod | ProxyRunner, impersonated: str | None, placement: Placement, trust_domain: str
) -> Identity:
    """Who runs an Envoy gets the Gateway's identity, and no other."""
    own = WorkloadIdentity(trust_domain, caller.namespace, caller.gateway)
    if not placement.has_gateway(caller.namespace, caller.gateway):
        raise ForbiddenError("gateway-unknown", f"there is no Gateway {caller.node}")
    if impersonated not in {None, str(own)}:
        raise ForbiddenError("placement", f"the Envoy of Gateway {caller.node} is {own} and nobody else")
    return own
