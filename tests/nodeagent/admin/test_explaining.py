"""`explain` fetches what it lacks, waits a little, and gives up what it asked for."""

import asyncio
from collections.abc import Callable, Collection
from ipaddress import ip_address

import pytest

from meshapi.workload import NetworkAddress, Port, Service, ServiceKey, TunnelProtocol, Workload, WorkloadUID
from nodeagent.admin import explaining
from nodeagent.admin.explaining import Explainer
from nodeagent.resolve.explanation import Outcome
from nodeagent.snapshot.interest import Interest
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.subscriptions import Subscriptions

KEY = ServiceKey("default/api.default.svc.cluster.local")
SHOP, API = (
    Workload(
        uid=WorkloadUID(f"Kubernetes//Pod/default/{name}"),
        name=name,
        namespace="default",
        addresses=(ip_address(address),),
        tunnel_protocol=TunnelProtocol.HBONE,
        services=services,
    )
    for name, address, services in (("shop", "10.0.0.1", {}), ("api", "10.0.0.9", {KEY: (Port(80, 8080),)}))
)
SERVICE = Service("api", "default", "api.default.svc.cluster.local", (NetworkAddress(ip_address("10.1.0.1")),), (Port(80, 8080),))


class Mesh:
    """A controller that answers subscriptions a moment later."""

    def __init__(self) -> None:
        self.store = SnapshotStore(Snapshot())
        self.store.apply(Update(policies_arrived=True))
        self.subscribed: set[str] = set()
        self.subscriptions = Subscriptions(self, self.store, interest=Interest(linger_s=0), connected=lambda: True)
        self.explainer = Explainer(self.store, self.subscriptions, cluster="Kubernetes")
        self.answer: Callable[[str], Update | None] = self._answer

    def subscribe(self, keys: Collection[str]) -> None:
        self.subscribed |= set(keys)
        for key in keys:
            update = self.answer(key)
            if update is not None:
                asyncio.get_running_loop().call_soon(self.store.apply, update)

    def unsubscribe(self, keys: Collection[str]) -> None:
        self.subscribed -= set(keys)

    def _answer(self, key: str) -> Update:
        known = {SHOP.uid: Update(workloads=(SHOP,)), "/10.0.0.1": Update(workloads=(SHOP,))}
        known |= {str(name): Update(services=(SERVICE,), workloads=(API,)) for name in (KEY, "/10.1.0.1")}
        return known.get(key, Update(absent=(key,)))


@pytest.mark.parametrize("source", ["default/shop", SHOP.uid, "10.0.0.1"])
@pytest.mark.parametrize("destination", ["api:80", "10.1.0.1:80"])
async def test_what_is_not_known_is_fetched(source: str, destination: str) -> None:
    mesh = Mesh()
    explanation = await mesh.explainer.explain(source, destination, None)
    assert explanation.outcome is Outcome.ALLOWED, explanation
    mesh.subscriptions.sweep()
    assert mesh.subscribed == set()


async def test_what_does_not_exist_is_said_without_waiting() -> None:
    mesh = Mesh()
    begin = asyncio.get_running_loop().time()
    assert "there is no workload" in (await mesh.explainer.explain("default/nobody", "api", None)).steps[-1].text
    assert "no workload's address" in (await mesh.explainer.explain("10.9.9.9", "api", None)).steps[-1].text
    assert (await mesh.explainer.explain("default/shop", "other:80", None)).outcome is Outcome.UNKNOWN
    assert asyncio.get_running_loop().time() - begin < explaining.FETCH_DEADLINE_S


async def test_a_controller_that_is_silent_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "FETCH_DEADLINE_S", 0.05)
    mesh = Mesh()
    mesh.answer = lambda _: None
    explanation = await mesh.explainer.explain("default/shop", "api", None)
    assert (explanation.outcome, explanation.unknown) == (Outcome.UNKNOWN, (SHOP.uid,))
    mesh.subscriptions.sweep()
    assert mesh.subscribed == set()
