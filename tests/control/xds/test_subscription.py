"""One type of one stream: every row of the delta protocol, as what the client asks against what it is sent."""

from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from control.resources import Changes, ResourceView, TypeURL
from control.xds import subscription as subscription_module
from control.xds.keys import NO_KEYS, keys_of
from control.xds.stream import MAX_UNKNOWN_TYPES, Changed, Received, Stream
from control.xds.subscription import MAX_KEY_CHARACTERS, RequestError
from meshapi.discovery import Request, Response
from meshapi.workload import NetworkAddress, Port, Service, Workload
from tests.control.fakes import ADDRESS, AUTHORIZATION, NOW_S, FakeModel


def workload(name: str, *ips: str, serves: tuple[str, ...] = (), revision: str = "") -> Workload:
    addresses = tuple(ip_address(ip) for ip in ips)
    services = {key: (Port(80, 8080),) for key in serves}
    return Workload(f"K//Pod/shop/{name}", name, "shop", addresses, services=services, canonical_revision=revision)


def service(name: str, *vips: str) -> Service:
    return Service(name, "shop", f"{name}.shop", tuple(NetworkAddress(ip_address(vip)) for vip in vips))


A, B = workload("a", "10.0.0.1"), workload("b", "10.0.0.2", serves=("shop/web.shop",))
WEB = service("web", "10.9.0.1")


@dataclass
class Client:
    """The other side of the stream: keeps what it is sent, and answers when the test says so."""

    model: FakeModel
    stream: Stream = field(init=False)
    holds: dict[str, str] = field(default_factory=dict)
    sent: list[Response] = field(default_factory=list)
    absent: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.stream = Stream({ADDRESS: self.model, AUTHORIZATION: self.model})
        self.model.watch(self.changed)

    def changed(self, changes: Changes) -> None:
        for type_url, names in changes.items():
            self.take(self.stream.step(Changed({type_url: touched(self.model, type_url, names)})))

    def ask(self, *subscribe: str, un: tuple[str, ...] = (), had: dict[str, str] | None = None, type_url: str = ADDRESS) -> None:
        request = Request(type_url, subscribe, un, initial_versions=had or {})
        self.take(self.stream.step(Received(request, NOW_S)))

    def answer(self, error: str | None = None, nonce: str | None = None) -> None:
        last = self.sent[-1]
        self.take(self.stream.step(Received(Request(last.type_url, nonce=last.nonce if nonce is None else nonce, error=error), NOW_S)))

    def take(self, responses: list[Response]) -> None:
        for response in responses:
            self.sent.append(response)
            for name in response.removed:
                self.holds.pop(name, None)
                self.absent.add(name)
            for resource in response.resources:
                self.holds[resource.name] = resource.version
                self.absent -= {resource.name, *resource.aliases}

    def last(self) -> tuple[set[str], set[str]]:
        """The names sent and removed by the last response."""
        return {one.name for one in self.sent[-1].resources}, set(self.sent[-1].removed)


def touched(model: ResourceView, type_url: TypeURL, names) -> dict[str, tuple[str, ...]]:
    found = {}
    for name in names:
        resource = model.get(type_url, name)
        keys = keys_of(type_url, resource) if resource else NO_KEYS
        found[name] = (*keys.aliases, *keys.serves)
    return found


@pytest.fixture
def model() -> FakeModel:
    model = FakeModel()
    for one in (A, B, WEB):
        model.put(one)
    return model


@pytest.fixture
def client(model: FakeModel) -> Client:
    return Client(model)


def version(model: FakeModel, name: str) -> str:
    resource = model.get(ADDRESS, name)
    assert resource is not None
    return resource.version


def test_no_names_asks_for_everything(client: Client) -> None:
    client.ask()
    assert client.last() == ({A.uid, B.uid, WEB.key}, set())


def test_a_star_asks_for_everything(client: Client) -> None:
    client.ask("*")
    assert client.last() == ({A.uid, B.uid, WEB.key}, set())


def test_a_star_both_ways_asks_for_nothing_yet_and_is_answered(client: Client) -> None:
    client.ask("*", un=("*",))
    assert client.last() == (set(), set())
    client.answer()
    assert len(client.sent) == 1


def test_an_empty_mesh_is_answered(client: Client) -> None:
    client.ask(type_url=AUTHORIZATION)
    assert client.last() == (set(), set())


def test_a_type_that_does_not_exist_is_not_answered(client: Client) -> None:
    client.ask(type_url="type.googleapis.com/none.Such")
    assert client.sent == []
    assert client.stream.unknown_types == {"type.googleapis.com/none.Such"}


def on_demand(client: Client, *keys: str) -> None:
    client.ask("*", un=("*",))
    client.answer()
    client.ask(*keys)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (A.uid, {A.uid}),
        ("/10.0.0.1", {A.uid}),
        (WEB.key, {WEB.key, B.uid}),
        ("/10.9.0.1", {WEB.key, B.uid}),
    ],
)
def test_keys_on_demand(client: Client, key: str, names: set[str]) -> None:
    on_demand(client, key)
    assert client.last() == (names, set())


