"""What follows from Kubernetes' answer about a token: every answer that is not exactly right is a refusal that names the check."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from control.ca.callers import AgentPod, Credentials, GatewayPod
from control.ca.refusal import UnauthenticatedError
from control.ca.revocations import Revocations
from control.ca.service_accounts import Accounts, Review, ServiceAccountAuthenticator, TrustedAccounts
from control.resources import PlacedPod
from meshapi.spiffe import AgentIdentity
from tests.control.fakes import NOW_S, FakeClock, FakeModel

TD = "cluster.local"
EXTRA = {
    "authentication.kubernetes.io/pod-name": ("agent-x",),
    "authentication.kubernetes.io/pod-uid": ("u1",),
    "authentication.kubernetes.io/node-name": ("n1",),
}


def answered(audiences: tuple[str, ...], username: str, extra: dict[str, tuple[str, ...]]) -> Review:
    return Review(authenticated=True, audiences=audiences, username=username, extra=extra)


GOOD = answered(("istio-ca",), "system:serviceaccount:mesh:agent", EXTRA)
RUNNING = PlacedPod("u1", "n1", "agent", live=True, addresses=())


BOUND = {"namespace": "mesh", "pod": {"name": "agent-x", "uid": "u1"}}


def token(**claims: Any) -> str:
    body = {"iat": int(NOW_S) - 60, "exp": int(NOW_S) + 600, "aud": ["istio-ca"], "kubernetes.io": BOUND} | claims
    return f"e30.{base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip('=')}.c2ln"


class Kubernetes:
    """Answers every question alike, and counts them."""

    def __init__(self, answer: Review) -> None:
        self.answer = answer
        self.asked = 0

    async def review(self, token: str, audience: str) -> Review:
        self.asked += 1
        return self.answer


class Desk:
    def __init__(self, path: Path, answer: Review = GOOD, pod: PlacedPod | None = RUNNING, *, any_source: bool = False) -> None:
        self.clock = FakeClock()
        self.kubernetes = Kubernetes(answer)
        self.model = FakeModel(pods={("mesh", "agent-x"): pod} if pod else {})
        self.revocations = Revocations(path / "revocations.json")
        accounts = Accounts(TrustedAccounts(frozenset({"mesh/agent"}), "istio-ca", any_source=any_source), self.kubernetes)
        self.authenticator = ServiceAccountAuthenticator(accounts, self.model, self.revocations, trust_domain=TD, clock=self.clock)

    async def ask(self, shown: str | None = None, peer: str = "ipv4:127.0.0.1:4000") -> AgentPod | GatewayPod:
        return await self.authenticator.authenticate(Credentials(peer, authorization=(f"Bearer {shown or token()}",)))

    async def refusal(self, shown: str | None = None, peer: str = "ipv4:127.0.0.1:4000") -> str:
        with pytest.raises(UnauthenticatedError) as error:
            await self.ask(shown, peer)
        return error.value.check


async def test_an_agent(tmp_path: Path) -> None:
    agent = await Desk(tmp_path).ask()
    assert agent == AgentPod("n1", "mesh", "agent-x", "u1", int(NOW_S) - 60, int(NOW_S) + 600)


GATEWAY_POD = {
    "authentication.kubernetes.io/pod-name": ("gate-1",),
    "authentication.kubernetes.io/pod-uid": ("u2",),
    "authentication.kubernetes.io/node-name": ("n1",),
}
ITS_REVIEW = answered(("istio-ca",), "system:serviceaccount:shop:gate", GATEWAY_POD)
ITS_TOKEN = {"kubernetes.io": {"namespace": "shop", "pod": {"name": "gate-1", "uid": "u2"}}}
ITS_POD = PlacedPod("u2", "n1", "gate", live=True, addresses=("10.0.0.9",))


def gateway_desk(path: Path, pod: PlacedPod = ITS_POD, gateways: frozenset[tuple[str, str]] = frozenset({("shop", "gate")})) -> Desk:
    desk = Desk(path, ITS_REVIEW)
    desk.model.pods[("shop", "gate-1")] = pod
    desk.model.gateways = set(gateways)
    return desk


async def test_a_pod_of_a_gateway(tmp_path: Path) -> None:
    """It is of the Gateway of its account's name, and shows its token from its own address."""
    found = await gateway_desk(tmp_path).ask(token(**ITS_TOKEN), "ipv4:10.0.0.9:4000")
    assert found == GatewayPod("shop", "gate", "gate-1")


@pytest.mark.parametrize(
    ("change", "peer", "check"),
    [
        ({"pod": PlacedPod("u2", "n1", "gate", live=True, addresses=("10.0.0.8",))}, "ipv4:10.0.0.9:4000", "token-source"),
        ({}, "ipv4:127.0.0.1:4000", "token-source"),
        ({"pod": PlacedPod("u3", "n1", "gate", live=True, addresses=("10.0.0.9",))}, "ipv4:10.0.0.9:4000", "pod-unknown"),
        ({"pod": PlacedPod("u2", "n1", "gate", live=False, addresses=("10.0.0.9",))}, "ipv4:10.0.0.9:4000", "pod-ended"),
        ({"pod": PlacedPod("u2", "n1", "cart", live=True, addresses=("10.0.0.9",))}, "ipv4:10.0.0.9:4000", "pod-ended"),
        ({"gateways": frozenset()}, "ipv4:10.0.0.9:4000", "token-account"),
        ({"gateways": frozenset({("other", "gate")})}, "ipv4:10.0.0.9:4000", "token-account"),
    ],
)
async def test_a_pod_that_is_no_gateways(tmp_path: Path, change: dict[str, Any], peer: str, check: str) -> None:
    assert await gateway_desk(tmp_path, **change).refusal(token(**ITS_TOKEN), peer) == check


