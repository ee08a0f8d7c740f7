"""The held questions: answered, kept true, waiting, expiring, released; compared with answering everything anew."""

from ipaddress import ip_address

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.authorization import Action, Match, Policy, PolicyScope
from meshapi.workload import NetworkAddress, Port, Service, ServiceKey, TunnelProtocol, Workload, WorkloadUID
from nodeagent.resolve.resolve import RouteQuestion
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.answers import NotYet, Reply, answer_route, answer_verdict, parse_route, parse_verdict
from nodeagent.ztunnel.decisions import LABELS_WAIT_S, LAPSE_S, Decisions, Effects
from nodeagent.ztunnel.protocol import AnswerRoute, AnswerVerdict, AskRoute, AskVerdict, Forward, Holds, Pass, Refuse, Via
from tests.nodeagent.attributes import given_back

KEY = ServiceKey("shop/api.shop")
PEER = "spiffe://cluster.local/ns/shop/sa/web"


def pod(name: str, last: int, **fields: object) -> Workload:
    return Workload(
        uid=WorkloadUID(name),
        name=name,
        namespace="shop",
        service_account=name,
        addresses=(ip_address(f"10.0.0.{last}"),),
        tunnel_protocol=TunnelProtocol.HBONE,
        **fields,  # type: ignore[arg-type]
    )


WEB, API = pod("web", 1), pod("api", 9, services={KEY: (Port(80, 8080),)})
SERVICE = Service("api", "shop", "api.shop", addresses=(NetworkAddress(ip_address("10.1.0.1")),), ports=(Port(80, 8080),))
DENY = Policy("deny", "shop", PolicyScope.NAMESPACE, Action.DENY, rules=((((Match(destination_ports=(8080,)),)),),))
ASK_SERVICE = AskRoute(1, "web", "10.1.0.1:80")
ASK_VERDICT_FIELDS = ("api", "10.0.0.9:8080", Via.HBONE, "10.0.0.1", PEER)
ASK_VERDICT = AskVerdict(2, "api", "10.0.0.9:8080", Via.HBONE, "10.0.0.1", PEER)


class Bench:
    """Decisions with a snapshot that the test changes."""

    def __init__(self, *updates: Update, max_held: int = 100) -> None:
        self.snapshot = Snapshot()
        self.decisions = Decisions(self.snapshot, deadline_s=4, max_held=max_held)
        for update in updates:
            self.update(update)

    def update(self, update: Update, now: float = 0) -> Effects:
        applied = apply(self.snapshot, update)
        self.snapshot = applied.snapshot
        self.decisions.changed(applied.snapshot, applied.touched)
        effects = self.decisions.refresh(now, 1000)
        assert not self.decisions.stale
        return effects


FULL = Update(workloads=(WEB, API), services=(SERVICE,), policies_arrived=True)


def route_of(effects: Effects) -> object:
    (answer,) = effects.answers
    assert isinstance(answer, AnswerRoute)
    return answer.route


def verdict_of(effects: Effects) -> AnswerVerdict:
    (answer,) = effects.answers
    assert isinstance(answer, AnswerVerdict)
    return answer


def test_an_answer_serves_other_sources_only_where_its_labels_would_be_theirs_too() -> None:
    twin = msgspec.structs.replace(WEB, uid=WorkloadUID("twin"), name="twin", addresses=(ip_address("10.0.0.2"),))
    bench = Bench(FULL, Update(workloads=(twin,)))
    for source, name in (("10.0.0.1", "web"), ("10.0.0.2", "twin")):
        answer = verdict_of(bench.decisions.ask(AskVerdict(3, "api", "10.0.0.9:8080", Via.HBONE, source, PEER), now=0))
        assert (answer.holds, given_back(answer.attributes)["source_workload"]) == (Holds.THIS_SOURCE, name)
    outside = verdict_of(bench.decisions.ask(AskVerdict(4, "api", "10.0.0.9:8080", Via.PLAINTEXT, "10.0.0.1"), now=0))
    assert outside.holds is Holds.ANY_SOURCE
    assert "source_workload" not in given_back(outside.attributes)