def test_the_addresses_of_what_is_sent_on_demand_come_with_it(client: Client) -> None:
    on_demand(client, A.uid)
    assert client.sent[-1].resources[0].aliases == ("/10.0.0.1",)


def test_a_key_that_stands_for_nothing_is_answered_and_sent_when_it_comes(client: Client) -> None:
    on_demand(client, "/10.0.0.7", "K//Pod/shop/late")
    assert client.last() == (set(), {"/10.0.0.7", "K//Pod/shop/late"})
    client.answer()
    client.model.put(workload("late", "10.0.0.7"))
    assert client.last() == ({"K//Pod/shop/late"}, set())
    client.answer()
    client.model.remove("K//Pod/shop/late")
    assert client.last() == (set(), {"K//Pod/shop/late", "/10.0.0.7"})


def test_what_nobody_asked_for_is_not_sent(client: Client) -> None:
    on_demand(client, A.uid)
    client.answer()
    client.model.put(workload("c", "10.0.0.3"))
    client.model.remove(B.uid)
    assert len(client.sent) == 2


def test_a_new_member_of_a_watched_service_is_sent(client: Client) -> None:
    on_demand(client, "/10.9.0.1")
    client.answer()
    client.model.put(workload("c", "10.0.0.3", serves=(WEB.key,)))
    assert client.last() == ({"K//Pod/shop/c"}, set())


def test_a_member_that_leaves_is_no_longer_held(client: Client) -> None:
    on_demand(client, WEB.key)
    client.answer()
    client.model.put(workload("b", "10.0.0.2"))
    assert client.last() == (set(), {B.uid})


def test_a_member_that_leaves_but_was_asked_for_stays(client: Client) -> None:
    on_demand(client, WEB.key, B.uid)
    client.answer()
    client.model.put(workload("b", "10.0.0.2"))
    assert client.last() == ({B.uid}, set())


def test_an_address_that_moves(client: Client) -> None:
    on_demand(client, "/10.0.0.1")
    client.answer()
    client.model.put(workload("a", "10.0.0.9"))
    assert client.last() == (set(), {A.uid, "/10.0.0.1"})
    client.answer()
    client.model.put(workload("c", "10.0.0.1"))
    assert client.last() == ({"K//Pod/shop/c"}, set())


def test_changes_while_a_response_is_under_way_become_one(client: Client) -> None:
    client.ask()
    for number in range(50):
        client.model.put(workload("a", "10.0.0.1", revision=f"{number}"))
    client.model.put(workload("c"))
    client.model.remove("K//Pod/shop/c")
    assert len(client.sent) == 1
    client.answer()
    assert client.last() == ({A.uid}, set())
    assert client.holds[A.uid] == version(client.model, A.uid)
    client.answer()
    assert len(client.sent) == 2


def test_a_change_that_is_taken_back_is_not_sent(client: Client) -> None:
    client.ask()
    client.model.put(workload("a", "10.0.0.1", revision="2"))
    client.model.put(A)
    client.answer()
    assert len(client.sent) == 1


@pytest.mark.parametrize("nonce", ["", "0", "99", "garbage"])
def test_an_old_nonce_acknowledges_nothing(client: Client, nonce: str) -> None:
    client.ask()
    client.model.remove(A.uid)
    client.answer(nonce=nonce)
    assert len(client.sent) == 1


def test_a_refusal_is_kept_for_the_operator_and_not_sent_again(client: Client) -> None:
    client.ask()
    client.answer(error="bad: a")
    status = client.stream.status()[0]
    assert (status.nacks, status.acks, status.pending) == (1, 0, False)
    assert status.last_nack is not None
    assert status.last_nack.message == "bad: a"
    assert len(client.sent) == 1
    client.model.put(workload("a", "10.0.0.1", revision="2"))
    assert client.last() == ({A.uid}, set())


def test_coming_back_is_sent_only_what_differs(client: Client) -> None:
    had = {A.uid: version(client.model, A.uid), B.uid: "old", "K//Pod/shop/gone": "x"}
    client.ask(had=had)
    assert client.last() == ({B.uid, WEB.key}, {"K//Pod/shop/gone"})


def test_coming_back_to_a_restarted_controller_nothing_is_sent_again(client: Client) -> None:
    client.ask()
    again = Client(FakeModel(workloads=dict(client.model.workloads), services=dict(client.model.services)))
    again.ask(had=dict(client.holds))
    assert again.last() == (set(), set())


def test_coming_back_on_demand_what_was_held_is_still_asked_for(client: Client) -> None:
    """Istio's agents then name their resources only among the initial versions, and those with no version."""
    client.ask("*", un=("*",), had={A.uid: "", "K//Pod/shop/gone": "", B.uid: version(client.model, B.uid)})
    assert client.last() == ({A.uid}, {"K//Pod/shop/gone"})
    client.answer()
    client.model.put(workload("b", "10.0.0.2", revision="2"))
    assert client.last() == ({B.uid}, set())