def extra(**changed: tuple[str, ...] | None) -> Review:
    merged = {**EXTRA, **{f"authentication.kubernetes.io/{key.replace('_', '-')}": value for key, value in changed.items()}}
    return answered(("istio-ca",), GOOD.username, {key: value for key, value in merged.items() if value is not None})


ANSWERS = [
    (Review(error="expired", audiences=("istio-ca",), username=GOOD.username, extra=EXTRA), "token-unknown"),
    (answered((), GOOD.username, EXTRA), "token-audience"),
    (answered(("https://kubernetes.default.svc",), GOOD.username, EXTRA), "token-audience"),
    (answered(("istio-ca",), "system:serviceaccount:mesh:other", EXTRA), "token-account"),
    (answered(("istio-ca",), "system:serviceaccount:other:agent", EXTRA), "token-account"),
    (answered(("istio-ca",), "x-system:serviceaccount:mesh:agent", EXTRA), "token-account"),
    (answered(("istio-ca",), "mesh:agent", EXTRA), "token-account"),
    (answered(("istio-ca",), "admin", EXTRA), "token-account"),
    (extra(pod_name=None), "token-unbound"),
    (extra(pod_uid=()), "token-unbound"),
    (extra(node_name=("n1", "n2")), "token-unbound"),
    (extra(node_name=("",)), "token-unbound"),
    (extra(node_name=("n2",)), "pod-elsewhere"),
    (extra(node_name=("n9",)), "node-unknown"),
    (extra(node_uid=("another",)), "node-unknown"),
    (extra(pod_uid=("u2",)), "pod-unknown"),
    (extra(pod_name=("agent-y",)), "pod-unknown"),
]


@pytest.mark.parametrize(("answer", "check"), ANSWERS)
async def test_answers_that_prove_nothing(tmp_path: Path, answer: Review, check: str) -> None:
    assert await Desk(tmp_path, answer).refusal() == check


PODS = [
    (None, "pod-unknown"),
    (PlacedPod("u1", "n1", "agent", live=False, addresses=()), "pod-ended"),
    (PlacedPod("u1", "n2", "agent", live=True, addresses=()), "pod-elsewhere"),
    (PlacedPod("u1", "n1", "other", live=True, addresses=()), "pod-elsewhere"),
]


@pytest.mark.parametrize(("pod", "check"), PODS)
async def test_the_pod_must_be_there_and_live(tmp_path: Path, pod: PlacedPod | None, check: str) -> None:
    assert await Desk(tmp_path, pod=pod).refusal() == check


FORMS = [
    "a.b",
    "a.b.c.d",
    "..",
    "a.%%.c",
    f"a.{base64.b64encode(b'[' * 9000).decode()}.c",
    "a.e30.c",
    token(exp="soon"),
    "\udcff.\udcff.\udcff",
]


@pytest.mark.parametrize("shown", [*FORMS, token(exp=int(NOW_S)), token(aud="other"), token(aud=[]), token(**{"kubernetes.io": {}})])
async def test_what_can_not_pass_costs_kubernetes_nothing(tmp_path: Path, shown: str) -> None:
    desk = Desk(tmp_path)
    assert (await desk.refusal(shown)).startswith("token-")
    assert desk.kubernetes.asked == 0


async def test_who_makes_tokens_up_does_not_know_a_pods_uid(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    made_up = token(**{"kubernetes.io": {"namespace": "mesh", "pod": {"name": "agent-x", "uid": "guessed"}}})
    assert await desk.refusal(made_up) == "pod-unknown"
    assert desk.kubernetes.asked == 0


SOURCES = ["ipv4:192.0.2.1:4000", "ipv6:[2001:db8::1]:4000", "unix:/tmp/x", "", "ipv6:%5B::1%5D:4000"]


@pytest.mark.parametrize("peer", SOURCES)
async def test_from_another_place_than_its_node(tmp_path: Path, peer: str) -> None:
    assert await Desk(tmp_path).refusal(peer=peer) == "token-source"
    assert await Desk(tmp_path, any_source=True).ask(peer=peer)


async def test_a_mapped_address_is_the_one_it_stands_for(tmp_path: Path) -> None:
    assert await Desk(tmp_path).ask(peer="ipv6:%5B::ffff:127.0.0.1%5D:4000")


async def test_a_revoked_agent_needs_a_later_token(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.revocations.revoke(AgentIdentity(TD, "n1"), NOW_S)
    assert await desk.refusal() == "token-revoked"
    assert await desk.ask(token(iat=int(NOW_S) + 1))
