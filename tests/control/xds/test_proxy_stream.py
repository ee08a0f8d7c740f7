"""control/xds/proxy_stream.py: an Envoy gets what it is to be told in an order in which nothing is named before it can be used."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from control.envoy.built import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SERVED
from control.resources import Changes, Resource, TypeURL
from control.xds.proxy_stream import GATE_S, ProxyStream
from control.xds.stream import Changed, Received, Ticked
from meshapi import discovery
from tests.control.fakes import version_of


@dataclass
class View:
    """What there is, by type and name."""

    content: dict[TypeURL, dict[str, str]] = field(default_factory=lambda: {one: {} for one in SERVED})

    def names(self, type_url: TypeURL) -> Collection[str]:
        return self.content[type_url]

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        text = self.content[type_url].get(name)
        return None if text is None else Resource(name, version_of(text.encode()), text.encode())

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        return (key,) if key in self.content[type_url] else ()

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:
        return ()

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        raise NotImplementedError


class Envoy:
    """An Envoy as a client: asks for everything of two types, then for what those name; checks at each step that it could use it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.stream = ProxyStream(dict.fromkeys(SERVED, view))
        self.has: dict[TypeURL, dict[str, str]] = {one: {} for one in SERVED}
        self.asked: dict[TypeURL, set[str]] = {ENDPOINTS: set(), ROUTES: set()}
        self.unread: list[discovery.Response] = []
        self.order: list[str] = []
        self.now_s = 0.0
        for type_url in (CLUSTER, LISTENER):
            self.send(discovery.Request(type_url))

    def send(self, request: discovery.Request) -> None:
        self.unread += self.stream.step(Received(request, self.now_s))

    def change(self, **content: dict[str, str]) -> None:
        """`clusters={"a": "1"}`: what there is of a type now."""
        names = {"clusters": CLUSTER, "endpoints": ENDPOINTS, "listeners": LISTENER, "routes": ROUTES}
        touched = {}
        for word, now in content.items():
            type_url = names[word]
            before, self.view.content[type_url] = self.view.content[type_url], now
            touched[type_url] = {name: () for name in {**before, **now} if before.get(name) != now.get(name)}
        self.unread += self.stream.step(Changed({one: touched[one] for one in SERVED if one in touched}))

    def read(self, error: str | None = None) -> discovery.Response:
        """Takes one response, and answers it."""
        response = self.unread.pop(0)
        type_url = TypeURL(response.type_url)
        self.order.append(type_url.rpartition(".")[2])
        if error is None:
            for name in response.removed:
                self.has[type_url].pop(name, None)
            self.has[type_url].update((one.name, one.body.decode()) for one in response.resources)
        self.send(discovery.Request(type_url, nonce=response.nonce, error=error))
        for source, target in ((CLUSTER, ENDPOINTS), (LISTENER, ROUTES)):
            named = set(self.has[source]) - self.asked[target]
            if named:
                self.asked[target] |= named
                self.send(discovery.Request(target, tuple(sorted(named))))
        return response

    def read_all(self) -> None:
        while self.unread:
            self.read()


def named(*names: str, version: str = "1") -> dict[str, str]:
    return dict.fromkeys(names, version)


def started(**content: dict[str, str]) -> Envoy:
    envoy = Envoy(View())
    envoy.read_all()
    envoy.change(**content)
    envoy.read_all()
    envoy.order.clear()
    return envoy


def test_what_is_named_comes_before_what_names_it() -> None:
    envoy = started(clusters=named("a"), endpoints=named("a"), listeners=named("l"), routes=named("l"))
    envoy.change(clusters=named("a", "b"), endpoints=named("a", "b"), listeners={"l": "with b"}, routes={"l": "to b"})
    envoy.read_all()
    assert envoy.order == ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]


def test_routes_wait_until_the_endpoints_are_taken() -> None:
    envoy = started(clusters=named("a"), endpoints=named("a"), listeners=named("l"), routes=named("l"))
    envoy.change(clusters=named("a", "b"), endpoints=named("a", "b"), routes={"l": "to b"})
    assert [one.type_url for one in envoy.unread] == [CLUSTER]
    envoy.read()
    assert [one.type_url for one in envoy.unread] == [ENDPOINTS]
    envoy.read()
    assert [one.type_url for one in envoy.unread] == [ROUTES]