def test_coming_back_on_demand_with_the_keys(client: Client) -> None:
    held = {name: version(client.model, name) for name in (WEB.key, B.uid)}
    client.ask("/10.9.0.1", "/10.0.0.99", had=held)
    assert client.last() == (set(), {"/10.0.0.99"})


def test_coming_back_on_demand_and_then_naming_the_keys(client: Client) -> None:
    """nodemesh's own agents: what they have first, then the keys; nothing that they have is sent, unless they ask once more."""
    held = {name: version(client.model, name) for name in (WEB.key, B.uid)}
    client.ask("*", un=("*",), had=held)
    client.answer()
    client.ask("/10.9.0.1", "/10.0.0.2", B.uid, "/10.0.0.99")
    assert client.last() == (set(), {"/10.0.0.99"})
    client.answer()
    client.ask("/10.0.0.2")
    assert client.last() == ({B.uid}, set())


def test_what_is_asked_for_again_is_sent_again(client: Client) -> None:
    """It may have been dropped on the other side; and a key needs an answer though its resource was sent for another key."""
    on_demand(client, WEB.key)
    client.answer()
    client.ask("/10.0.0.2")
    assert client.last() == ({B.uid}, set())
    client.answer()
    client.ask("/10.0.0.99")
    client.answer()
    client.ask("/10.0.0.99")
    assert client.last() == (set(), {"/10.0.0.99"})


def test_what_is_no_longer_asked_for_is_removed(client: Client) -> None:
    on_demand(client, WEB.key, A.uid)
    client.answer()
    client.ask(un=(WEB.key,))
    assert client.last() == (set(), {WEB.key, B.uid})
    client.answer()
    client.model.put(workload("b", "10.0.0.2", revision="2"))
    assert client.holds.keys() == {A.uid}


def test_from_everything_to_some(client: Client) -> None:
    client.ask("*", A.uid)
    client.answer()
    client.ask(un=("*",))
    assert client.last() == (set(), {B.uid, WEB.key})
    client.answer()
    client.model.put(workload("b", "10.0.0.2", revision="2"))
    client.model.put(workload("a", "10.0.0.1", revision="2"))
    assert client.last() == ({A.uid}, set())


def test_types_do_not_wait_for_each_other(client: Client) -> None:
    client.ask()
    client.ask(type_url=AUTHORIZATION)
    client.model.put_policy("shop/p", b"x")
    assert [response.type_url for response in client.sent] == [ADDRESS, AUTHORIZATION]
    client.answer()
    assert client.sent[-1].resources[0].name == "shop/p"


def test_big_answers_come_in_parts(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "MAX_RESPONSE_RESOURCES", 10)
    for number in range(25):
        client.model.put(workload(f"w{number}"))
    client.ask(*(f"absent-{number}" for number in range(15)), *(f"K//Pod/shop/w{number}" for number in range(25)))
    while client.stream.status()[0].pending:
        client.answer()
    parts = [len(response.resources) + len(response.removed) for response in client.sent]
    assert max(parts) == 10
    assert len(client.holds) == 25
    assert len(client.absent) == 15


def test_parts_are_bounded_by_size_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "MAX_RESPONSE_BYTES", 1)
    client.ask(A.uid, B.uid, WEB.key)
    assert len(client.sent[-1].resources) == 1
    client.answer()
    client.answer()
    assert len(client.holds) == 3


@pytest.mark.parametrize("had", [{}, {"shop/gone": "1"}])
def test_the_first_answer_about_everything_is_everything(client: Client, monkeypatch: pytest.MonkeyPatch, had: dict[str, str]) -> None:
    # Agents take it for the whole: a DENY in a second part would come after the first connections that it forbids.
    monkeypatch.setattr(subscription_module, "MAX_RESPONSE_RESOURCES", 10)
    monkeypatch.setattr(subscription_module, "MAX_RESPONSE_BYTES", 1)
    for number in range(25):
        client.model.put_policy(f"shop/p{number}", b"x")
    client.ask(type_url=AUTHORIZATION, had=had)
    assert len(client.sent[0].resources) == 25
    assert set(client.sent[0].removed) == set(had)
    client.answer()
    assert len(client.sent) == 1


def test_bounds_on_what_a_client_may_ask(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.ask("*", un=("*",))
    with pytest.raises(RequestError, match="characters"):
        client.ask("x" * (MAX_KEY_CHARACTERS + 1))
    monkeypatch.setattr(subscription_module, "MAX_KEYS", 5)
    with pytest.raises(RequestError, match="keys"):
        client.ask(*(f"k{number}" for number in range(6)))
    for number in range(MAX_UNKNOWN_TYPES):
        client.ask(type_url=f"t{number}")
    with pytest.raises(RequestError, match="types"):
        client.ask(type_url="one more")


def test_versions_come_only_first(client: Client) -> None:
    client.ask()
    with pytest.raises(RequestError, match="first"):
        client.ask(had={"a": "b"})
