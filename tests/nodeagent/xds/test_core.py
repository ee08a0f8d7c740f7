"""The state machine, one exchange at a time."""

import msgspec
import pytest

from meshapi.authorization import Action
from meshapi.discovery import Node, Request, Resource, Response, decode_response, encode_response
from meshapi.trust import TrustBundle, encode_trust
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, NAMES_TYPE, TRUST_TYPE
from meshapi.workload import NetworkMode
from nodeagent.xds.core import MAX_ERROR_CHARS, MAX_KEYS_PER_REQUEST, Core
from nodeagent.xds.events import DialAt, Effect, Flush, Lost, Opened, Ready, Received, Rejected, Send, Subscribe, Unsubscribe, Update
from nodeagent.xds.holdings import STRAY_S
from tests.nodeagent.xds.samples import (
    bad_policy_resource,
    policy,
    policy_resource,
    resource,
    service,
    service_resource,
    workload,
    workload_resource,
)

NODE = Node("ztunnel~10.0.0.9~agent.ns~ns.svc.cluster.local", {"NODE_NAME": "n1"})
ALL = (ADDRESS_TYPE, AUTHORIZATION_TYPE, TRUST_TYPE)


def opened(required: tuple[str, ...] = ALL, *keys: str) -> Core:
    core = Core(NODE, required=required, chance=lambda: 0.0)
    core.step(Subscribe(frozenset(keys)), 0)
    core.step(Opened(), 0)
    return core


def receive(core: Core, type_url: str, *resources: Resource, removed: tuple[str, ...] = (), now: float = 0) -> tuple[Effect, ...]:
    return core.step(Received(Response(type_url, "n1", resources, removed)), now)


def sent(effects: tuple[Effect, ...]) -> list[Request]:
    return [effect.request for effect in effects if isinstance(effect, Send)]


def updates(effects: tuple[Effect, ...]) -> list[Update]:
    return [effect for effect in effects if isinstance(effect, Update)]


def test_a_stream_begins_with_nothing_on_demand_and_the_wildcards() -> None:
    core = Core(NODE, required=ALL)
    assert sent(core.step(Opened(), 0)) == [
        Request(ADDRESS_TYPE, subscribe=("*",), unsubscribe=("*",), node=NODE),
        Request(AUTHORIZATION_TYPE, node=NODE),
        Request(TRUST_TYPE, node=NODE),
        Request(NAMES_TYPE, node=NODE),
    ]


def test_a_good_response_applies_and_is_acknowledged() -> None:
    core = opened(ALL, "/10.0.0.1")
    web = workload("web")
    effects = receive(core, ADDRESS_TYPE, workload_resource(web))
    assert [accepted.value for update in updates(effects) for accepted in update.upserts] == [web]
    assert sent(effects) == [Request(ADDRESS_TYPE, nonce="n1")]


def test_what_came_for_a_key_that_is_asked_for_answers_it_and_nothing_else_does() -> None:
    core = opened(ALL, "/10.0.0.1")
    api = service("api", "10.0.0.1", "10.0.0.2")
    [update] = updates(receive(core, ADDRESS_TYPE, service_resource(api)))
    assert update.answered == ("/10.0.0.1",)
    core.step(Subscribe(frozenset({"/10.0.0.2"})), 0)
    core.step(Lost(clean=True, error=""), 1)
    # By its version alone, the server would say nothing to the key that it was not asked for before.
    assert sent(core.step(Opened(), 2))[0].initial_versions == {api.key: ""}
    [update] = updates(receive(core, ADDRESS_TYPE, service_resource(api)))
    assert update.answered == ("/10.0.0.1", "/10.0.0.2")
    core.step(Lost(clean=True, error=""), 3)
    assert sent(core.step(Opened(), 4))[0].initial_versions == {api.key: service_resource(api).version}


def test_a_nodes_address_stands_for_nothing_and_those_who_share_it_stay() -> None:
    core = opened(ALL, "ns/web.svc", "/10.0.0.1")
    shared = msgspec.structs.replace(workload("web", "10.0.0.1", "ns/web.svc"), network_mode=NetworkMode.HOST_NETWORK)
    receive(core, ADDRESS_TYPE, service_resource(service("web")), workload_resource(shared))
    [update] = updates(receive(core, ADDRESS_TYPE, removed=("/10.0.0.1",)))
    assert (update.removed, update.absent) == ((), ("/10.0.0.1",))


