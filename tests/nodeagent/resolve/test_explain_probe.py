"""What `explain` says of a probe: by the kernel's knowledge, by the node's address, or by policy like any other plaintext."""

from ipaddress import ip_address

import pytest

from meshapi.authorization import Action, Match, Policy, PolicyScope, Present
from meshapi.workload import TunnelProtocol, Workload, WorkloadUID
from nodeagent.resolve.explain_probe import explain_probe
from nodeagent.resolve.explanation import Explanation, Outcome
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply

API = Workload(
    uid=WorkloadUID("Kubernetes//Pod/default/api"),
    name="api",
    namespace="default",
    service_account="api",
    addresses=(ip_address("10.0.0.9"), ip_address("fd00::9")),
    tunnel_protocol=TunnelProtocol.HBONE,
)
FAR = Workload(uid=WorkloadUID("Kubernetes//Pod/default/far"), name="far", namespace="default", addresses=(ip_address("10.0.1.9"),))
STRICT = Policy("strict", "default", PolicyScope.NAMESPACE, Action.DENY, rules=((((Match(not_principals=(Present(),)),)),),))
MESH = Update(
    workloads=(API, FAR), policies=(STRICT,), policies_arrived=True, local_identities=((API.uid, str(API.identity)),)
)  # fmt: skip
FALL_BACK = Update(probe_sources=frozenset({ip_address("192.0.2.1")}), probe_ports=((API.uid, frozenset({8080})),))


def told(destination: str, *updates: Update, is_exempt: bool = False) -> Explanation:
    snapshot = Snapshot()
    for update in (MESH, *updates):
        snapshot = apply(snapshot, update).snapshot
    return explain_probe(snapshot, destination, "as the test says", cluster="Kubernetes", is_exempt=is_exempt)


@pytest.mark.parametrize(
    ("destination", "updates", "is_exempt", "outcome", "words"),
    [
        ("default/api:8080", (), True, Outcome.ALLOWED, "not through the proxy"),
        ("[fd00::9]:9", (), True, Outcome.ALLOWED, "not through the proxy"),
        ("default/api:8080", (), False, Outcome.DENIED, "denied by default/strict"),
        ("default/api:8080", (FALL_BACK,), False, Outcome.ALLOWED, "port 8080 is declared for probes"),
        ("10.0.0.9:8081", (FALL_BACK,), False, Outcome.DENIED, "denied by default/strict"),
        ("default/far:8080", (), True, Outcome.UNKNOWN, "does not run on this node"),
        ("default/none:8080", (), True, Outcome.UNKNOWN, "no workload that this agent knows"),
        ("10.9.9.9:80", (), True, Outcome.UNKNOWN, "no workload's address"),
        ("default/api", (), True, Outcome.UNKNOWN, "say namespace/pod:port"),
        ("default/api:0", (), True, Outcome.UNKNOWN, "say namespace/pod:port"),
        ("", (), True, Outcome.UNKNOWN, "say namespace/pod:port"),
    ],
)
def test_a_probe_is_told(destination: str, updates: tuple[Update, ...], is_exempt: bool, outcome: Outcome, words: str) -> None:
    explanation = told(destination, *updates, is_exempt=is_exempt)
    assert explanation.outcome is outcome
    assert explanation.steps[0].text == "the kubelet of this node: as the test says"
    assert words in explanation.steps[-1].text