def test_what_is_no_longer_named_goes_last() -> None:
    envoy = started(clusters=named("a", "b"), endpoints=named("a", "b"), listeners=named("l"), routes=named("l"))
    envoy.change(clusters=named("a"), endpoints=named("a"), routes={"l": "not to b any more"})
    envoy.read_all()
    assert envoy.order[0] == "RouteConfiguration"
    assert set(envoy.has[CLUSTER]) == {"a"}


def test_a_cluster_that_changes_gets_its_endpoints_again() -> None:
    envoy = started(clusters=named("a"), endpoints=named("a"))
    envoy.change(clusters=named("a", version="2"))
    envoy.read_all()
    assert envoy.order == ["Cluster", "ClusterLoadAssignment"]


def test_endpoints_alone_are_sent_alone() -> None:
    envoy = started(clusters=named("a"), endpoints=named("a"), listeners=named("l"), routes=named("l"))
    envoy.change(endpoints=named("a", version="2"))
    envoy.read_all()
    assert envoy.order == ["ClusterLoadAssignment"]


def test_a_client_that_never_asks_for_endpoints_gets_its_listeners_in_the_end() -> None:
    view = View()
    view.content[CLUSTER] = view.content[ENDPOINTS] = named("a")
    stream = ProxyStream(dict.fromkeys(SERVED, view))
    (response,) = stream.step(Received(discovery.Request(CLUSTER), 0.0))
    stream.step(Received(discovery.Request(CLUSTER, nonce=response.nonce), 0.0))
    view.content[LISTENER] = named("l")
    assert stream.step(Received(discovery.Request(LISTENER), 0.0)) == []
    assert stream.step(Ticked(1.0)) == []
    assert stream.step(Ticked(GATE_S)) == []
    (response,) = stream.step(Ticked(1.0 + GATE_S))
    assert response.type_url == LISTENER


def test_a_cluster_that_is_refused_holds_nothing_up_and_is_told() -> None:
    envoy = started(clusters=named("a"), endpoints=named("a"), listeners=named("l"), routes=named("l"))
    envoy.change(clusters=named("a", "bad"), endpoints=named("a", "bad"), listeners=named("l", version="2"))
    envoy.read(error="Error adding/updating cluster(s) bad: no such policy")
    envoy.read_all()
    assert envoy.has[LISTENER] == named("l", version="2")
    (refusal,) = envoy.stream.refusals.all()
    assert (refusal.type_url, refusal.name, refusal.message) == (CLUSTER, "bad", "no such policy")
    envoy.change(clusters={**named("a"), "bad": "better"})
    envoy.read_all()
    assert envoy.stream.refusals.all() == ()


def test_where_envoy_does_not_say_which_each_is_tried_alone() -> None:
    envoy = started(listeners=named("a", "b", "c"), routes=named("a", "b", "c"))
    envoy.change(routes=named("a", "b", "c", version="2"))
    first = envoy.read(error="a route is wrong")
    assert len(first.resources) == 3
    assert {one.name for one in envoy.stream.refusals.all()} == {"a", "b", "c"}
    while envoy.unread:
        (resource,) = envoy.unread[0].resources
        envoy.read(error="a route is wrong" if resource.name == "b" else None)
    assert [one.name for one in envoy.stream.refusals.all()] == ["b"]
    assert envoy.has[ROUTES] == {"a": "2", "b": "1", "c": "2"}


contents = st.fixed_dictionaries(
    {kind: st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123"), max_size=4) for kind in ("clusters", "listeners")}
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(contents, st.integers(0, 3)), max_size=8))
def test_it_always_ends_with_what_there_is(changes: Iterable[tuple[dict[str, dict[str, str]], int]]) -> None:
    """Each cluster has endpoints, each listener routes; changes come faster than they are read."""
    envoy = Envoy(View())
    for content, reads in changes:
        envoy.change(**content, endpoints=content["clusters"], routes=content["listeners"])
        for _ in range(min(reads, len(envoy.unread))):
            envoy.read()
    envoy.read_all()
    for type_url in (CLUSTER, LISTENER):
        assert envoy.has[type_url] == envoy.view.content[type_url]
    for type_url, source in ((ENDPOINTS, CLUSTER), (ROUTES, LISTENER)):
        assert {name: envoy.has[type_url].get(name) for name in envoy.has[source]} == envoy.view.content[type_url]