def test_a_resource_that_says_to_be_of_another_type_is_refused_alone() -> None:
    """Whatever its body would decode to: the message inside may mean something else in the type that it names."""
    core = opened(ALL, "/10.0.0.1", "/10.0.0.2")
    other = msgspec.structs.replace(workload_resource(workload("web")), other_type=TRUST_TYPE)
    sent_body = encode_response(Response(ADDRESS_TYPE, "n1", (other, workload_resource(workload("db", "10.0.0.2")))))
    effects = core.step(Received(decode_response(sent_body)), 0)
    [rejected] = [effect for effect in effects if isinstance(effect, Rejected)]
    assert rejected.name == "Kubernetes//Pod/ns/web"
    assert f"of type '{TRUST_TYPE}'" in rejected.error
    assert [accepted.resource.name for update in updates(effects) for accepted in update.upserts] == ["Kubernetes//Pod/ns/db"]
    [answer] = sent(effects)
    assert answer.error is not None
    assert "Kubernetes//Pod/ns/web" in answer.error


def test_subscriptions_are_gathered_until_the_stream_takes_them() -> None:
    core = opened()
    core.step(Subscribe(frozenset({"/10.0.0.1", "/10.0.0.2"})), 0)
    core.step(Subscribe(frozenset({"/10.0.0.3"})), 0)
    core.step(Unsubscribe(frozenset({"/10.0.0.2"})), 0)
    assert sent(core.step(Flush(), 0)) == [Request(ADDRESS_TYPE, subscribe=("/10.0.0.1", "/10.0.0.3"))]
    assert core.step(Flush(), 0) == ()


def test_a_long_list_of_keys_is_split() -> None:
    core = opened()
    core.step(Subscribe(frozenset(f"/key{number}" for number in range(MAX_KEYS_PER_REQUEST + 1))), 0)
    assert [len(request.subscribe) for request in sent(core.step(Flush(), 0))] == [MAX_KEYS_PER_REQUEST, 1]


def test_a_key_that_stands_for_nothing_is_absent_until_something_comes() -> None:
    core = opened(ALL, "/10.0.0.1", "ns/web.svc")
    [update] = updates(receive(core, ADDRESS_TYPE, removed=("/10.0.0.1", "ns/web.svc", "/not-asked-for")))
    assert update == Update(ADDRESS_TYPE, absent=("/10.0.0.1", "ns/web.svc"))
    [update] = updates(receive(core, ADDRESS_TYPE, workload_resource(workload("web"))))
    assert update.upserts
    assert update.absent == ()


def test_a_removed_resource_leaves_its_keys_absent() -> None:
    core = opened(ALL, "/10.0.0.1")
    receive(core, ADDRESS_TYPE, workload_resource(workload("web")))
    assert updates(receive(core, ADDRESS_TYPE, removed=("Kubernetes//Pod/ns/web",))) == [
        Update(ADDRESS_TYPE, removed=("Kubernetes//Pod/ns/web",), absent=("/10.0.0.1",))
    ]


def test_what_is_held_under_a_key_that_the_server_does_not_know_is_out_of_date() -> None:
    core = opened(ALL, "/10.0.0.1")
    receive(core, ADDRESS_TYPE, workload_resource(workload("web")))
    assert updates(receive(core, ADDRESS_TYPE, removed=("/10.0.0.1",))) == [
        Update(ADDRESS_TYPE, removed=("Kubernetes//Pod/ns/web",), absent=("/10.0.0.1",))
    ]


def test_an_address_that_moves_to_another_workload_is_not_absent() -> None:
    core = opened(ALL, "/10.0.0.1")
    receive(core, ADDRESS_TYPE, workload_resource(workload("old")))
    effects = receive(core, ADDRESS_TYPE, workload_resource(workload("new")), removed=("Kubernetes//Pod/ns/old",))
    [update] = updates(effects)
    assert update.removed == ("Kubernetes//Pod/ns/old",)
    assert [accepted.resource.name for accepted in update.upserts] == ["Kubernetes//Pod/ns/new"]
    assert update.absent == ()


def test_a_workload_that_moves_leaves_its_old_address_absent() -> None:
    core = opened(ALL, "/10.0.0.1", "Kubernetes//Pod/ns/web")
    receive(core, ADDRESS_TYPE, workload_resource(workload("web", "10.0.0.1")))
    [update] = updates(receive(core, ADDRESS_TYPE, workload_resource(workload("web", "10.0.0.2"))))
    assert update.absent == ("/10.0.0.1",)


def test_a_bad_resource_is_refused_alone_and_named() -> None:
    core = opened()
    good = policy("good")
    effects = receive(core, AUTHORIZATION_TYPE, bad_policy_resource("bad"), policy_resource(good))
    assert [accepted.value for update in updates(effects) for accepted in update.upserts] == [good]
    [rejected] = [effect for effect in effects if isinstance(effect, Rejected)]
    assert (rejected.name, rejected.has_last_good) == ("ns/bad", False)
    [answer] = sent(effects)
    assert answer.nonce == "n1"
    assert answer.error is not None
    assert answer.error.startswith("ns/bad: ")
    assert core.rejected[AUTHORIZATION_TYPE].keys() == {"ns/bad"}


