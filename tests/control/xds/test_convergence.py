"""Whatever happens to the model, what a client asks and what it answers: once it is quiet, it holds exactly what it asked for."""

from ipaddress import ip_address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control.resources import Changes
from control.xds.stream import Changed, Received, Stream
from meshapi.discovery import Request, Response
from meshapi.workload import NetworkAddress, Port, Service, Workload
from tests.control.fakes import ADDRESS, NOW_S, FakeModel
from tests.control.xds.test_subscription import touched

PODS = [f"K//Pod/shop/{name}" for name in "abc"]
SERVICES = ["shop/x.shop", "shop/y.shop"]
IPS = ["10.0.0.1", "10.0.0.2"]
VIPS = ["10.9.0.1", "10.9.0.2"]
KEYS = [*PODS, *SERVICES, *(f"/{ip}" for ip in IPS + VIPS), "/10.0.0.9"]


class Conversation(RuleBasedStateMachine):
    """A client that believes every response, as an agent does, beside a server that only knows what it sent."""

    def __init__(self) -> None:
        super().__init__()
        self.model = FakeModel()
        self.model.watch(self.changed)
        self.open = False
        self.holds: dict[str, str] = {}
        self.keys: set[str] = set()
        self.wildcard = False
        self.unread: list[Response] = []
        self.nonce = ""

    @initialize(wildcard=st.booleans())
    def start(self, wildcard: bool) -> None:
        self.wildcard = wildcard
        self.connect()

    def connect(self) -> None:
        self.stream = Stream({ADDRESS: self.model})
        self.open = True
        self.unread, self.nonce, self.asked_first = [], "", True
        star = () if self.wildcard else ("*",)
        first = Request(ADDRESS, (*star, *sorted(self.keys)), star, initial_versions=dict(self.holds))
        if self.wildcard:
            self.keys.clear()
            first = Request(ADDRESS, initial_versions=dict(self.holds))
        else:
            # What it holds it goes on asking for, by name.
            self.keys |= set(self.holds)
        self.unread += self.stream.step(Received(first, NOW_S))

    def changed(self, changes: Changes) -> None:
        if self.open:
            for type_url, names in changes.items():
                self.unread += self.stream.step(Changed({type_url: touched(self.model, type_url, names)}))

    @rule(
        pod=st.sampled_from(PODS), ips=st.sets(st.sampled_from(IPS)), serves=st.sets(st.sampled_from(SERVICES)), revision=st.integers(0, 2)
    )
    def put_pod(self, pod: str, ips: set[str], serves: set[str], revision: int) -> None:
        ports = {key: (Port(80),) for key in sorted(serves)}
        addresses = tuple(ip_address(ip) for ip in sorted(ips))
        self.model.put(Workload(pod, "p", "shop", addresses, services=ports, canonical_revision=f"{revision}"))

    @rule(key=st.sampled_from(SERVICES), vips=st.sets(st.sampled_from(VIPS)))
    def put_service(self, key: str, vips: set[str]) -> None:
        namespace, _, hostname = key.partition("/")
        self.model.put(Service("s", namespace, hostname, tuple(NetworkAddress(ip_address(vip)) for vip in sorted(vips))))

    @rule(name=st.sampled_from([*PODS, *SERVICES]))
    def remove(self, name: str) -> None:
        self.model.remove(name)

    @rule(subscribe=st.sets(st.sampled_from(KEYS), max_size=3), unsubscribe=st.sets(st.sampled_from(KEYS), max_size=2))
    def ask(self, subscribe: set[str], unsubscribe: set[str]) -> None:
        self.keys = (self.keys | subscribe) - unsubscribe
        self.unread += self.stream.step(Received(Request(ADDRESS, tuple(sorted(subscribe)), tuple(sorted(unsubscribe))), NOW_S))

    @rule(refuse=st.booleans())
    def read(self, refuse: bool) -> None:
        if self.unread:
            self.read_one("refused" if refuse else None)

    @rule()
    def answer_with_an_old_nonce(self) -> None:
        self.unread += self.stream.step(Received(Request(ADDRESS, nonce=f"old {self.nonce}"), NOW_S))

    @rule()
    def reconnect(self) -> None:
        self.connect()

    def read_one(self, error: str | None) -> None:
        response = self.unread.pop(0)
        for name in response.removed:
            self.holds.pop(name, None)
        for resource in response.resources:
            self.holds[resource.name] = resource.version
        self.nonce = response.nonce
        self.unread += self.stream.step(Received(Request(ADDRESS, nonce=response.nonce, error=error), NOW_S))

    def wanted(self) -> dict[str, str]:
        names: set[str] = set(self.model.names(ADDRESS)) if self.wildcard else set()
        for key in self.keys:
            for name in self.model.resolve(ADDRESS, key):
                names |= {name, *self.model.members(ADDRESS, name)}
        resources = [self.model.get(ADDRESS, name) for name in names]
        return {resource.name: resource.version for resource in resources if resource}

    @invariant()
    def at_most_one_response_is_under_way(self) -> None:
        assert len(self.unread) <= 1

    def teardown(self) -> None:
        if not self.open:
            return
        for _ in range(20):
            if self.unread:
                self.read_one(None)
        assert not self.unread
        assert self.holds == self.wanted()
        assert not self.stream.status()[0].pending


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
