"""Issuing as a whole, without the network: who shows what, who gets what, and what the audit log says about it."""

import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.ca.audit import AuditLog
from control.ca.authority import Authority
from control.ca.callers import CertificateAuthenticator, Credentials, TokenAuthenticator, verify_chain
from control.ca.issuance import Issuance, IssuanceParts
from control.ca.issuer import Issuer
from control.ca.join_tokens import JoinTokens
from control.ca.leaf import Validity, sign_identity, sign_leaf
from control.ca.limits import CallerLimits, Limits
from control.ca.refusal import BusyError, ForbiddenError, MalformedError, RefusedError, UnauthenticatedError
from control.ca.revocations import Revocations
from control.ca.token_records import TokenFile
from control.metrics import Metrics
from meshapi.proto.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshapi.spiffe import AgentIdentity, WorkloadIdentity
from tests.control.fakes import NOW_S, FakeClock, FakeModel, csr_pem, new_key

TD = "cluster.local"
CART = WorkloadIdentity(TD, "shop", "cart")
ON_N2 = WorkloadIdentity(TD, "shop", "on-n2")
N1 = AgentIdentity(TD, "n1")
PEER = "ipv4:10.0.0.1:4000"


class World:
    """A certificate authority on a fake clock, with both ways in."""

    def __init__(self, path: Path, signers: ThreadPoolExecutor, limits: Limits) -> None:
        self.clock = FakeClock()
        self.model = FakeModel(running={(CART, "n1"), (ON_N2, "n2")})
        self.authority = Authority(path / "ca", trust_domain=TD, own=True, clock=self.clock)
        self.revocations = Revocations(path / "revocations.json")
        self.tokens = JoinTokens(TokenFile(path / "tokens.json"))
        self.path = path
        self.audit = AuditLog(path / "audit.log", self.clock)
        self.parts = IssuanceParts(
            authority=self.authority,
            revocations=self.revocations,
            tokens=self.tokens,
            placement=self.model,
            audit=self.audit,
            metrics=Metrics(),
            limits=CallerLimits(limits, self.clock),
            signers=signers,
            trust_domain=TD,
            cluster="Kubernetes",
            clock=self.clock,
        )
        self.by_token = Issuance(self.parts, TokenAuthenticator(self.tokens, self.clock))
        authenticator = CertificateAuthenticator(self.authority, self.revocations, self.model, trust_domain=TD, clock=self.clock)
        self.by_certificate = Issuance(self.parts, authenticator)

    def agent(self, name: object = N1, *, issuer: Issuer | None = None, life_s: int = 3600, **fields: object) -> Credentials:
        """What the agent with a certificate for `name` shows."""
        issuer = issuer or self.authority.issuer
        start_s = int(self.clock.now_s) - 60
        leaf = sign_identity(issuer, new_key().public_key(), str(name), Validity(start_s, start_s + 60 + life_s))
        return shown(leaf, issuer, **fields)

    def last(self, outcome: str = "refused") -> dict[str, object]:
        file = self.path / ("audit-refused.log" if outcome == "refused" else "audit.log")
        return msgspec.json.decode(file.read_bytes().splitlines()[-1])


def shown(leaf: x509.Certificate, issuer: Issuer, **fields) -> Credentials:
    return Credentials(peer=PEER, certificates=(leaf.public_bytes(Encoding.PEM), *issuer.intermediates_pem), **fields)


@pytest.fixture
def signers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def world(tmp_path: Path, signers: ThreadPoolExecutor) -> Iterator[World]:
    world = World(tmp_path, signers, Limits(refusal_delay_s=0))
    yield world
    world.audit.close()


def question(identity: object, impersonate: object = None, validity_s: int = 0, csr: str | None = None) -> bytes:
    message = IstioCertificateRequest(csr=csr if csr is not None else csr_pem(str(identity), new_key()), validity_duration=validity_s)
    if impersonate is not None:
        message.metadata.update({"ImpersonatedIdentity": impersonate if isinstance(impersonate, bool) else str(impersonate)})
    return message.SerializeToString()


def answer(body: bytes) -> list[x509.Certificate]:
    return [x509.load_pem_x509_certificate(entry.encode()) for entry in IstioCertificateResponse.FromString(body).cert_chain]


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return [name.value for name in found.value]


