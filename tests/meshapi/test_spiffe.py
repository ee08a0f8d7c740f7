"""SPIFFE ids: the corpus that agent, controller and proxy judge alike, and what parsing gives back."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.spiffe import AgentIdentity, IdentityError, WorkloadIdentity

CORPUS = Path(__file__).parents[1] / "corpus" / "spiffe.txt"

trust_domains = st.text("abz019._-", min_size=1, max_size=255)
segments = st.text("abzAZ019._-", min_size=1, max_size=300).filter(lambda segment: segment not in {".", ".."})


def corpus(wanted: str) -> list[str]:
    lines = CORPUS.read_text().splitlines()
    return [json.loads(text) for verdict, text in (line.split(" ", 1) for line in lines) if verdict == wanted]


def test_the_corpus_holds_both_verdicts_and_nothing_else() -> None:
    assert len(corpus("accept")) >= 10
    assert len(corpus("refuse")) >= 60
    assert len(corpus("accept")) + len(corpus("refuse")) == len(CORPUS.read_text().splitlines())


@pytest.mark.parametrize("text", corpus("accept"), ids=lambda text: ascii(text[:60]))
def test_accepts_the_corpus_and_gives_it_back(text: str) -> None:
    assert str(WorkloadIdentity.parse(text)) == text


@pytest.mark.parametrize("text", corpus("refuse"), ids=lambda text: ascii(text[:60]))
def test_refuses_the_corpus(text: str) -> None:
    with pytest.raises(IdentityError):
        WorkloadIdentity.parse(text)


@given(trust_domains, segments, segments)
def test_what_is_built_parses_back_to_itself(trust_domain: str, namespace: str, service_account: str) -> None:
    identity = WorkloadIdentity(trust_domain, namespace, service_account)
    assert WorkloadIdentity.parse(str(identity)) == identity
    assert str(identity) == f"spiffe://{identity.principal}"


@given(st.text())
def test_whatever_is_accepted_is_given_back_exactly(text: str) -> None:
    for candidate in (text, f"spiffe://td/ns/{text}/sa/s", f"spiffe://{text}/ns/n/sa/s"):
        try:
            identity = WorkloadIdentity.parse(candidate)
        except IdentityError:
            continue
        assert str(identity) == candidate


def test_parts_that_would_make_another_identity_are_refused() -> None:
    for parts in (("td", "n/sa/x", "s"), ("td", "n", "s/t"), ("td/ns/n", "n", "s"), ("td", "..", "s"), ("", "n", "s"), ("td", "n", "")):
        with pytest.raises(IdentityError):
            WorkloadIdentity(*parts)


def test_an_identity_that_is_too_long_cannot_be_built() -> None:
    with pytest.raises(IdentityError, match="2048"):
        WorkloadIdentity("td", "n", "s" * 2048)


def test_an_agent_is_no_workload_and_the_reverse() -> None:
    agent = AgentIdentity.parse("spiffe://td/nodemesh/node/n1")
    assert (agent.trust_domain, agent.node) == ("td", "n1")
    with pytest.raises(IdentityError):
        AgentIdentity.parse("spiffe://td/ns/n/sa/s")
    with pytest.raises(IdentityError):
        WorkloadIdentity.parse(str(agent))
