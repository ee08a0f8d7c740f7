"""The workloads of the node: identities wanted and keys subscribed for exactly those, and what the proxy is told of each."""

from collections.abc import AsyncIterator, Collection, Iterable
from ipaddress import ip_address

from msgspec.structs import replace

from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import TunnelProtocol, Workload, WorkloadUID
from nodeagent.capture.terms import TOTAL, Terms
from nodeagent.residents import ObservedRuntime, Residents
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.interest import Interest
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.subscriptions import Subscriptions
from tests.nodeagent.attributes import given_back

WEB = LocalWorkload("web", "web", "shop", "web", "/run/netns/web")
API = LocalWorkload("api", "api", "shop", "api", "/run/netns/api")
WEB_ID = WorkloadIdentity("td", "shop", "web")
API_ID = WorkloadIdentity("td", "shop", "api")


class Scene:
    def __init__(self) -> None:
        self.store = SnapshotStore(Snapshot())
        self.subscribed: set[str] = set()
        self.wanted: set[WorkloadIdentity] = set()
        self.ready: set[str] = set()
        self.subscriptions = Subscriptions(self, self.store, interest=Interest(linger_s=0), connected=lambda: True)
        self.residents = Residents(
            trust_domain="td",
            cluster="c1",
            store=self.store,
            subscriptions=self.subscriptions,
            want=self._want,
            has_identity=self.ready.__contains__,
        )

    def _want(self, identities: Iterable[WorkloadIdentity]) -> None:
        self.wanted = set(identities)

    def subscribe(self, keys: Collection[str]) -> None:
        self.subscribed |= set(keys)

    def unsubscribe(self, keys: Collection[str]) -> None:
        self.subscribed -= set(keys)


def test_identities_keys_and_the_snapshot_follow_the_set() -> None:
    scene = Scene()
    scene.residents.set([WEB, API])
    assert scene.wanted == {WEB_ID, API_ID}
    assert scene.subscribed == {"web", "api"}
    assert scene.store.current.local_identity(WorkloadUID("web")) == str(WEB_ID)
    scene.residents.set([API])
    scene.subscriptions.sweep()
    assert scene.wanted == {API_ID}
    assert scene.subscribed == {"api"}
    assert scene.store.current.local_identity(WorkloadUID("web")) is None
    assert scene.residents.uids == {"api"}
    assert "web" not in scene.residents


def test_the_same_set_again_changes_nothing() -> None:
    scene = Scene()
    scene.residents.set([WEB])
    generation = scene.store.current.generation
    scene.residents.set([WEB])
    assert scene.store.current.generation == generation


def test_the_ports_for_probes_follow_the_set() -> None:
    scene = Scene()
    scene.store.apply(Update(probe_sources=frozenset({ip_address("192.0.2.1")})))
    for ports in ((80, 8080), (81,), ()):
        scene.residents.set([replace(WEB, probe_ports=ports), API])
        assert scene.store.current.probes(WorkloadUID("web")).ports == set(ports)
        assert not scene.store.current.probes(WorkloadUID("api")).ports
    scene.residents.set([replace(WEB, probe_ports=(80,))])
    scene.residents.set([])
    assert not scene.store.current.probes(WorkloadUID("web")).ports


def test_a_unit_that_has_gone_has_no_ports_and_a_pod_of_its_uid_has_all() -> None:
    scene, uid = Scene(), WorkloadUID("web")
    unit = replace(WEB, process_group=True, terms=Terms(include_inbound_ports=(80,)))
    seen = []
    for workloads in ([unit, API], [replace(unit, terms=TOTAL)], [API], [], [unit], [], [WEB], []):
        scene.residents.set(workloads)
        seen.append(scene.store.current.unit_ports_of(uid))
        assert scene.store.current.unit_ports_of(WorkloadUID("api")) is None
    assert seen == [{80}, frozenset(), frozenset(), frozenset(), {80}, frozenset(), None, None]


def test_another_service_account_under_the_same_uid_is_another_identity() -> None:
    scene = Scene()
    scene.residents.set([WEB])
    scene.residents.set([LocalWorkload("web", "web", "shop", "other", "/run/netns/web")])
    assert scene.residents.identity("web") == "spiffe://td/ns/shop/sa/other"
    assert scene.subscribed == {"web"}


def test_a_name_that_is_no_identity_gets_none() -> None:
    scene = Scene()
    scene.residents.set([LocalWorkload("bad", "bad", "../etc", "x", "/n"), WEB])
    assert scene.residents.uids == {"web"}


def test_what_the_proxy_is_told() -> None:
    scene = Scene()
    assert scene.residents.describe(WEB, ("10.0.0.1",)) is None
    scene.residents.set([WEB])
    described = scene.residents.describe(WEB, ("10.0.0.1",))
    assert described is not None
    assert (described.identity, described.addresses, described.identity_ready) == (str(WEB_ID), ("10.0.0.1",), False)
    assert given_back(described.outbound_attributes)["source_workload"] == "web"
    assert given_back(described.outbound_attributes)["source_principal"] == str(WEB_ID)
    assert given_back(described.inbound_attributes)["destination_workload"] == "web"
    scene.ready.add(str(WEB_ID))
    known = Workload(
        uid=WorkloadUID("web"), name="web", namespace="shop", workload_name="web-deployment", tunnel_protocol=TunnelProtocol.HBONE
    )
    scene.store.apply(Update(workloads=(known,)))
    described = scene.residents.describe(WEB, ("10.0.0.1",))
    assert described is not None
    assert described.identity_ready
    assert given_back(described.outbound_attributes)["source_workload"] == "web-deployment"


class _Runtime:
    problem = "none"

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        yield (WEB,)
        yield (WEB, API)


async def test_an_observed_runtime_tells_each_set_before_it_passes_it_on() -> None:
    order: list[tuple[str, int]] = []
    observed = ObservedRuntime(_Runtime(), lambda workloads: order.append(("observed", len(workloads))), dns=True)
    async for workloads in observed.watch():
        order.append(("passed on", len(workloads)))  # noqa: PERF401 - the order is what matters
    assert order == [("observed", 1), ("passed on", 1), ("observed", 2), ("passed on", 2)]
    assert observed.problem == "none"