def test_what_is_known_is_answered_at_once() -> None:
    bench = Bench(FULL)
    route = bench.decisions.ask(ASK_SERVICE, now=0)
    assert isinstance(route_of(route), Forward)
    assert sorted(route.needed) == ["/10.1.0.1", "web"]
    verdict = bench.decisions.ask(ASK_VERDICT, now=0)
    answer = verdict_of(verdict)
    assert (answer.allow, answer.holds) == (True, Holds.THIS_SOURCE)
    assert given_back(answer.attributes)["source_workload"] == "web"
    assert given_back(answer.attributes)["destination_service"] == "api.shop"
    assert sorted(verdict.needed) == ["/10.0.0.1", "api"]
    assert bench.decisions.waiting == 0


def test_a_held_verdict_turns_with_the_policy_and_nothing_else_is_sent() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_SERVICE, now=0)
    bench.decisions.ask(ASK_VERDICT, now=0)
    denied = verdict_of(bench.update(Update(policies=(DENY,))))
    assert (denied.id, denied.allow, denied.policy) == (2, False, "shop/deny")
    assert bench.update(Update(policies=(DENY,))).answers == []
    assert verdict_of(bench.update(Update(removed_policies=("shop/deny",)))).allow


SELECTED = Policy("p", "shop", PolicyScope.WORKLOAD_SELECTOR, Action.ALLOW, rules=((),))
NAMING = pod("api", 9, services=API.services, authorization_policies=("shop/p",))


def test_a_policy_and_the_workload_that_names_it_come_and_go_without_closing_what_is_allowed_throughout() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_VERDICT, now=0)
    assert bench.update(Update(workloads=(NAMING,))).answers == []
    assert "allowed by" in verdict_of(bench.update(Update(policies=(SELECTED,)))).reason
    assert bench.update(Update(removed_policies=("shop/p",))).answers == []
    assert verdict_of(bench.update(Update(workloads=(API,)))).allow
    assert bench.decisions.expire(10).answers == []


def test_a_named_policy_that_does_not_come_denies_soon_also_what_was_allowed() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_VERDICT, now=0)
    bench.update(Update(workloads=(NAMING,)), now=7)
    assert bench.decisions.next_deadline_s == 7 + LAPSE_S
    bench.update(Update(workloads=(pod("api", 9, authorization_policies=("shop/p", "shop/q")),)), now=7.1)
    assert bench.decisions.expire(7 + LAPSE_S - 0.01).answers == []
    denied = verdict_of(bench.decisions.expire(7 + LAPSE_S))
    assert (denied.allow, "shop/p" in denied.reason) == (False, True)
    assert bench.decisions.next_deadline_s is None
    assert bench.update(Update(workloads=(NAMING,)), now=8).answers == []
    assert bench.decisions.next_deadline_s is None, "a deny does not lapse"
    assert verdict_of(bench.update(Update(policies=(SELECTED,)))).allow


def test_a_deny_does_not_wait_for_a_named_policy() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_VERDICT, now=0)
    assert verdict_of(bench.update(Update(workloads=(NAMING,), policies=(DENY,)))).policy == "shop/deny"


def test_what_lapses_can_be_released() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_VERDICT, now=0)
    bench.update(Update(workloads=(NAMING,)))
    bench.decisions.release([2])
    assert bench.decisions.next_deadline_s is None


def test_a_held_route_follows_the_endpoints() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_SERVICE, now=0)
    second = pod("api-2", 10, services={KEY: (Port(80, 8080),)})
    more = route_of(bench.update(Update(workloads=(second,))))
    assert isinstance(more, Forward)
    assert [endpoint.uid for endpoint in more.endpoints] == ["api", "api-2"]
    gone = route_of(bench.update(Update(removed=("api", "api-2"))))
    assert isinstance(gone, Refuse)
    assert gone.flag == "UH"


def test_an_unknown_destination_is_asked_for_and_answered_when_it_is_known() -> None:
    bench = Bench(FULL)
    asked = bench.decisions.ask(AskRoute(3, "web", "192.0.2.1:443"), now=0)
    assert asked.answers == []
    assert "/192.0.2.1" in asked.needed
    assert bench.decisions.waiting == 1
    assert isinstance(route_of(bench.update(Update(absent=("/192.0.2.1",)))), Pass)
    assert bench.decisions.waiting == 0
    assert bench.decisions.expire(100).answers == []