def bearer(*tokens: str) -> Credentials:
    return Credentials(peer=PEER, authorization=tuple(f"Bearer {token}" for token in tokens))


async def test_a_node_joins_and_asks_for_its_workload(world: World) -> None:
    _, token = await world.tokens.create("n1", 3600, NOW_S)
    leaf, issuer, root = answer(await world.by_token.create(bearer(token), question(N1)))
    assert names(leaf) == [str(N1)]
    assert (issuer, root) == (world.authority.issuer.certificate, world.authority.issuer.roots[0])
    assert world.last("granted")["identity"] == str(N1)

    leaf, *_ = answer(await world.by_certificate.create(shown(leaf, world.authority.issuer), question(CART, CART)))
    assert names(leaf) == [str(CART)]
    assert leaf.not_valid_after_utc == datetime.fromtimestamp(NOW_S + 24 * 3600, UTC)
    line = world.last("granted")
    assert (line["outcome"], line["caller"], line["node"], line["identity"]) == ("granted", "node/n1", "n1", str(CART))
    assert line["serial"] == f"{leaf.serial_number:x}"


async def test_renews_itself(world: World) -> None:
    leaf, *_ = answer(await world.by_certificate.create(world.agent(), question(N1)))
    assert names(leaf) == [str(N1)]


@pytest.mark.parametrize(("identity", "longest_s"), [(CART, 24 * 3600), (N1, 30 * 24 * 3600)])
async def test_how_long_certificates_live(world: World, identity: object, longest_s: int) -> None:
    """An agent's own outlasts a controller that is away; workloads' live a day."""
    for asked_s, lives_s in ((0, 24 * 3600), (3600, 3600), (90 * 24 * 3600, longest_s)):
        leaf, *_ = answer(await world.by_certificate.create(world.agent(), question(identity, identity, asked_s)))
        assert leaf.not_valid_after_utc.timestamp() == NOW_S + lives_s


async def test_all_roots_are_in_the_last_string(world: World) -> None:
    """Istio's agents take the last one for the roots, however many they are."""
    roots = world.authority._directory / "root-cert.pem"
    other = Authority(world.authority._directory.parent / "other", trust_domain=TD, own=True, clock=world.clock)
    roots.write_bytes(roots.read_bytes() + other.issuer.roots_pem)
    assert await world.authority.refresh()
    response = IstioCertificateResponse.FromString(await world.by_certificate.create(world.agent(), question(CART, CART)))
    assert [entry.count("BEGIN") for entry in response.cert_chain] == [1, 1, 2]


REFUSED = {
    "runs on another node (I1)": (ON_N2, ON_N2, ForbiddenError, "placement"),
    "never existed (I2)": (WorkloadIdentity(TD, "shop", "x"), WorkloadIdentity(TD, "shop", "x"), ForbiddenError, "placement"),
    "another node's agent": (AgentIdentity(TD, "n2"), AgentIdentity(TD, "n2"), MalformedError, "identity-form"),
    "another trust domain": ("spiffe://b/ns/shop/sa/cart", "spiffe://b/ns/shop/sa/cart", ForbiddenError, "trust-domain"),
    "the request names another": (ON_N2, CART, MalformedError, "csr-identity"),
    "not a string": (CART, True, MalformedError, "identity-form"),
    "the request for itself names a workload": (CART, None, MalformedError, "csr-identity"),
}


@pytest.mark.parametrize(("named", "asked", "error", "check"), REFUSED.values(), ids=REFUSED.keys())
async def test_an_agent_is_refused(world: World, named, asked, error, check: str) -> None:
    with pytest.raises(error):
        await world.by_certificate.create(world.agent(), question(named, asked))
    line = world.last()
    assert (line["outcome"], line["node"], line["check"]) == ("refused", "n1", check)


async def test_garbage_is_an_error_of_that_request(world: World) -> None:
    with pytest.raises(MalformedError):
        await world.by_certificate.create(world.agent(), b"\xff\xff\xff")
    assert world.last()["check"] == "request-form"
    with pytest.raises(MalformedError):
        await world.by_certificate.create(world.agent(), question(CART, CART, csr="x" * 1024 * 1024))
    assert world.last()["check"] == "csr-size"


