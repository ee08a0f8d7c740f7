"""Who may connect: tables for each rule of the evaluation, and the fast evaluator against the reference."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.authorization import Action, Exact, Match, Policy, PolicyScope, Prefix, Present, ServiceAccountMatch, Suffix
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress, Workload, WorkloadUID
from nodeagent.policy.authorize import Undecided, Verdict, VerdictQuestion, authorize
from nodeagent.policy.compiled import Connection
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.protocol import Holds, Via
from tests.nodeagent.policy import generated, reference

UID = WorkloadUID("Kubernetes//Pod/shop/api")
ADDRESS = ip_address("10.0.0.9")
API = Workload(uid=UID, name="api", namespace="shop", addresses=(ADDRESS, ip_address("fd00::9")))
WEB = WorkloadIdentity("cluster.local", "shop", "web")


def knowing(*policies: Policy, workload: Workload = API, rejected: tuple[tuple[str, str], ...] = (), arrived: bool = True) -> Snapshot:
    update = Update(workloads=(workload,), policies=policies, rejected_policies=rejected, policies_arrived=arrived)
    return apply(Snapshot(), update).snapshot


def ask(peer: WorkloadIdentity | None = WEB, source: str = "10.0.0.1", port: int = 80, destination: IPAddress = ADDRESS) -> VerdictQuestion:
    return VerdictQuestion(UID, destination, port, Via.HBONE if peer else Via.PLAINTEXT, ip_address(source), peer)


def policy(*matches: Match, action: Action = Action.ALLOW, name: str = "p", scope: PolicyScope = PolicyScope.NAMESPACE) -> Policy:
    return Policy(name, "shop", scope, action, rules=((tuple(matches),),))


def judge(snapshot: Snapshot, question: VerdictQuestion) -> Verdict:
    verdict = authorize(snapshot, question)
    assert isinstance(verdict, Verdict)
    return verdict


def test_without_policies_everybody_may() -> None:
    assert judge(knowing(), ask()) == Verdict(allow=True, reason="no ALLOW policy holds for the workload")


def test_a_deny_that_matches_wins_over_an_allow() -> None:
    allow = policy(Match(namespaces=(Exact("shop"),)), name="allow")
    deny = policy(Match(destination_ports=(80,)), name="deny", action=Action.DENY)
    assert judge(knowing(allow, deny), ask()) == Verdict(allow=False, reason="denied by shop/deny", policy="shop/deny")
    assert judge(knowing(allow, deny), ask(port=81)).policy == "shop/allow"


def test_an_allow_policy_that_does_not_match_denies() -> None:
    verdict = judge(knowing(policy(Match(principals=(Exact("cluster.local/ns/shop/sa/other"),)))), ask())
    assert (verdict.allow, verdict.policy) == (False, None)
    assert "shop/p" in verdict.reason


@pytest.mark.parametrize(
    ("rules", "action", "allow"),
    [
        ((), Action.ALLOW, False),  # no rules: never matches
        ((), Action.DENY, True),
        (((),), Action.ALLOW, True),  # a rule without clauses matches
        (((),), Action.DENY, False),
        ((((),),), Action.ALLOW, True),  # a clause without matches matches
        ((((Match(),),),), Action.ALLOW, False),  # a match of nothing never widens
        ((((Match(),),),), Action.DENY, False),
    ],
)
def test_emptiness(rules: tuple[object, ...], action: Action, allow: bool) -> None:
    assert judge(knowing(Policy("p", "shop", PolicyScope.NAMESPACE, action, rules=rules)), ask()).allow is allow  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("match", "peer", "matches"),
    [
        (Match(principals=(Exact("cluster.local/ns/shop/sa/web"),)), WEB, True),
        (Match(principals=(Exact("spiffe://cluster.local/ns/shop/sa/web"),)), WEB, False),
        (Match(principals=(Prefix("cluster.local/ns/shop/"),)), WEB, True),
        (Match(principals=(Suffix("/sa/web"),)), WEB, True),
        (Match(principals=(Exact("*"),)), WEB, False),  # literal: wildcards are the controller's to translate
        (Match(principals=(Exact("cluster.local/ns/shop/sa/w.b"),)), WEB, False),
        (Match(principals=(Present(),)), WEB, True),
        (Match(principals=(Present(),)), None, False),
        (Match(principals=(Prefix(""),)), None, False),  # who has no identity matches no name
        (Match(namespaces=(Suffix(""),)), None, False),
        (Match(not_principals=(Present(),)), None, True),
        (Match(not_principals=(Present(),)), WEB, False),
        (Match(namespaces=(Exact("shop"),)), WorkloadIdentity("other.org", "shop", "web"), True),
        (Match(principals=(Exact("cluster.local/ns/shop/sa/web"),)), WorkloadIdentity("other.org", "shop", "web"), False),
        (Match(service_accounts=(ServiceAccountMatch("shop", "web"),)), WEB, True),
        (Match(service_accounts=(ServiceAccountMatch("shop", "w"),)), WEB, False),
        (Match(not_service_accounts=(ServiceAccountMatch("shop", "web"),)), WEB, False),
        (Match(source_ips=(ip_network("10.0.0.0/24"),)), WEB, True),
        (Match(source_ips=(ip_network("::ffff:10.0.0.0/120"),)), WEB, True),
        (Match(source_ips=(ip_network("::/0"),)), WEB, False),
        (Match(not_source_ips=(ip_network("10.0.0.1/32"),)), WEB, False),
        (Match(destination_ips=(ip_network("10.0.0.9/32"),), destination_ports=(80,)), WEB, True),
        (Match(destination_ips=(ip_network("10.0.0.9/32"),), destination_ports=(81,)), WEB, False),
        (Match(not_destination_ports=(80, 81)), WEB, False),
        (Match(not_destination_ips=(ip_network("10.0.0.8/32"),)), WEB, True),
    ],
)
@pytest.mark.parametrize("action", [Action.ALLOW, Action.DENY])
def test_each_field(match: Match, peer: WorkloadIdentity | None, matches: bool, action: Action) -> None:
    assert judge(knowing(policy(match, action=action)), ask(peer)).allow is (matches if action is Action.ALLOW else not matches)


def test_an_ipv4_mapped_source_is_its_ipv4_address() -> None:
    deny = policy(Match(source_ips=(ip_network("10.0.0.0/24"),)), action=Action.DENY)
    assert not judge(knowing(deny), ask(source="::ffff:10.0.0.1")).allow
    assert judge(knowing(deny), ask(source="fd00::1")).allow


def test_answers_hold_for_any_source_unless_a_policy_in_play_looks_at_it() -> None:
    by_name = policy(Match(namespaces=(Exact("shop"),)), name="name")
    by_source = policy(Match(not_source_ips=(ip_network("10.9.0.0/16"),)), name="source")
    elsewhere = Policy("q", "other", PolicyScope.NAMESPACE, Action.DENY, rules=((((Match(source_ips=(ip_network("::/0"),)),)),),))
    assert judge(knowing(by_name, elsewhere), ask()).holds is Holds.ANY_SOURCE
    assert judge(knowing(by_name, by_source), ask()).holds is Holds.THIS_SOURCE


def test_a_selected_policy_holds_only_where_it_is_named_and_is_waited_for_where_it_has_not_arrived() -> None:
    selected = policy(Match(destination_ports=(80,)), action=Action.DENY, scope=PolicyScope.WORKLOAD_SELECTOR)
    naming = Workload(uid=UID, name="api", namespace="shop", addresses=(ADDRESS,), authorization_policies=("shop/p",))
    assert judge(knowing(selected), ask()).allow
    assert not judge(knowing(selected, workload=naming), ask()).allow
    assert authorize(knowing(workload=naming), ask(port=81)) == Undecided("policy shop/p", lapses=True)
    denying = policy(Match(destination_ports=(81,)), action=Action.DENY, name="deny")
    assert judge(knowing(denying, workload=naming), ask(port=81)).policy == "shop/deny", "whatever the other one says"
    assert judge(knowing(workload=naming, rejected=(("shop/p", "?"),)), ask(port=81)).policy == "shop/p", "it will not come"


def test_a_policy_that_could_not_be_understood_denies_where_it_may_hold() -> None:
    for name, denied in [("shop/bad", True), ("istio-system/bad", True), ("other/bad", False)]:
        assert judge(knowing(rejected=((name, "unknown action"),)), ask()).allow is not denied, name
    good = policy(Match(destination_ports=(80,)))
    assert judge(knowing(good, rejected=(("shop/p", "unknown field"),)), ask()).allow, "the last good form stays in force"


def test_a_workload_that_is_not_known_waits_and_one_that_does_not_exist_is_denied() -> None:
    empty = apply(Snapshot(), Update(policies_arrived=True)).snapshot
    assert isinstance(authorize(empty, ask()), Undecided)
    assert not judge(apply(empty, Update(absent=(UID,))).snapshot, ask()).allow


def test_nothing_is_allowed_before_the_policies_have_arrived() -> None:
    assert isinstance(authorize(knowing(arrived=False), ask()), Undecided)


@pytest.mark.parametrize(
    "question",
    [
        VerdictQuestion(UID, ADDRESS, 80, Via.HBONE, ADDRESS, None),
        VerdictQuestion(UID, ADDRESS, 80, Via.PLAINTEXT, ADDRESS, WEB),
        VerdictQuestion(UID, ip_address("10.0.0.10"), 80, Via.HBONE, ADDRESS, WEB),
    ],
)
def test_questions_that_contradict_themselves_are_denied(question: VerdictQuestion) -> None:
    assert not judge(knowing(), question).allow


@pytest.mark.parametrize("peer", [WEB, None])
def test_whoever_may_speak_to_a_unit_may_not_speak_to_all_of_its_host(peer: WorkloadIdentity | None) -> None:
    unit = apply(knowing(), Update(unit_ports=((UID, frozenset({80})),))).snapshot
    assert judge(unit, ask(peer, port=80)).allow
    assert judge(unit, ask(peer, port=22)) == Verdict(allow=False, reason=f"port 22 of the host is not {UID}'s")
    assert not judge(apply(unit, Update(unit_ports=((UID, frozenset()),))).snapshot, ask(peer, port=80)).allow
    assert judge(apply(unit, Update(unit_ports=((UID, None),))).snapshot, ask(peer, port=22)).allow


def test_a_workload_that_runs_here_as_somebody_else_is_denied() -> None:
    """A pod was replaced under the same name, and the policies that are known are the former's."""
    snapshot = knowing()
    for identity, allowed in ((str(API.identity), True), ("spiffe://cluster.local/ns/shop/sa/other", False)):
        assert judge(apply(snapshot, Update(local_identities=((UID, identity),))).snapshot, ask()).allow is allowed


