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
from control.ca.revocations import Identity, Revocations, parse_identity
from control.ca.x509_errors import UNREADABLE
from control.resources import Placement
from meshapi.spiffe import AgentIdentity, IdentityError, WorkloadIdentity

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
class _AtGateway:
    """Has to do with an Envoy of a Gateway."""

    namespace: str
    gateway: str

    @property
    def node(self) -> str:
        """What it goes by where callers are counted and noted; no node's name has a slash."""
        return f"{self.namespace}/{self.gateway}"


@dataclass(frozen=True)
class JoiningProxy(_AtGateway):
    """Holds a join token for an Envoy of a Gateway: may get the first certificate of the Gateway's identity, once, and nothing else."""

    token_id: str


@dataclass(frozen=True)
class GatewayPod(_AtGateway):
    """A pod of a Gateway, by the service-account token that it was given: may get the certificate of its account, and nothing else."""

    pod: str


@dataclass(frozen=True)
class ProxyRunner(_AtGateway):
    """Runs an Envoy of a Gateway, by the certificate of the Gateway's identity."""

    certificate_not_before_s: int
    certificate_not_after_s: int


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
Joining = JoiningNode | JoiningProxy | GatewayPod
"""Who may ask for a certificate, and for nothing else."""
Caller = Joining | Agent | ProxyRunner


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

    async def authenticate(self, credentials: Credentials) -> JoiningNode | JoiningProxy:
        record = self._tokens.check(bearer_token(credentials), self._clock())
        if record.gateway:
            namespace, _, name = record.gateway.partition("/")
            return JoiningProxy(namespace, name, record.id)
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
    """By the certificate of an agent, or of who runs a Gateway's Envoy.

    The transport verified the chain at the handshake; it is verified here again, against the roots of now, so that a root that was
    removed ends also what was open before, and so that the name is read from the very certificate that was verified.
    """

    def __init__(self, authority: Authority, revocations: Revocations, placement: Placement, *, trust_domain: str, clock: Clock) -> None:
        self._authority = authority
        self._revocations = revocations
        self._placement = placement
        self._trust_domain = trust_domain
        self._clock = clock

    async def authenticate(self, credentials: Credentials) -> NodeAgent | ProxyRunner:
        return self.verify(credentials)

    def verify(self, credentials: Credentials) -> NodeAgent | ProxyRunner:
        """Raises UnauthenticatedError."""
        identity, leaf = verify_chain(credentials.certificates, self._authority.issuer, self._clock())
        if identity.trust_domain != self._trust_domain:
            raise UnauthenticatedError("trust-domain", f"{identity} is not of {self._trust_domain}")
        times = int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp())
        caller: NodeAgent | ProxyRunner
        if isinstance(identity, AgentIdentity):
            caller = NodeAgent(identity.node, *times)
        else:
            caller = ProxyRunner(identity.namespace, identity.service_account, *times)
        self.check_still_valid(caller)
        return caller

    def check_still_valid(self, caller: NodeAgent | ProxyRunner) -> None:
        """What may change while a stream is open; raises UnauthenticatedError."""
        if caller.certificate_not_after_s <= self._clock():
            raise UnauthenticatedError("certificate-expired", f"the certificate of {caller.node} has expired")
        if caller.certificate_not_before_s < self._revocations.before_s(identity_of(caller, self._trust_domain)):
            raise UnauthenticatedError("certificate-revoked", f"the certificate of {caller.node} is revoked")
        if isinstance(caller, NodeAgent) and not self._placement.has_node(caller.node):
            raise UnauthenticatedError("node-unknown", f"there is no node {caller.node}")
        if isinstance(caller, ProxyRunner) and not self._placement.has_gateway(caller.namespace, caller.gateway):
            # Nearly every workload of the mesh has a certificate; few are the Envoy of a Gateway.
            raise UnauthenticatedError("gateway-unknown", f"there is no Gateway {caller.node}")


def identity_of(caller: NodeAgent | ProxyRunner, trust_domain: str) -> Identity:
    """Whom a caller's certificate names."""
    if isinstance(caller, NodeAgent):
        return AgentIdentity(trust_domain, caller.node)
    return WorkloadIdentity(trust_domain, caller.namespace, caller.gateway)


def verify_chain(certificates: tuple[bytes, ...], issuer: Issuer, now_s: float) -> tuple[Identity, x509.Certificate]:
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
        return parse_identity(name), leaf
    except IdentityError as error:
        raise UnauthenticatedError("certificate-names", str(error)) from error