def test_a_refusal_names_the_keys_that_the_resource_was_sent_for() -> None:
    core = opened()
    core.step(Subscribe(frozenset({"/10.0.0.9"})), 0)
    effects = receive(core, ADDRESS_TYPE, Resource("api", "1", b"\xff", ("/10.0.0.9",)))
    assert [effect.keys for effect in effects if isinstance(effect, Rejected)] == [("/10.0.0.9",)], "the name was not asked for"


def test_the_last_good_form_stays_and_a_new_stream_asks_for_it_again() -> None:
    core = opened()
    receive(core, AUTHORIZATION_TYPE, policy_resource(policy("a")))
    effects = receive(core, AUTHORIZATION_TYPE, bad_policy_resource("a"))
    assert updates(effects) == []
    assert [effect.has_last_good for effect in effects if isinstance(effect, Rejected)] == [True]
    core.step(Lost(clean=False, error="gone"), 1)
    assert sent(core.step(Opened(), 2))[1].initial_versions == {"ns/a": ""}
    receive(core, AUTHORIZATION_TYPE, policy_resource(policy("a", Action.ALLOW)))
    assert core.rejected[AUTHORIZATION_TYPE] == {}


def test_a_refused_policy_that_goes_while_the_stream_is_down_is_forgotten() -> None:
    core = opened()
    receive(core, AUTHORIZATION_TYPE, bad_policy_resource("bad"))
    core.step(Lost(clean=True, error=""), 1)
    assert sent(core.step(Opened(), 2))[1].initial_versions == {"ns/bad": ""}
    assert updates(receive(core, AUTHORIZATION_TYPE, removed=("ns/bad",))) == [Update(AUTHORIZATION_TYPE, removed=("ns/bad",))]
    assert core.rejected[AUTHORIZATION_TYPE] == {}


def test_a_resource_that_is_not_what_it_is_called_is_refused() -> None:
    core = opened()
    body = policy_resource(policy("allow-all")).body
    effects = receive(core, AUTHORIZATION_TYPE, resource("ns/deny-all", body))
    assert updates(effects) == []
    assert core.rejected[AUTHORIZATION_TYPE].keys() == {"ns/deny-all"}


def test_the_text_of_a_refusal_is_bounded() -> None:
    core = opened()
    effects = receive(core, AUTHORIZATION_TYPE, *(bad_policy_resource("x" * 1000 + str(number)) for number in range(100)))
    [answer] = sent(effects)
    assert answer.error is not None
    assert len(answer.error) == MAX_ERROR_CHARS


def test_a_type_that_was_not_asked_for_is_refused() -> None:
    core = opened()
    [answer] = sent(receive(core, "type.googleapis.com/other", resource("a", b"")))
    assert answer.error == "type.googleapis.com/other was not asked for"


def test_a_new_stream_says_what_is_held_and_asks_again() -> None:
    core = opened(ALL, "/10.0.0.1")
    held = workload_resource(workload("web"))
    receive(core, ADDRESS_TYPE, held)
    core.step(Lost(clean=True, error=""), 1)
    core.step(Subscribe(frozenset({"/10.0.0.2"})), 1)
    assert core.step(Flush(), 1) == ()
    requests = sent(core.step(Opened(), 2))
    assert requests[0] == Request(ADDRESS_TYPE, ("*",), ("*",), {held.name: held.version}, node=NODE)
    assert requests[1] == Request(ADDRESS_TYPE, ("/10.0.0.1", "/10.0.0.2"))


def test_what_was_kept_is_restored_and_what_nobody_wants_is_dropped_with_the_next_stream() -> None:
    core = Core(NODE, required=ALL)
    core.step(Subscribe(frozenset({"/10.0.0.1"})), 0)
    kept, unwanted = workload_resource(workload("a", "10.0.0.1")), workload_resource(workload("b", "10.0.0.2"))
    core.restore_answered(("/10.0.0.1", "/10.0.0.2"))
    [update] = updates(core.restore(ADDRESS_TYPE, (kept, unwanted), {}, 0))
    assert [accepted.resource for accepted in update.upserts] == [kept, unwanted]
    effects = core.step(Opened(), 1)
    assert updates(effects) == [Update(ADDRESS_TYPE, removed=(unwanted.name,))]
    assert sent(effects)[0].initial_versions == {kept.name: kept.version}


