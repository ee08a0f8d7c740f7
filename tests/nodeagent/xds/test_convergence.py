"""Whatever happens in whatever order, once everything is delivered the client holds what it asked for, as the server has it now."""

from collections import deque
from collections.abc import Callable, Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.discovery import Node, Request, Resource, Response
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE
from nodeagent.xds.core import Core
from nodeagent.xds.events import Effect, Flush, Lost, Opened, Received, Send, Subscribe, Unsubscribe, Update
from nodeagent.xds.holdings import STRAY_S
from tests.nodeagent.xds.samples import (
    bad_policy_resource,
    policy,
    policy_resource,
    service,
    service_resource,
    workload,
    workload_resource,
)

WORKLOADS, SERVICES, POLICIES = ("a", "b", "c"), ("s", "t"), ("p", "q")
KEYS = (
    *(f"Kubernetes//Pod/ns/{name}" for name in WORKLOADS),
    *(f"/10.0.0.{number}" for number in range(3)),
    *(f"ns/{name}.svc" for name in SERVICES),
    *(f"/10.9.0.{number}" for number in range(2)),
)
MESH = tuple[Resource, frozenset[str], frozenset[str]]


class Server:
    """The plainest server: after each event it says what differs. A name that began the stream counts as asked for."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        """Says nothing of what is no longer asked for, as the standard has it; else removes it by name."""
        self.mesh: dict[str, MESH] = {}
        self.policies: dict[str, Resource] = {}
        self.restart()

    def restart(self) -> None:
        self.keys: set[str] = set()
        self.told: dict[str, dict[str, str]] = {}
        self.absent: set[str] = set()
        self.nonce = 0

    def matching(self, keys: Iterable[str]) -> dict[str, Resource]:
        keys = set(keys)
        direct = {name for name, (_, own, _) in self.mesh.items() if keys & own}
        return {name: item for name, (item, _, services) in self.mesh.items() if name in direct or services & direct}

    def take(self, request: Request) -> None:
        if request.node is not None:
            self.told[request.type_url] = dict(request.initial_versions)
            if request.type_url == ADDRESS_TYPE:
                self.keys |= request.initial_versions.keys()
        if request.type_url == ADDRESS_TYPE:
            # What is asked for by name is sent, whatever was sent before.
            for name in self.matching(request.subscribe):
                self.told[ADDRESS_TYPE].pop(name, None)
            self.keys = (self.keys | set(request.subscribe)) - set(request.unsubscribe) - {"*"}
            self.absent &= self.keys - set(request.subscribe)
            if self.quiet and request.unsubscribe:
                still = self.matching(self.keys)
                self.told[ADDRESS_TYPE] = {
                    name: item for name, item in self.told[ADDRESS_TYPE].items() if name in still or name not in self.mesh
                }

    def news(self) -> list[Response]:
        wanted = {ADDRESS_TYPE: self.matching(self.keys), AUTHORIZATION_TYPE: self.policies}
        return [response for url, resources in wanted.items() if url in self.told and (response := self.difference(url, resources))]

    def difference(self, url: str, resources: dict[str, Resource]) -> Response | None:
        told = self.told[url]
        changed = tuple(item for name, item in resources.items() if told.get(name) != item.version)
        removed = {name for name in told if name not in resources}
        if url == ADDRESS_TYPE:
            absent = {key for key in self.keys if not self.matching([key])}
            removed |= absent - self.absent
            self.absent = absent
        self.told[url] = {name: item.version for name, item in resources.items()}
        self.nonce += 1
        return Response(url, str(self.nonce), changed, tuple(sorted(removed))) if changed or removed else None


class World:
    """A client and a server with a wire between that may hold messages back."""

    def __init__(self, *, quiet: bool) -> None:
        self.now = 0.0
        self.server = Server(quiet=quiet)
        self.core = Core(Node("n"), required=())
        self.up: deque[Request] = deque()
        self.down: deque[Response] = deque()
        self.view: dict[str, dict[str, str]] = {ADDRESS_TYPE: {}, AUTHORIZATION_TYPE: {}}
        self.absent: set[str] = set()
        self.connect()

    def connect(self) -> None:
        self.core.step(Lost(clean=True, error=""), self.now)
        self.up.clear()
        self.down.clear()
        self.server.restart()
        self.do(self.core.step(Opened(), self.now))

    def do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(request):
                    self.up.append(request)
                case Update():
                    self.apply(effect)

    def apply(self, update: Update) -> None:
        view = self.view.setdefault(update.type_url, {})
        for name in update.removed:
            view.pop(name, None)
        for accepted in update.upserts:
            view[accepted.resource.name] = accepted.resource.version
        self.absent |= set(update.absent)

    def server_turn(self) -> None:
        # What changed is told before a request is read, or a quiet server would hide it behind a key that is given up.
        self.down.extend(self.server.news())
        if self.up:
            self.server.take(self.up.popleft())
        self.down.extend(self.server.news())

    def client_turn(self) -> None:
        if self.down:
            self.do(self.core.step(Received(self.down.popleft()), self.now))

    def flush(self) -> None:
        self.do(self.core.step(Flush(), self.now))

    def exchange(self) -> None:
        self.flush()
        while self.up or self.down:
            self.server_turn()
            self.client_turn()

    def settle(self) -> None:
        for _ in range(2):
            self.server_turn()
            self.exchange()
            self.now += STRAY_S
        self.exchange()


def put_workload(name: str, ip: int, services: frozenset[str]) -> Callable[[World], None]:
    value = workload(name, f"10.0.0.{ip}", *(f"ns/{service}.svc" for service in sorted(services)))

    def act(world: World) -> None:
        item = workload_resource(value)
        world.server.mesh[item.name] = (item, frozenset({item.name, f"/10.0.0.{ip}"}), frozenset(value.services))

    return act


def put_service(name: str, vip: int) -> Callable[[World], None]:
    def act(world: World) -> None:
        item = service_resource(service(name, f"10.9.0.{vip}"))
        world.server.mesh[item.name] = (item, frozenset({item.name, f"/10.9.0.{vip}"}), frozenset())

    return act


def put_policy(name: str, *, good: bool) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.server.policies[f"ns/{name}"] = policy_resource(policy(name)) if good else bad_policy_resource(name)

    return act


def delete(name: str) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.server.mesh.pop(name, None)
        world.server.policies.pop(name, None)

    return act


def subscribe(keys: frozenset[str]) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.core.step(Subscribe(keys), world.now)

    return act


def unsubscribe(keys: frozenset[str]) -> Callable[[World], None]:
    def act(world: World) -> None:
        world.core.step(Unsubscribe(keys), world.now)

    return act


some_keys = st.frozensets(st.sampled_from(KEYS), min_size=1, max_size=3)
actions = st.one_of(
    st.builds(put_workload, st.sampled_from(WORKLOADS), st.integers(0, 2), st.frozensets(st.sampled_from(SERVICES))),
    st.builds(put_service, st.sampled_from(SERVICES), st.integers(0, 1)),
    st.builds(put_policy, st.sampled_from(POLICIES), good=st.booleans()),
    st.builds(delete, st.sampled_from([*KEYS[:3], *KEYS[6:8], "ns/p", "ns/q"])),
    st.builds(subscribe, some_keys),
    st.builds(unsubscribe, some_keys),
    st.sampled_from([World.server_turn, World.client_turn, World.flush]),
    st.sampled_from([World.connect, World.exchange]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(actions, min_size=10, max_size=50), st.booleans())
def test_the_client_comes_to_hold_what_it_asked_for(script: list[Callable[[World], None]], quiet: bool) -> None:
    world = World(quiet=quiet)
    for act in script:
        act(world)
    world.settle()
    wanted = world.core.wanted
    assert world.view[ADDRESS_TYPE] == {name: item.version for name, item in world.server.matching(wanted).items()}
    assert {key for key in wanted if not world.server.matching([key])} <= world.absent
    good = {name: item.version for name, item in world.server.policies.items() if item.body != bad_policy_resource(name[3:]).body}
    bad = world.server.policies.keys() - good.keys()
    assert {name: version for name, version in world.view[AUTHORIZATION_TYPE].items() if name not in bad} == good
    assert world.core.rejected[AUTHORIZATION_TYPE].keys() == bad