def test_what_stays_unknown_is_refused_at_the_deadline_and_corrected_later() -> None:
    bench = Bench(Update(workloads=(WEB,)))
    bench.decisions.ask(AskRoute(3, "web", "192.0.2.1:443"), now=0)
    bench.decisions.ask(ASK_VERDICT, now=1)
    assert bench.decisions.next_deadline_s == 4
    assert bench.decisions.expire(3.9).answers == []
    refused = route_of(bench.decisions.expire(4))
    assert isinstance(refused, Refuse)
    assert (refused.flag, "192.0.2.1" in refused.reason) == ("NR", True)
    assert bench.decisions.next_deadline_s == 5
    denied = verdict_of(bench.decisions.expire(5))
    assert not denied.allow
    assert bench.decisions.next_deadline_s is None
    assert verdict_of(bench.update(FULL)).allow
    assert isinstance(route_of(bench.update(Update(absent=("/192.0.2.1",)))), Pass)


def test_an_answer_stays_when_what_it_stood_on_is_forgotten() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_SERVICE, now=0)
    assert bench.update(Update(removed=(SERVICE.key,))).answers == []


def test_a_removed_workload_is_denied() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_VERDICT, now=0)
    assert not verdict_of(bench.update(Update(removed=("api",), absent=("api",)))).allow


def test_a_client_address_of_another_identity_lends_no_labels() -> None:
    bench = Bench(FULL)
    asked = AskVerdict(2, "api", "10.0.0.9:8080", Via.HBONE, "10.0.0.9", PEER)
    attributes = given_back(verdict_of(bench.decisions.ask(asked, now=0)).attributes)
    assert "source_workload" not in attributes
    assert attributes["source_principal"] == PEER
    plain = AskVerdict(4, "api", "10.0.0.9:8080", Via.PLAINTEXT, "10.0.0.1")
    assert "source_workload" not in given_back(verdict_of(bench.decisions.ask(plain, now=0)).attributes)


def test_the_source_is_labelled_once_it_is_known() -> None:
    bench = Bench(Update(workloads=(API,), policies_arrived=True))
    first = verdict_of(bench.decisions.ask(ASK_VERDICT, now=0))
    assert "source_workload" not in given_back(first.attributes)
    assert given_back(verdict_of(bench.update(Update(workloads=(WEB,)))).attributes)["source_workload"] == "web"


def test_an_allow_waits_for_its_labels_where_a_controller_may_send_them() -> None:
    bench = Bench(Update(workloads=(API,), policies_arrived=True))
    assert bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True).answers == []
    assert bench.decisions.next_deadline_s == LABELS_WAIT_S
    assert given_back(verdict_of(bench.update(Update(workloads=(WEB,)))).attributes)["source_workload"] == "web"
    assert bench.decisions.expire(10).answers == []
    assert bench.decisions.next_deadline_s is None


def test_an_allow_without_labels_goes_out_in_time_and_again_with_them() -> None:
    bench = Bench(Update(workloads=(API,), policies_arrived=True))
    bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True)
    assert bench.decisions.expire(LABELS_WAIT_S - 0.01).answers == []
    first = verdict_of(bench.decisions.expire(LABELS_WAIT_S))
    assert first.allow
    assert "source_workload" not in given_back(first.attributes)
    assert given_back(verdict_of(bench.update(Update(workloads=(WEB,)))).attributes)["source_workload"] == "web"


def test_a_source_that_the_controller_does_not_know_is_not_waited_for_any_longer() -> None:
    bench = Bench(Update(workloads=(API,), policies_arrived=True))
    bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True)
    assert verdict_of(bench.update(Update(absent=("/10.0.0.1",)))).allow


def test_a_deny_never_waits_for_labels() -> None:
    bench = Bench(Update(workloads=(API,), policies=(DENY,), policies_arrived=True))
    assert not verdict_of(bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True)).allow
    bench = Bench(Update(workloads=(API,), policies_arrived=True))
    assert bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True).answers == []
    assert not verdict_of(bench.update(Update(policies=(DENY,)))).allow
    assert bench.decisions.expire(10).answers == []