NODE, NODE6, STRANGER = "10.0.0.200", "fd00::200", "10.0.0.1"
STRICT = policy(Match(not_principals=(Present(),)), action=Action.DENY, name="strict")


def probing(sources: tuple[str, ...] = (NODE, NODE6), ports: tuple[int, ...] = (80,), **more: bool) -> Snapshot:
    """STRICT, and a fall-back for probes."""
    update = Update(probe_sources=frozenset(map(ip_address, sources)), probe_ports=((UID, frozenset(ports)),))
    return apply(knowing(STRICT, **more), update).snapshot


@pytest.mark.parametrize(
    ("snapshot", "question", "allowed"),
    [
        (probing(), ask(None, NODE), True),
        (probing(), ask(None, NODE6, destination=ip_address("fd00::9")), True),
        (probing(), ask(None, f"::ffff:{NODE}"), True),
        (probing(arrived=False), ask(None, NODE), True),
        (probing(), ask(None, NODE, port=81), False),
        (probing(), ask(None, STRANGER), False),
        (probing(sources=()), ask(None, NODE), False),
        (probing(ports=()), ask(None, NODE), False),
        (apply(probing(), Update(probe_ports=((UID, None),))).snapshot, ask(None, NODE), False),
        (apply(probing(), Update(probe_sources=frozenset())).snapshot, ask(None, NODE), False),
        (
            apply(Snapshot(), Update(probe_sources=frozenset({ip_address(NODE)}), probe_ports=((UID, frozenset({80})),))).snapshot,
            ask(None, NODE),
            True,
        ),
    ],
)
def test_plaintext_from_the_node_to_a_port_for_probes_is_let_in(snapshot: Snapshot, question: VerdictQuestion, allowed: bool) -> None:
    verdict = judge(snapshot, question)
    assert verdict.allow is verdict.is_probe is allowed


