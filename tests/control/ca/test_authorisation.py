"""I1, I2, I3: for whom a caller gets a certificate."""

import json
from pathlib import Path

import pytest

from control.ca.authorisation import authorise
from control.ca.callers import Caller, GatewayPod, JoiningNode, JoiningProxy, NodeAgent, ProxyRunner
from control.ca.refusal import ForbiddenError, MalformedError, RefusedError
from meshapi.spiffe import AgentIdentity, WorkloadIdentity
from tests.control.fakes import FakeModel

TD = "cluster.local"
CART = WorkloadIdentity(TD, "shop", "cart")
ON_N2 = WorkloadIdentity(TD, "shop", "on-n2")
AGENT, JOINER = NodeAgent("n1", 0, 10), JoiningNode("n1", "t")
OWN = AgentIdentity(TD, "n1")
MODEL = FakeModel(running={(CART, "n1"), (ON_N2, "n2")})

CASES = [
    (AGENT, None, OWN),
    (AGENT, str(OWN), OWN),
    (JOINER, None, OWN),
    (JOINER, str(OWN), OWN),
    (AGENT, str(CART), CART),
    (AGENT, str(ON_N2), "placement"),
    (AGENT, f"spiffe://{TD}/ns/shop/sa/never", "placement"),
    (AGENT, f"spiffe://{TD}/nodemesh/node/n2", "identity-form"),
    (JOINER, str(CART), "token-scope"),
    (JOINER, f"spiffe://{TD}/nodemesh/node/n2", "token-scope"),
    (AGENT, "spiffe://other.example/ns/shop/sa/cart", "trust-domain"),
    (NodeAgent("gone", 0, 10), None, "node-unknown"),
    (NodeAgent("gone", 0, 10), str(CART), "node-unknown"),
    (JoiningNode("gone", "t"), None, "node-unknown"),
    (AGENT, "", "identity-form"),
]


@pytest.mark.parametrize(("caller", "asked", "expected"), CASES)
def test_who_may_ask_for_whom(caller, asked, expected) -> None:
    if isinstance(expected, str):
        with pytest.raises(RefusedError) as refused:
            authorise(caller, asked, MODEL, TD)
        assert refused.value.check == expected
    else:
        assert authorise(caller, asked, MODEL, TD) == expected


def test_a_workload_that_went_is_denied_at_once() -> None:
    model = FakeModel(running={(CART, "n1")})
    assert authorise(AGENT, str(CART), model, TD) == CART
    model.running.clear()
    with pytest.raises(ForbiddenError, match="placement"):
        authorise(AGENT, str(CART), model, TD)


CORPUS = (Path(__file__).parents[2] / "corpus" / "spiffe.txt").read_text().splitlines()


@pytest.mark.parametrize("line", CORPUS, ids=lambda line: ascii(line[:60]))
def test_the_corpus_of_identities(line: str) -> None:
    """Whatever runs anywhere: only a well-formed identity of the mesh's own trust domain gets as far as the question of where it runs."""
    verdict, _, text = line.partition(" ")
    with pytest.raises(RefusedError) as refused:
        authorise(AGENT, json.loads(text), FakeModel(), TD)
    assert isinstance(refused.value, MalformedError if verdict == "refuse" else ForbiddenError)


GATE = WorkloadIdentity("cluster.local", "shop", "gate")


RUNNERS = JoiningProxy("shop", "gate", "t"), GatewayPod("shop", "gate", "gate-1"), ProxyRunner("shop", "gate", 0, 10)


@pytest.mark.parametrize("caller", RUNNERS)
def test_who_runs_an_envoy_gets_its_gateways_identity_and_no_other(caller: Caller) -> None:
    model = FakeModel(gateways={("shop", "gate")}, running={(CART, "n1")})
    assert authorise(caller, None, model, "cluster.local") == GATE
    assert authorise(caller, str(GATE), model, "cluster.local") == GATE
    for other in (str(CART), "spiffe://cluster.local/nodemesh/node/n1", "spiffe://other/ns/shop/sa/gate", "gate"):
        with pytest.raises(ForbiddenError, match="and nobody else"):
            authorise(caller, other, model, "cluster.local")
    with pytest.raises(ForbiddenError, match="there is no Gateway"):
        authorise(caller, None, FakeModel(), "cluster.local")
