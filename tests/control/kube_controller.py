"""A controller on the API server of the tests, with the rights that its manifest gives it and no others."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from control.backing import KubernetesSettings, kubernetes
from control.ca.service_accounts import TrustedAccounts
from control.cluster.election import Terms
from control.cluster.gateway_objects import Image
from control.controller import Settings
from control.model.settings import MeshSettings
from control.serve import serve
from tests.control.agent import Agent
from tests.kube.admin import Manifest
from tests.kube.cluster import Cluster
from tests.kube.objects import node, run_pod
from tests.kube.ports import free_ports
from tests.kube.quiet import quiet
from tests.kube.relay import Relay, relay
from tests.kube.rights import ACCOUNT, install_rights

AUDIENCE = "istio-ca"
READY_S = 30.0


class KubeWorld:
    """A running controller, in a namespace of its own where the agents' account is, too."""

    def __init__(self, kube: Cluster, path: Path, namespace: str, kubeconfig: Path, between: Relay) -> None:
        self.kube = kube
        self.stop = asyncio.Event()
        self._between = between
        self.namespace = namespace
        self.kubeconfig = kubeconfig
        self.state = path / f"state-{secrets.token_hex(3)}"
        self.socket = self.state.with_suffix(".sock")
        self.grace_s = 60.0
        self.image: Image | None = None
        self.any_source = False
        self.token_port, self.agent_port, self.metrics_port = free_ports(3)
        self.settings = Settings(
            state_dir=self.state,
            admin_socket=self.socket,
            listen="127.0.0.1",
            token_port=self.token_port,
            agent_port=self.agent_port,
            metrics_listen="127.0.0.1",
            metrics_port=self.metrics_port,
        )

    def cut_off(self) -> None:
        """From the API server, for good."""
        self._between.refusing = True
        self._between.cut()

    def node(self) -> str:
        """A node where this machine's loopback address is."""
        name = f"n-{secrets.token_hex(4)}"
        self.kube.admin.create(node(name, address="127.0.0.1"))
        return name

    def agent_pod(self, node_name: str) -> Manifest:
        """The pod of a node's agent."""
        return run_pod(self.kube.admin, self.namespace, f"agent-{secrets.token_hex(3)}", "10.9.8.1", node=node_name, account="agent")

    def token(self, pod: Manifest, audience: str = AUDIENCE) -> str:
        return self.kube.admin.token(self.namespace, pod["spec"]["serviceAccountName"], audience=audience, pod=pod)

    async def agent(self, node_name: str) -> Agent:
        """What a node's side of the wire needs; it has not joined."""
        roots = (await self.admin("GET", "/root"))["pem"].encode()
        return Agent(node_name, roots, self.token_port, self.agent_port)

    async def admin(self, method: str, path: str, **options) -> dict:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.request(method, f"http://controller{path}", **options) as response,
        ):
            assert response.status == 200, await response.text()
            return msgspec.json.decode(await response.read())

    def audit(self) -> list[dict[str, str]]:
        """What was refused, in the order of time."""
        return [msgspec.json.decode(line) for line in (self.state / "audit-refused.log").read_bytes().splitlines()]


@asynccontextmanager
async def kube_world(
    kube: Cluster,
    path: Path,
    *,
    beside: KubeWorld | None = None,
    namespace: str | None = None,
    grace_s: float = 60.0,
    image: Image | None = None,
    any_source: bool = False,
) -> AsyncIterator[KubeWorld]:
    """Serves when it is entered: in a namespace of its own, or as another replica `beside` one, or in a `namespace` that is prepared.

    The controller trusts the account `agent` of its namespace.
    """
    where = beside.namespace if beside else namespace
    if where is None:
        where = kube.namespace("controller")
        install_rights(kube, where)
        kube.service_account(where, "agent")
    async with relay(kube.port) as between:
        token = kube.admin.token(where, ACCOUNT)
        kubeconfig = kube.kubeconfig(path / f"kubeconfig-{secrets.token_hex(3)}", token, server=between.server)
        world = KubeWorld(kube, path, where, kubeconfig, between)
        world.grace_s = grace_s
        world.image, world.any_source = image, any_source
        async with _serving(world):
            yield world
    await quiet()


@asynccontextmanager
async def _serving(world: KubeWorld) -> AsyncIterator[None]:
    settings = KubernetesSettings(
        root_namespace="istio-system",
        trusted=TrustedAccounts(frozenset({f"{world.namespace}/agent"}), AUDIENCE, any_source=world.any_source),
        state_dir=world.state,
        trust_domain="cluster.local",
        kubeconfig=world.kubeconfig,
        namespace=world.namespace,
        terms=Terms(lease_s=2, renew_s=1.5, retry_s=0.3),
        grace_s=world.grace_s,
        image=world.image,
    )
    ready = asyncio.Event()
    task = asyncio.ensure_future(serve(world.settings, MeshSettings(), kubernetes(settings), world.stop, ready))
    try:
        async with asyncio.timeout(READY_S):
            waiting = asyncio.ensure_future(ready.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if task.done():
            task.result()
        yield
    finally:
        world.stop.set()
        async with asyncio.timeout(READY_S):
            await asyncio.gather(task, return_exceptions=True)