async def test_a_workload_that_ends_while_its_certificate_is_made(world: World) -> None:
    """I2: what was right when it was asked is looked at again before it is handed out."""
    placed = world.model.runs_on
    looks: list[int] = []

    def goes_after_the_first_look(identity: WorkloadIdentity, node: str) -> bool:
        looks.append(1)
        return placed(identity, node) and len(looks) == 1

    world.model.runs_on = goes_after_the_first_look  # type: ignore[method-assign]
    with pytest.raises(ForbiddenError, match="placement"):
        await world.by_certificate.create(world.agent(), question(CART, CART))
    assert world.last()["outcome"] == "refused"


async def unauthenticated(world: World, credentials: Credentials, issuance: Issuance | None = None) -> object:
    with pytest.raises(UnauthenticatedError):
        await (issuance or world.by_certificate).create(credentials, question(CART, CART))
    line = world.last()
    assert (line["outcome"], line.get("caller", "")) == ("refused", "")
    return line["check"]


async def test_certificates_that_prove_nothing(world: World, tmp_path: Path) -> None:
    issuer = world.authority.issuer
    other = Authority(tmp_path / "other", trust_domain=TD, own=True, clock=world.clock).issuer
    two = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(N1)), x509.UniformResourceIdentifier(str(CART))])
    dns = x509.SubjectAlternativeName([x509.DNSName("n1")])
    when = Validity(int(NOW_S) - 60, int(NOW_S) + 60)
    cases = [
        (Credentials(peer=PEER), "no-credentials"),
        (world.agent(CART), "gateway-unknown"),
        (world.agent("spiffe://b/nodemesh/node/n1"), "trust-domain"),
        (world.agent(AgentIdentity(TD, "never")), "node-unknown"),
        (world.agent(issuer=other), "certificate-chain"),
        (world.agent(life_s=-10), "certificate-chain"),
        (world.agent(cluster="another"), "cluster"),
        (shown(sign_leaf(issuer, new_key().public_key(), two, when), issuer), "certificate-names"),
        (shown(sign_leaf(issuer, new_key().public_key(), dns, when), issuer), "certificate-names"),
        (shown(issuer.certificate, issuer), "certificate-chain"),
        (Credentials(peer=PEER, certificates=(b"garbage",)), "certificate-chain"),
        (Credentials(peer=PEER, certificates=world.agent().certificates * 20), "certificate-chain"),
    ]
    assert [await unauthenticated(world, credentials) for credentials, _ in cases] == [check for _, check in cases]


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_certificate_changed_at_random_is_refused_or_the_same(world: World, edits: list[tuple[int, int]]) -> None:
    """Only UnauthenticatedError comes out, whatever the bytes: anything else would be a fault of ours in the caller's hands."""
    leaf, *above = world.agent().certificates
    body = bytearray(base64.b64decode("".join(leaf.decode().splitlines()[1:-1])))
    for position, value in edits:
        body[position % len(body)] = value
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(body)) + b"-----END CERTIFICATE-----\n"
    try:
        identity, _ = verify_chain((pem, *above), world.authority.issuer, world.clock())
    except UnauthenticatedError:
        return
    assert identity == N1


async def test_a_revoked_agent_needs_a_new_token(world: World) -> None:
    old = world.agent()
    world.revocations.revoke(N1, world.clock())
    assert await unauthenticated(world, old) == "certificate-revoked"
    _, token = await world.tokens.create("n1", 60, NOW_S)
    leaf, *_ = answer(await world.by_token.create(bearer(token), question(N1)))
    assert await world.by_certificate.create(shown(leaf, world.authority.issuer), question(CART, CART))


async def test_a_removed_root_ends_what_it_signed(world: World, tmp_path: Path) -> None:
    old = world.agent()
    Authority(tmp_path / "new", trust_domain=TD, own=True, clock=world.clock)
    for file in (tmp_path / "new").iterdir():
        file.replace(world.authority._directory / file.name)
    assert await world.authority.refresh()
    assert await unauthenticated(world, old) == "certificate-chain"


async def test_a_node_that_was_removed(world: World) -> None:
    credentials = world.agent()
    world.model.nodes.clear()
    assert await unauthenticated(world, credentials) == "node-unknown"