def test_labels_are_waited_for_no_longer_than_the_verdict_may_take() -> None:
    snapshot = apply(Snapshot(), Update(workloads=(API,), policies_arrived=True)).snapshot
    decisions = Decisions(snapshot, deadline_s=LABELS_WAIT_S / 2, max_held=1)
    decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True)
    assert verdict_of(decisions.expire(LABELS_WAIT_S / 2)).allow


def test_what_waits_for_labels_can_be_released_and_can_lose_its_ground() -> None:
    bench = Bench(Update(workloads=(API,), policies_arrived=True))
    bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True)
    bench.decisions.release([2])
    assert bench.decisions.next_deadline_s is None
    bench.decisions.ask(ASK_VERDICT, now=0, wait_for_labels=True)
    bench.update(Update(removed=("api",)))
    assert bench.decisions.expire(LABELS_WAIT_S).answers == []
    assert not verdict_of(bench.decisions.expire(4)).allow


def test_malformed_questions_are_refused_and_not_held() -> None:
    bench = Bench(FULL)
    for destination in (
        "10.1.0.1",
        "10.1.0.1:0",
        "10.1.0.1:65536",
        "::1:80",
        "[::1%eth0]:80",
        "host:80",
        "10.1.0.1:+8",
        "[10.1.0.1]:80x",
        "",
    ):
        assert isinstance(route_of(bench.decisions.ask(AskRoute(9, "web", destination), now=0)), Refuse), destination
    for peer in ("spiffe://CLUSTER/ns/a/sa/b", "", "spiffe://cluster.local/ns/a/sa/b/", "spiffe://cluster.local/nodemesh/node/n1"):
        asked = AskVerdict(9, "api", "10.0.0.9:80", Via.HBONE, "10.0.0.1", peer)
        assert not verdict_of(bench.decisions.ask(asked, now=0)).allow, peer
    assert len(bench.decisions) == 0


def test_the_number_of_held_questions_is_bounded() -> None:
    bench = Bench(FULL, max_held=1)
    bench.decisions.ask(ASK_SERVICE, now=0)
    refused = route_of(bench.decisions.ask(AskRoute(7, "web", "10.1.0.1:80"), now=0))
    assert isinstance(refused, Refuse)
    assert refused.flag == "UO"
    bench.decisions.release((1,))
    assert isinstance(route_of(bench.decisions.ask(AskRoute(7, "web", "10.1.0.1:80"), now=0)), Forward)


def test_one_workload_cannot_take_the_place_of_the_others() -> None:
    bench = Bench(FULL, max_held=8)
    answers = [bench.decisions.ask(AskRoute(number, "web", f"10.1.0.1:{number + 1}"), now=0) for number in range(3)]
    refused = [isinstance(route := route_of(effects), Refuse) and route.flag == "UO" for effects in answers]
    assert refused == [False, False, True]
    assert verdict_of(bench.decisions.ask(AskVerdict(9, *ASK_VERDICT_FIELDS), now=0)).allow
    bench.decisions.release((0,))
    bench.decisions.release((0,))
    assert isinstance(route_of(bench.decisions.ask(AskRoute(5, "web", "10.1.0.1:80"), now=0)), Forward)


def test_what_is_released_leaves_nothing_behind() -> None:
    bench = Bench(FULL)
    asked = bench.decisions.ask(ASK_SERVICE, now=0)
    waiting = bench.decisions.ask(AskRoute(3, "web", "192.0.2.1:443"), now=0)
    released = bench.decisions.release((1, 3, 99))
    assert sorted(released.dropped) == sorted(asked.needed + waiting.needed)
    assert (len(bench.decisions), bench.decisions.waiting, bench.decisions._dependents, bench.decisions._per_workload) == (0, 0, {}, {})
    assert bench.update(Update(removed=("api",))).answers == []


def test_an_id_that_is_asked_again_replaces_the_question() -> None:
    bench = Bench(FULL)
    first = bench.decisions.ask(ASK_SERVICE, now=0)
    again = bench.decisions.ask(AskRoute(1, "web", "10.0.0.9:80"), now=0)
    assert sorted(again.dropped) == sorted(first.needed)
    assert len(bench.decisions) == 1