def test_a_probe_is_no_answer_for_others_and_others_are_none_for_probes() -> None:
    for source in (NODE, STRANGER):
        assert judge(probing(), ask(None, source)).holds is Holds.THIS_SOURCE
    assert judge(probing(), ask(None, STRANGER, port=81)).holds is Holds.ANY_SOURCE
    assert judge(probing(), ask(WEB, NODE)).is_probe is False, "who has an identity is judged by it"


def test_dry_run_never_decides_but_says_what_it_would() -> None:
    trial = Policy("try", "shop", PolicyScope.NAMESPACE, Action.DENY, rules=((),), dry_run=True)
    verdict = judge(knowing(trial), ask())
    assert (verdict.allow, verdict.dry_run) == (True, "denied by shop/try")
    narrow = Policy("try", "shop", PolicyScope.NAMESPACE, Action.ALLOW, dry_run=True)
    assert judge(knowing(narrow), ask()).dry_run == "no ALLOW policy matches (shop/try)"
    assert judge(knowing(policy(Match(namespaces=(Exact("shop"),))), narrow), ask()).dry_run is None


# ---- the fast evaluator against the definition


@settings(max_examples=400, deadline=None)
@given(
    st.lists(generated.policies, max_size=4, unique_by=lambda policy: policy.key),
    st.lists(st.sampled_from(["shop/a", "other/b", "shop/missing"]), max_size=2).map(tuple),
    generated.peers,
    st.sampled_from(["10.0.0.1", "10.0.1.1", "fd00::1", "::ffff:10.0.0.2"]),
    st.sampled_from(["10.0.0.9", "fd00::9"]),
    st.sampled_from([80, 82]),
)
def test_agrees_with_the_definition(
    policies: list[Policy], named: tuple[str, ...], peer: WorkloadIdentity | None, source: str, destination: str, port: int
) -> None:
    workload = Workload(uid=UID, name="api", namespace="shop", addresses=API.addresses, authorization_policies=named)
    question = ask(peer, source, port, ip_address(destination))
    plain_source = ip_address(source.removeprefix("::ffff:"))
    expected = reference.allowed(workload, policies, Connection(plain_source, question.destination, port, peer))
    snapshot = knowing(*policies, workload=workload)
    verdict = authorize(snapshot, question)
    if isinstance(verdict, Undecided):
        assert not expected
        assert set(named) - {policy.key for policy in policies}
        return
    assert verdict.allow is expected, verdict
    if verdict.holds is Holds.ANY_SOURCE:
        others = (ask(peer, other, port, question.destination) for other in ("10.0.0.2", "192.0.2.1", "fd00::2"))
        assert all(judge(snapshot, other).allow is expected for other in others)


@settings(max_examples=200, deadline=None)
@given(st.lists(generated.policies, max_size=3, unique_by=lambda policy: policy.key), generated.policies, generated.peers)
def test_an_update_gives_what_starting_over_gives(policies: list[Policy], changed: Policy, peer: WorkloadIdentity | None) -> None:
    updated = apply(knowing(*policies), Update(policies=(changed,))).snapshot
    afresh = knowing(*[policy for policy in policies if policy.key != changed.key], changed)
    assert judge(updated, ask(peer)) == judge(afresh, ask(peer))
    removed = apply(updated, Update(removed_policies=(changed.key,))).snapshot
    without = knowing(*[policy for policy in policies if policy.key != changed.key])
    assert judge(removed, ask(peer)) == judge(without, ask(peer))
