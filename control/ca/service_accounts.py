"""Agents that prove themselves by the service-account token of their pod.

Kubernetes says whose token it is (control/ca/token_review.py); all else is decided here, from that answer and from what runs where:
the account is one that is trusted, the token was made for us, it is bound to a pod, that very pod lives on that very node, and who
shows the token comes from there. What the token says of itself counts for nothing but its dates, once it was proved.
"""

import base64
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from control.ca.authority import Clock
from control.ca.callers import AgentPod, Credentials, GatewayPod, bearer_token
from control.ca.peers import peer_address
from control.ca.refusal import UnauthenticatedError
from control.ca.revocations import Revocations
from control.resources import Placement
from meshapi.spiffe import AgentIdentity

POD_NAME: Final = "authentication.kubernetes.io/pod-name"
POD_UID: Final = "authentication.kubernetes.io/pod-uid"
NODE_NAME: Final = "authentication.kubernetes.io/node-name"
NODE_UID: Final = "authentication.kubernetes.io/node-uid"
MAX_TOKEN_CHARACTERS: Final = 16 * 1024


class Review(Struct, frozen=True):
    """What Kubernetes answers about a token."""

    authenticated: bool = False
    error: str = ""
    audiences: tuple[str, ...] = ()
    username: str = ""
    extra: dict[str, tuple[str, ...]] = {}


class Reviewer(Protocol):
    async def review(self, token: str, audience: str) -> Review:
        """Asks Kubernetes; raises UnavailableError or BusyError."""


@dataclass(frozen=True)
class TrustedAccounts:
    """Whose tokens are taken: `namespace/name` of the agents' accounts, and the audience that their tokens must be made for.

    `any_source`: the token's holder may come from anywhere, for clusters that hide a node's address from its peers.
    """

    accounts: frozenset[str]
    audience: str
    any_source: bool = False


@dataclass(frozen=True)
class Accounts:
    """Whom to trust, and whom to ask about it."""

    trusted: TrustedAccounts
    reviewer: Reviewer


class _BoundPod(Struct, frozen=True):
    name: str = ""
    uid: str = ""


class _Bound(Struct, frozen=True):
    namespace: str = ""
    pod: _BoundPod = _BoundPod()


class _Claims(Struct, frozen=True):
    exp: int
    iat: int
    aud: str | tuple[str, ...] = ()
    bound: _Bound = msgspec.field(default=_Bound(), name="kubernetes.io")