def test_verdicts_come_before_routes_and_in_parts() -> None:
    bench = Bench(FULL)
    bench.decisions.ask(ASK_SERVICE, now=0)
    bench.decisions.ask(ASK_VERDICT, now=0)
    applied = apply(bench.snapshot, Update(workloads=(API, pod("x", 11, services={KEY: ()})), policies=(DENY,)))
    bench.decisions.changed(applied.snapshot, applied.touched)
    assert isinstance(bench.decisions.refresh(0, 1).answers[0], AnswerVerdict)
    assert bench.decisions.stale
    assert isinstance(bench.decisions.refresh(0, 1).answers[0], AnswerRoute)
    assert not bench.decisions.stale


# ---- whatever happens, what the proxy holds is what would be answered anew, and what is subscribed is what is held

_pods = st.sampled_from([WEB, API, pod("api", 9), pod("web", 9), pod("other", 1, services={KEY: (Port(80, 81),)})])
_updates = st.builds(
    Update,
    workloads=st.lists(_pods, max_size=2).map(tuple),
    services=st.lists(st.sampled_from([SERVICE, Service("api", "shop", "api.shop")]), max_size=1).map(tuple),
    removed=st.lists(st.sampled_from(["web", "api", "other", KEY]), max_size=2).map(tuple),
    absent=st.lists(st.sampled_from(["web", "api", "/10.0.0.1", "/10.0.0.9", "/10.1.0.1"]), max_size=2).map(tuple),
    policies=st.lists(st.sampled_from([DENY, Policy("allow", "", PolicyScope.GLOBAL, Action.ALLOW)]), max_size=1).map(tuple),
    removed_policies=st.lists(st.sampled_from(["shop/deny", "/allow"]), max_size=1).map(tuple),
    rejected_policies=st.sampled_from([(), (("shop/bad", "?"),)]),
    policies_arrived=st.booleans(),
)
_asks = st.one_of(
    st.builds(AskRoute, st.integers(0, 5), st.sampled_from(["web", "api"]), st.sampled_from(["10.1.0.1:80", "10.0.0.9:80", "10.0.0.1:1"])),
    st.builds(
        AskVerdict,
        st.integers(0, 5),
        st.sampled_from(["web", "api"]),
        st.sampled_from(["10.0.0.9:8080", "10.0.0.1:80"]),
        st.just(Via.HBONE),
        st.sampled_from(["10.0.0.1", "10.0.0.9"]),
        st.sampled_from([PEER, "spiffe://cluster.local/ns/shop/sa/api"]),
    ),
)
_steps = st.lists(st.one_of(_asks, _updates, st.lists(st.integers(0, 5), max_size=2)), max_size=25)


@settings(max_examples=200, deadline=None)
@given(_steps)
def test_held_answers_are_kept_true(steps: list[object]) -> None:
    bench = Bench()
    asked: dict[int, AskRoute | AskVerdict] = {}
    held: dict[int, object] = {}
    needed: list[str] = []
    outside: list[RouteQuestion] = []
    for step in steps:
        if isinstance(step, Update):
            effects = bench.update(step)
        elif isinstance(step, AskRoute | AskVerdict):
            held.pop(step.id, None)
            effects = bench.decisions.ask(step, now=0)
            asked[step.id] = step
        else:
            assert isinstance(step, list)
            effects = bench.decisions.release(step)
            for number in step:
                asked.pop(number, None)
                held.pop(number, None)
        held |= {answer.id: answer for answer in effects.answers}
        needed += effects.needed
        for key in effects.dropped:
            needed.remove(key)
        outside += effects.outside
        for question in effects.inside:
            outside.remove(question)
        passing = [parse_route(asked[number]) for number, answer in held.items() if _passes(answer)]  # type: ignore[arg-type]
        assert sorted(map(str, outside)) == sorted(map(str, passing))
        fresh = {number: _anew(message, bench.snapshot) for number, message in asked.items()}
        for number, reply in fresh.items():
            if not isinstance(reply.answer, NotYet):
                assert held[number] == reply.answer
        assert sorted(needed) == sorted(key for reply in fresh.values() for key in reply.needs)


def _passes(answer: object) -> bool:
    return isinstance(answer, AnswerRoute) and isinstance(answer.route, Pass)


def _anew(message: AskRoute | AskVerdict, snapshot: Snapshot) -> Reply:
    if isinstance(message, AskRoute):
        return answer_route(message.id, parse_route(message), snapshot)
    return answer_verdict(message.id, parse_verdict(message), snapshot)
