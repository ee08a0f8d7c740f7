"""Who is calling: from what the transport saw to a typed caller, or a refusal that names the check.

An Authenticator is one way to prove oneself; each listener has one.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from control.ca.authority import Authority, Clock
from control.ca.issuer import Issuer
from control.ca.join_tokens import PREFIX, JoinTokens
from control.ca.refusal import UnauthenticatedError
from control.ca.revocations import Revocations
from control.ca.x509_errors import UNREADABLE
from control.resources import Placement
from meshapi.spiffe import AgentIdentity, IdentityError

BEARER = "bearer "
MAX_CHAIN = 8


@dataclass(frozen=True)
class Credentials:
    """What a caller showed: `certificates` (PEM, leaf first) as the TLS handshake verified them, `authorization` as sent."""

    peer: str
    cluster: str | None = None
    authorization: tuple[str, ...] = field(default=(), repr=False)
    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class JoiningNode:
    """Holds a join token for `node`: may get the certificate of its agent, once, and nothing else."""

    node: str
    token_id: str


@dataclass(frozen=True)
class NodeAgent:
    """The agent of `node`, by its certificate."""

    node: str
    certificate_not_before_s: int
    certificate_not_after_s: int


@dataclass(frozen=True)
class AgentPod:
    """The agent of `node`, by the service-account token that its pod was given; the times are the token's."""

    node: str
    namespace: str
    pod: str
    uid: str
    token_issued_s: int
    token_expires_s: int


Agent = NodeAgent | AgentPod
Caller = JoiningNode | Agent


class Authenticator(Protocol):
    async def authenticate(self, credentials: Credentials) -> Caller:
        """Raises UnauthenticatedError."""


def bearer_token(credentials: Credentials) -> str:
    """The token in the `authorization` header; raises UnauthenticatedError."""
    match credentials.authorization:
        case []:
            raise UnauthenticatedError("no-credentials", "no authorization header")
        case [header] if header[: len(BEARER)].lower() == BEARER:
            return header[len(BEARER) :].strip()
    raise UnauthenticatedError("authorization-form", "needs one authorization header: Bearer <token>")


class TokenAuthenticator:
    """By a join token in the `authorization` header."""

    def __init__(self, tokens: JoinTokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    async def authenticate(self, credentials: Credentials) -> JoiningNode:
        record = self._tokens.check(bearer_token(credentials), self._clock())
        return JoiningNode(record.node, record.id)


class AnyTokenAuthenticator:
    """By a token of either kind: those of service accounts never look like join tokens."""

    def __init__(self, join_tokens: Authenticator, service_accounts: Authenticator) -> None:
        self._join_tokens = join_tokens
        self._service_accounts = service_accounts

    async def authenticate(self, credentials: Credentials) -> Caller:
        joins = bearer_token(credentials).startswith(f"{PREFIX}.")
        return await (self._join_tokens if joins else self._service_accounts).authenticate(credentials)


class CertificateAuthenticator:
    """By an agent's certificate.

    The transport verified the chain at the handshake; it is verified here again, against the roots of now, so that a root that was
    removed ends also what was open before, and so that the name is read from the very certificate that was verified.
    """

    def __init__(self, authority: Authority, revocations: Revocations, placement: Placement, *, trust_domain: str, clock: Clock) -> None:
        self._authority = authority
        self._revocations = revocations
        self._placement = placement
        self._trust_domain = trust_domain
        self._clock = clock

    async def authenticate(self, credentials: Credentials) -> NodeAgent:
        return self.verify(credentials)

    def verify(self, credentials: Credentials) -> NodeAgent:
        """Raises UnauthenticatedError."""
        identity, leaf = verify_agent(credentials.certificates, self._authority.issuer, self._clock())
        if identity.trust_domain != self._trust_domain:
            raise UnauthenticatedError("trust-domain", f"{identity} is not of {self._trust_domain}")
        agent = NodeAgent(identity.node, int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp()))
        self.check_still_valid(agent)
        return agent

    def check_still_valid(self, agent: NodeAgent) -> None:
        """What may change while a stream is open; raises UnauthenticatedError."""
        if agent.certificate_not_after_s <= self._clock():
            raise UnauthenticatedError("certificate-expired", f"the certificate of node {agent.node} has expired")
        if agent.certificate_not_before_s < self._revocations.before_s(AgentIdentity(self._trust_domain, agent.node)):
            raise UnauthenticatedError("certificate-revoked", f"the certificate of node {agent.node} is revoked")
        if not self._placement.has_node(agent.node):
            raise UnauthenticatedError("node-unknown", f"there is no node {agent.node}")


def verify_agent(certificates: tuple[bytes, ...], issuer: Issuer, now_s: float) -> tuple[AgentIdentity, x509.Certificate]:
    """Verifies a chain (PEM, leaf first) against the roots, and returns whom it names; raises UnauthenticatedError."""
    if not certificates:
        raise UnauthenticatedError("no-credentials", "no certificate")
    if len(certificates) > MAX_CHAIN:
        raise UnauthenticatedError("certificate-chain", f"a chain of {len(certificates)} certificates")
    verifier = PolicyBuilder().store(Store(list(issuer.roots))).time(datetime.fromtimestamp(now_s, UTC)).build_client_verifier()
    try:
        leaf, *above = [x509.load_pem_x509_certificate(certificate) for certificate in certificates]
        verified = verifier.verify(leaf, above)
    except (VerificationError, *UNREADABLE) as error:
        raise UnauthenticatedError("certificate-chain", str(error)[:300]) from error
    match verified.subjects:
        case [x509.UniformResourceIdentifier(value=name)]:
            pass
        case _:
            raise UnauthenticatedError("certificate-names", "the certificate must name one URI and nothing else")
    try:
        return AgentIdentity.parse(name), leaf
    except IdentityError as error:
        raise UnauthenticatedError("not-an-agent", str(error)) from error
