"""A running controller for tests, over real gRPC and TLS on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest

from control import controller as controller_module
from control.controller import Controller, Settings
from control.model.mesh import Mesh
from control.rpc import aio, grpc
from control.xds.proxies import Proxies
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import Workload
from tests.control.agent import WAIT_S, Agent
from tests.control.fakes import FakeModel

TD = "cluster.local"
CART = WorkloadIdentity(TD, "shop", "cart")
ON_N2 = WorkloadIdentity(TD, "shop", "on-n2")
POD = Workload("K//Pod/shop/cart", "cart", "shop", (ip_address("10.0.0.1"),))


W = TypeVar("W", bound="World")


class World:
    """A running controller."""

    def __init__(self, path: Path, mesh: Mesh | None = None) -> None:
        """With `mesh`, that is its model, and Envoys are configured, too."""
        self.state = path / "state"
        self.socket = path / "admin.sock"
        self.model = FakeModel(running={(CART, "n1"), (ON_N2, "n2")})
        self.model.put(POD)
        self.settings = Settings(
            state_dir=self.state,
            admin_socket=self.socket,
            listen="127.0.0.1",
            token_port=0,
            agent_port=0,
            metrics_listen="127.0.0.1",
            metrics_port=0,
        )
        self.synced = asyncio.Event()
        self.ready = asyncio.Event()
        proxies = self.proxies = Proxies(mesh) if mesh is not None else None
        self.controller = Controller(
            self.settings, mesh or self.model, lambda kind, namespace, name: [kind, namespace, name], proxies=proxies
        )

    @property
    def ports(self) -> controller_module.Ports:
        assert self.controller.ports is not None
        return self.controller.ports

    async def admin(self, method: str, path: str, **options) -> object:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as session,
            session.request(method, f"http://controller{path}", **options) as response,
        ):
            assert response.status == 200, await response.text()
            return msgspec.json.decode(await response.read())

    async def agent(self, node: str = "n1") -> Agent:
        """An agent that has joined."""
        agent = await self.stranger(node)
        token = (await self.admin("POST", "/tokens", json={"node": node}))["token"]
        await agent.join(token)
        return agent

    async def stranger(self, node: str = "n1") -> Agent:
        roots = (await self.admin("GET", "/root"))["pem"].encode()
        return Agent(node, roots, self.ports.token, self.ports.agent)

    def audit(self) -> list[dict[str, str]]:
        """What was granted and what was refused, in the order of time."""
        files = (self.state / name for name in ("audit.log", "audit-refused.log"))
        lines = [msgspec.json.decode(line) for file in files for line in file.read_bytes().splitlines()]
        return sorted(lines, key=lambda line: line["time"])


@asynccontextmanager
async def running(world: W) -> AsyncIterator[W]:
    task = asyncio.ensure_future(world.controller.run(world.synced, world.ready))
    world.synced.set()
    async with asyncio.timeout(WAIT_S):
        await world.ready.wait()
    try:
        yield world
    finally:
        task.cancel()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 -- polls what has no event, with a deadline
            await asyncio.sleep(0.01)


async def refused(call) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    assert error.value.details() in {"not authenticated", "permission denied"}, "says which check failed"
    return error.value.code()
