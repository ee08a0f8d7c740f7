"""From a caller's request to a certificate: prove, take turns, authorise, check, sign, record. Knows nothing of gRPC."""

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from control.ca.audit import AuditLog, AuditRecord
from control.ca.authorisation import authorise
from control.ca.authority import Authority, Clock
from control.ca.callers import Authenticator, Caller, Credentials, GatewayPod, JoiningNode, JoiningProxy, ProxyRunner
from control.ca.csr import check_csr
from control.ca.issuer import Issuer
from control.ca.join_tokens import JoinTokens
from control.ca.leaf import DEFAULT_TTL_S, MAX_AGENT_TTL_S, SigningError, sign_identity, validity
from control.ca.limits import CallerLimits
from control.ca.refusal import MalformedError, RefusedError, UnauthenticatedError
from control.ca.revocations import Identity, Revocations
from control.metrics import Metrics
from control.resources import Placement
from meshapi.proto.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshapi.spiffe import AgentIdentity

OPERATION = "certificate"
IMPERSONATED = "ImpersonatedIdentity"


@dataclass(frozen=True)
class Question:
    """A request as it was read; `impersonated` None = for the caller itself."""

    csr: str
    validity_s: int
    impersonated: str | None


def read_question(body: bytes) -> Question:
    """Raises MalformedError."""
    try:
        message = IstioCertificateRequest.FromString(body)
    except DecodeError as error:
        raise MalformedError("request-form", "no certificate request") from error
    impersonated = None
    if IMPERSONATED in message.metadata.fields:
        value = message.metadata.fields[IMPERSONATED]
        if not value.HasField("string_value"):
            raise MalformedError("identity-form", f"{IMPERSONATED} must be a string")
        impersonated = value.string_value
    return Question(message.csr, message.validity_duration, impersonated)


@dataclass(frozen=True)
class IssuanceParts:
    """What issuing certificates stands on, shared by all listeners. `max_ttl_s` bounds the workloads' certificates."""

    authority: Authority
    revocations: Revocations
    tokens: JoinTokens
    placement: Placement
    audit: AuditLog
    metrics: Metrics
    limits: CallerLimits
    signers: Executor
    trust_domain: str
    cluster: str
    clock: Clock
    max_ttl_s: int = DEFAULT_TTL_S


class Issuance:
    """Grants certificates to whom one authenticator lets in."""

    def __init__(self, parts: IssuanceParts, authenticator: Authenticator) -> None:
        self._parts = parts
        self._authenticator = authenticator

    async def create(self, credentials: Credentials, body: bytes) -> bytes:
        """The serialized answer; raises RefusedError or SigningError, after recording why."""
        caller: Caller | None = None
        question: Question | None = None
        try:
            caller = await self._authenticated(credentials)
            async with self._parts.limits.admitted(_key(caller)):
                question = read_question(body)
                return await self._granted(credentials, caller, question)
        except RefusedError as error:
            self._refused(credentials, caller, question, error.check, error.detail)
            raise
        except SigningError as error:
            self._refused(credentials, caller, question, "signing", str(error))
            raise

    async def _authenticated(self, credentials: Credentials) -> Caller:
        caller = await self._authenticator.authenticate(credentials)
        if credentials.cluster not in {None, self._parts.cluster}:
            raise UnauthenticatedError("cluster", f"claims cluster {credentials.cluster!r}")
        return caller

    async def _granted(self, credentials: Credentials, caller: Caller, question: Question) -> bytes:
        parts = self._parts
        identity = authorise(caller, question.impersonated, parts.placement, parts.trust_domain)
        loop = asyncio.get_running_loop()
        key = await loop.run_in_executor(parts.signers, check_csr, question.csr, str(identity))
        if isinstance(caller, JoiningNode | JoiningProxy):
            # Used up before anything is signed: of two uses at once, one stops here.
            await parts.tokens.use(caller.token_id, parts.clock())
        issuer = parts.authority.issuer
        leaf = await loop.run_in_executor(parts.signers, self._sign, issuer, key, identity, question.validity_s)
        # The workload may have gone, and the caller's own right with it, while the certificate was made.
        authorise(caller, question.impersonated, parts.placement, parts.trust_domain)
        parts.audit.granted(
            AuditRecord(
                operation=OPERATION,
                outcome="granted",
                caller=_key(caller),
                peer=credentials.peer,
                node=caller.node,
                identity=str(identity),
                serial=f"{leaf.serial_number:x}",
                not_after=leaf.not_valid_after_utc.isoformat(),
            )
        )
        parts.metrics.certificates_granted.labels("agent" if isinstance(identity, AgentIdentity) else "workload").inc()
        return _answer(leaf, issuer)

    def _sign(self, issuer: Issuer, key: ec.EllipticCurvePublicKey, identity: Identity, asked_s: int) -> x509.Certificate:
        parts = self._parts
        when = validity(
            asked_s=asked_s,
            max_ttl_s=MAX_AGENT_TTL_S if isinstance(identity, AgentIdentity) else parts.max_ttl_s,
            revoked_before_s=parts.revocations.before_s(identity),
            issuer=issuer,
            now_s=parts.clock(),
        )
        return sign_identity(issuer, key, str(identity), when)

    def _refused(self, credentials: Credentials, caller: Caller | None, question: Question | None, check: str, detail: str) -> None:
        self._parts.metrics.certificates_refused.labels(check).inc()
        self._parts.audit.refused(
            AuditRecord(
                operation=OPERATION,
                outcome="refused",
                caller=_key(caller) if caller else "",
                peer=credentials.peer,
                node=caller.node if caller else "",
                identity=(question.impersonated or "") if question else "",
                check=check,
                detail=detail,
            )
        )


def _key(caller: Caller) -> str:
    # An agent is the same one by its token and by its certificate.
    if isinstance(caller, ProxyRunner | GatewayPod):
        return f"gateway/{caller.node}"
    return f"token/{caller.token_id}" if isinstance(caller, JoiningNode | JoiningProxy) else f"node/{caller.node}"


def _answer(leaf: x509.Certificate, issuer: Issuer) -> bytes:
    """One certificate a string, and all roots in the last one: that is how Istio's agents tell them apart."""
    chain = [leaf.public_bytes(Encoding.PEM), *issuer.intermediates_pem, issuer.roots_pem]
    return IstioCertificateResponse(cert_chain=[entry.decode("ascii") for entry in chain]).SerializeToString()
