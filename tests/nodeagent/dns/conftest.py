"""A pod whose questions are captured, the agent's DNS for it, and a resolver on the other side."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import ip_address

import pytest

from meshapi.names import Host, NamedPort, Names
from nodeagent.capture.nftables import NftablesCapture
from nodeagent.capture.terms import Terms
from nodeagent.dns.directory import Directory
from nodeagent.dns.endpoints import HeadlessEndpoints
from nodeagent.dns.owner import DNSOwner
from nodeagent.dns.server import Knowledge
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from tests.nodeagent.dns.resolver import Resolver, resolver
from tests.nodeagent.pods import Pair, Side, pair
from tests.nodeagent.waiting import until

TERMS = Terms(dns=True)
NAMES = Names(
    "shop",
    "cluster.local",
    (
        Host("web.shop.svc.cluster.local", (ip_address("10.96.0.1"), ip_address("fd00::1")), (NamedPort(80, "http"),)),
        Host("db.shop.svc.cluster.local", (), (NamedPort(5432, "pg"),)),
    ),
)


class Subscriptions:
    """Stands for the controller's client."""

    def __init__(self) -> None:
        self.connected = True
        self.needed: list[str] = []
        self.dropped: list[str] = []

    def need(self, keys: Iterable[str]) -> None:
        self.needed += keys

    def drop(self, keys: Iterable[str]) -> None:
        self.dropped += keys


class Scene:
    """`server` of each family is the resolver that the pod asks."""

    def __init__(self, network: Pair, *, redirected: bool = False) -> None:
        self.pod: Side = network.pod
        self.client: Side = network.client
        self.servers = {4: "10.77.0.2", 6: "fd77::2"}
        self.directory = Directory()
        self.directory.put(NAMES)
        self.store = SnapshotStore(Snapshot())
        self.subscriptions = Subscriptions()
        self.statuses: list[WorkloadStatus] = [WorkloadStatus(self.workload(), EnrolmentState.CAPTURED, "nftables")]
        knowledge = Knowledge(self.directory, HeadlessEndpoints(self.store, self.subscriptions))
        self.owner = DNSOwner(knowledge, lambda: self.statuses, redirected=redirected)

    def workload(self) -> LocalWorkload:
        side = self.pod
        return LocalWorkload(
            "c//Pod/shop/web", "web", "shop", "default", f"/run/netns/{side.name}", network=side.namespace.key, terms=TERMS
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self.owner.run())
            await until(lambda: bool(self.owner._served), deadline_s=15.0)
            try:
                yield
            finally:
                task.cancel()


@pytest.fixture(scope="module")
def network() -> Iterator[Pair]:
    with joined() as made:
        NftablesCapture().apply(made.pod.namespace, terms=TERMS)
        yield made


@contextmanager
def joined() -> Iterator[Pair]:
    """A pod and who is at the other end, which have found each other."""
    with pair() as made:
        with made.pod.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as first, suppress(ConnectionRefusedError):
            # The two ends must have found each other: on a new link that takes a second.
            first.connect((made.client.addresses[socket.AF_INET6], 9))
            first.send(b"hello")
            first.recv(1)
        yield made


@pytest.fixture
def scene(network: Pair) -> Scene:
    return Scene(network)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def server(request: pytest.FixtureRequest, scene: Scene) -> str:
    return scene.servers[request.param]


@pytest.fixture
def upstream(scene: Scene, server: str) -> Iterator[Resolver]:
    with resolver(scene.client.namespace, server) as made:
        yield made