async def test_tokens_that_prove_nothing(world: World) -> None:
    """I5."""
    _, token = await world.tokens.create("n1", 60, NOW_S)
    cases = [
        (Credentials(peer=PEER), "no-credentials"),
        (Credentials(peer=PEER, authorization=("Basic abc",)), "authorization-form"),
        (bearer(token, token), "authorization-form"),
        (bearer("nmj1.00.abc"), "token-unknown"),
        (bearer(""), "token-form"),
        (Credentials(peer=PEER, authorization=(f"Bearer {token}",), cluster="another"), "cluster"),
        (world.agent(), "no-credentials"),
    ]
    assert [await unauthenticated(world, credentials, world.by_token) for credentials, _ in cases] == [check for _, check in cases]
    world.clock.now_s += 60
    assert await unauthenticated(world, bearer(token), world.by_token) == "token-expired"


async def test_a_token_is_for_the_agent_of_its_node_only(world: World) -> None:
    _, token = await world.tokens.create("n1", 60, NOW_S)
    for named, asked in ((CART, CART), (AgentIdentity(TD, "n2"), AgentIdentity(TD, "n2")), (AgentIdentity(TD, "n2"), None)):
        with pytest.raises(RefusedError):
            await world.by_token.create(bearer(token), question(named, asked))
    assert answer(await world.by_token.create(bearer(token), question(N1)))


async def test_a_token_for_a_node_that_is_not_there(world: World) -> None:
    _, token = await world.tokens.create("n9", 60, NOW_S)
    with pytest.raises(ForbiddenError, match="node-unknown"):
        await world.by_token.create(bearer(token), question(AgentIdentity(TD, "n9")))


async def test_a_token_used_many_times_at_once_works_once(world: World) -> None:
    """I6."""
    _, token = await world.tokens.create("n1", 60, NOW_S)
    results = await asyncio.gather(*(world.by_token.create(bearer(token), question(N1)) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, bytes) for result in results) == 1
    assert sum(isinstance(result, UnauthenticatedError) for result in results) == 19


async def test_two_nodes_at_once_do_not_wait_for_one_that_floods(tmp_path: Path, signers: ThreadPoolExecutor) -> None:
    """I6: the flood holds one turn; the refusals of the rest wait without holding anything."""
    world = World(tmp_path, signers, Limits(burst=5, queue=3, refusal_delay_s=3600))
    flooding, calm = world.agent(), world.agent(AgentIdentity(TD, "n2"))
    flood = [asyncio.ensure_future(world.by_certificate.create(flooding, question(CART, CART))) for _ in range(300)]
    async with asyncio.timeout(20):
        assert answer(await world.by_certificate.create(calm, question(ON_N2, ON_N2)))
    for one in flood:
        one.cancel()
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(result, bytes) for result in results) <= 5
    assert not any(isinstance(result, BusyError) for result in results)
    world.audit.close()


async def test_revocation_does_not_refuse_what_comes_after_it(world: World) -> None:
    revoked = world.revocations.revoke(CART, world.clock())
    leaf, *_ = answer(await world.by_certificate.create(world.agent(), question(CART, CART)))
    assert leaf.not_valid_before_utc.timestamp() == revoked.issued_before_s


async def test_what_can_not_be_recorded_is_not_handed_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.audit._grants, "write", full)
    with pytest.raises(OSError, match="No space"):
        await world.by_certificate.create(world.agent(), question(CART, CART))


async def test_no_secret_is_in_the_audit_log_or_an_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """I7: the canaries are the token's secret, refused and granted, and the authority's own key."""
    _, token = await world.tokens.create("n1", 60, NOW_S)
    secret = token.rpartition(".")[2]
    key_file = (world.authority._directory / "ca-key.pem").read_text()
    errors = []
    for credentials in (bearer(token[:-1] + "-"), bearer(token), bearer(token)):
        try:
            await world.by_token.create(credentials, question(N1))
        except RefusedError as error:
            errors.append(f"{error!r} {error}")
    assert len(errors) == 2
    seen = (
        "".join(file.read_text() for file in world.path.glob("audit*.log"))
        + caplog.text
        + "".join(errors)
        + repr(bearer(token))
        + repr(world.parts)
    )
    assert secret[:-1] not in seen
    assert not [line for line in key_file.splitlines()[1:-1] if line in seen]