def test_what_was_kept_and_cannot_be_read_is_refused_and_asked_for_again() -> None:
    core = Core(NODE, required=ALL)
    effects = core.restore(AUTHORIZATION_TYPE, (bad_policy_resource("a"), policy_resource(policy("b"))), {"ns/c": "was bad then"}, 0)
    assert [effect.name for effect in effects if isinstance(effect, Rejected)] == ["ns/a", "ns/c"]
    assert sent(core.step(Opened(), 1))[1].initial_versions == {"ns/a": "", "ns/b": policy_resource(policy("b")).version, "ns/c": ""}


def test_giving_up_a_service_gives_up_its_members_unless_someone_else_wants_them() -> None:
    core = opened(ALL, "/10.9.0.1", "/10.0.0.2")
    members = [workload("a", "10.0.0.1", "ns/web.svc"), workload("b", "10.0.0.2", "ns/web.svc")]
    receive(core, ADDRESS_TYPE, *map(workload_resource, members), service_resource(service("web", "10.9.0.1")))
    core.step(Unsubscribe(frozenset({"/10.9.0.1"})), 1)
    assert core.step(Flush(), 1) == (Send(Request(ADDRESS_TYPE, (), ("/10.9.0.1",))),)
    assert core.step(Flush(), 1 + STRAY_S) == (
        Update(ADDRESS_TYPE, removed=("Kubernetes//Pod/ns/a", "ns/web.svc")),
        Send(Request(ADDRESS_TYPE, (), ("Kubernetes//Pod/ns/a", "ns/web.svc"))),
    )


def test_what_is_asked_for_again_in_time_stays() -> None:
    core = opened(ALL, "/10.0.0.1")
    receive(core, ADDRESS_TYPE, workload_resource(workload("web")))
    core.step(Unsubscribe(frozenset({"/10.0.0.1"})), 1)
    core.step(Flush(), 1)
    core.step(Subscribe(frozenset({"Kubernetes//Pod/ns/web"})), 2)
    core.step(Flush(), 2)
    assert core.step(Flush(), 2 * STRAY_S) == ()


def test_what_was_under_way_when_its_key_was_given_up_goes_after_a_while() -> None:
    core = opened()
    receive(core, ADDRESS_TYPE, workload_resource(workload("web")), now=10)
    assert updates(core.step(Flush(), 10 + STRAY_S - 1)) == []
    assert updates(core.step(Flush(), 10 + STRAY_S)) == [Update(ADDRESS_TYPE, removed=("Kubernetes//Pod/ns/web",))]


def test_members_that_come_before_their_service_stay() -> None:
    core = opened(ALL, "/10.9.0.1")
    receive(core, ADDRESS_TYPE, workload_resource(workload("a", "10.0.0.1", "ns/web.svc")), now=0)
    receive(core, ADDRESS_TYPE, service_resource(service("web", "10.9.0.1")), now=1)
    assert core.step(Flush(), 2 * STRAY_S) == ()


def test_ready_when_each_required_type_was_answered() -> None:
    core = opened((ADDRESS_TYPE, AUTHORIZATION_TYPE))
    assert Ready() not in receive(core, ADDRESS_TYPE)
    assert not core.ready
    assert Ready() in receive(core, AUTHORIZATION_TYPE, bad_policy_resource("bad"))
    assert Ready() not in receive(core, TRUST_TYPE)


def test_a_bundle_without_roots_is_one() -> None:
    core = opened()
    bundle = TrustBundle("cluster.local", ())
    [update] = updates(receive(core, TRUST_TYPE, resource("cluster.local", encode_trust(bundle))))
    assert update.upserts[0].value == bundle


def test_delays_double_to_the_last_and_an_orderly_end_after_an_answer_begins_anew() -> None:
    core = Core(NODE, required=ALL, chance=lambda: 0.0)
    delays = [core.step(Lost(clean=False, error="refused"), 0)[0] for _ in range(13)]
    assert delays[:3] == [DialAt(0.01), DialAt(0.02), DialAt(0.04)]
    assert delays[-2:] == [DialAt(15.0), DialAt(15.0)]
    core.step(Opened(), 100)
    assert core.step(Lost(clean=True, error="at once"), 100) == (DialAt(115.0),)
    core.step(Opened(), 200)
    receive(core, AUTHORIZATION_TYPE)
    assert core.step(Lost(clean=True, error="restart"), 200) == (DialAt(200.01),)


@pytest.mark.parametrize(("lasted_s", "delay_s"), [(1.0, 0.08), (20.0, 0.01)])
def test_a_stream_that_lasted_was_no_failure_to_connect(lasted_s: float, delay_s: float) -> None:
    core = Core(NODE, required=ALL, chance=lambda: 0.0)
    for _ in range(3):
        core.step(Lost(clean=False, error="refused"), 0)
    core.step(Opened(), 0)
    assert core.step(Lost(clean=False, error="reset"), lasted_s) == (DialAt(lasted_s + delay_s),)