class ServiceAccountAuthenticator:
    """By a bound token of a trusted service account in the `authorization` header."""

    def __init__(self, accounts: Accounts, placement: Placement, revocations: Revocations, *, trust_domain: str, clock: Clock) -> None:
        self._trusted = accounts.trusted
        self._reviewer = accounts.reviewer
        self._placement = placement
        self._revocations = revocations
        self._trust_domain = trust_domain
        self._clock = clock

    async def authenticate(self, credentials: Credentials) -> AgentPod | GatewayPod:
        token = bearer_token(credentials)
        claims = _claims(token)
        self._check_promising(claims)
        review = await self._reviewer.review(token, self._trusted.audience)
        namespace, account = self._account(review)
        if f"{namespace}/{account}" not in self._trusted.accounts:
            return self._gateway_pod(review, namespace, account, credentials)
        agent = self._agent(review, claims, namespace)
        self.check_still_valid(agent, credentials)
        return agent

    def _check_promising(self, claims: _Claims) -> None:
        """Kubernetes says all this again, with authority. But who only makes tokens up must not keep it busy: the uid can't be guessed."""
        if self._clock() >= claims.exp:
            raise UnauthenticatedError("token-expired", "the token has expired")
        if self._trusted.audience not in _audiences(claims):
            raise UnauthenticatedError("token-audience", f"the token is for {_audiences(claims)}")
        bound = claims.bound
        if not bound.pod.uid:
            raise UnauthenticatedError("token-unbound", "the token is not bound to a pod")
        pod = self._placement.pod(bound.namespace, bound.pod.name)
        if pod is None or pod.uid != bound.pod.uid:
            raise UnauthenticatedError("pod-unknown", f"pod {bound.namespace}/{bound.pod.name} with uid {bound.pod.uid} is not there")

    def check_still_valid(self, agent: AgentPod, credentials: Credentials) -> None:
        """What may change while a stream is open; raises UnauthenticatedError."""
        if self._clock() >= agent.token_expires_s:
            raise UnauthenticatedError("token-expired", f"the token of node {agent.node} has expired")
        if agent.token_issued_s < self._revocations.before_s(AgentIdentity(self._trust_domain, agent.node)):
            raise UnauthenticatedError("token-revoked", f"the agent of node {agent.node} is revoked")
        node = self._placement.node(agent.node)
        if node is None:
            raise UnauthenticatedError("node-unknown", f"there is no node {agent.node}")
        self._check_pod(agent)
        if not self._trusted.any_source:
            _check_source(credentials.peer, f"node {agent.node}", node.networks)

    def _account(self, review: Review) -> tuple[str, str]:
        """Namespace and name of the account that Kubernetes takes the token for."""
        if not review.authenticated:
            raise UnauthenticatedError("token-unknown", f"Kubernetes does not take the token: {review.error[:200]}")
        # An API server that knows of no audiences takes tokens for anybody, and names none.
        if self._trusted.audience not in review.audiences:
            raise UnauthenticatedError("token-audience", f"Kubernetes takes the token for {review.audiences}")
        prefix, _, account = review.username.partition("system:serviceaccount:")
        namespace, _, name = account.partition(":")
        if prefix or not name:
            raise UnauthenticatedError("token-account", f"{review.username[:200]} is no service account")
        return namespace, name

    def _gateway_pod(self, review: Review, namespace: str, account: str, credentials: Credentials) -> GatewayPod:
        """A pod that runs the Envoy of the Gateway of its account's name; it must show the token itself."""
        if not self._placement.has_gateway(namespace, account):
            raise UnauthenticatedError("token-account", f"{namespace}/{account} is no agent's account, and no Gateway's")
        name, uid = _one(review, POD_NAME), _one(review, POD_UID)
        pod = self._placement.pod(namespace, name)
        shown = f"pod {namespace}/{name}"
        if pod is None or pod.uid != uid:
            raise UnauthenticatedError("pod-unknown", f"{shown} with uid {uid} is not there")
        if not pod.live or pod.service_account != account:
            raise UnauthenticatedError("pod-ended", f"{shown} has ended, or is of another account")
        if not self._trusted.any_source:
            _check_source(credentials.peer, shown, pod.addresses)
        return GatewayPod(namespace, account, name)

    def _agent(self, review: Review, claims: _Claims, namespace: str) -> AgentPod:
        agent = AgentPod(
            node=_one(review, NODE_NAME),
            namespace=namespace,
            pod=_one(review, POD_NAME),
            uid=_one(review, POD_UID),
            token_issued_s=claims.iat,
            token_expires_s=claims.exp,
        )
        node = self._placement.node(agent.node)
        node_uid = review.extra.get(NODE_UID, ())
        if node is not None and node_uid and node_uid != (node.uid,):
            raise UnauthenticatedError("node-unknown", f"node {agent.node} is another one than when the token was made")
        return agent

    def _check_pod(self, agent: AgentPod) -> None:
        pod = self._placement.pod(agent.namespace, agent.pod)
        shown = f"pod {agent.namespace}/{agent.pod}"
        if pod is None or pod.uid != agent.uid:
            raise UnauthenticatedError("pod-unknown", f"{shown} with uid {agent.uid} is not there")
        if not pod.live:
            raise UnauthenticatedError("pod-ended", f"{shown} has ended")
        if pod.node != agent.node or f"{agent.namespace}/{pod.service_account}" not in self._trusted.accounts:
            raise UnauthenticatedError("pod-elsewhere", f"{shown} is on node {pod.node}, not {agent.node}")


def _claims(token: str) -> _Claims:
    """The claims of a JSON Web Token, as they stand there; raises UnauthenticatedError."""
    parts = token.split(".") if len(token) <= MAX_TOKEN_CHARACTERS else []
    if len(parts) != 3:
        raise UnauthenticatedError("token-form", "is no token of a service account")
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except (ValueError, RecursionError) as error:
        raise UnauthenticatedError("token-form", "is no token of a service account") from error


def _audiences(claims: _Claims) -> tuple[str, ...]:
    return (claims.aud,) if isinstance(claims.aud, str) else claims.aud


def _one(review: Review, key: str) -> str:
    match review.extra.get(key, ()):
        case [value] if value:
            return value
    raise UnauthenticatedError("token-unbound", f"the token names no {key.partition('/')[2]}: it must be bound to a pod that has a node")


def _check_source(peer: str, whose: str, networks: Collection[str]) -> None:
    """Whoever shows a token that was taken elsewhere comes from elsewhere. `peer` is as gRPC names it."""
    address = peer_address(peer)
    if address is None:
        raise UnauthenticatedError("token-source", f"{peer[:80]} has no address")
    if not any(_within(address, network) for network in networks):
        raise UnauthenticatedError("token-source", f"{address} is no address of {whose}")


def _within(address: IPv4Address | IPv6Address, network: str) -> bool:
    try:
        return address in ip_network(network, strict=False)
    except ValueError:
        return False
