"""A controller on a real API server with ten thousand pods: how long and how much it takes to know them, and to tell a thousand agents."""

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Self

import psutil
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control.ca.issuer import Issuer, load_issuer
from control.ca.leaf import sign_identity, validity
from control.rpc import aio, grpc
from demo.bench.mesh import Say
from demo.bench.results import Figures, Result
from meshapi import discovery, wire
from meshapi.spiffe import AgentIdentity
from tests.kube.cluster import REPOSITORY, Cluster
from tests.kube.crowd import crowd, crowd_pod, namespace_of
from tests.kube.ports import free_ports
from tests.kube.rights import controller_kubeconfig

PODS = 10_000
PODS_A_NODE = 10
AGENTS = 1_000
CONNECT_AT_ONCE = 50
CHANGES = 5
SYNCS = 3
WAIT_S = 60.0
MB = 1e6


def measure_kubernetes(say: Say, _rounds: int) -> list[Result]:
    """Medians of a few; the API server is on the same cores."""
    with ExitStack() as opened:
        say(f"an API server with {PODS} pods and {PODS // 10} services")
        kube = opened.enter_context(crowded(PODS))
        directory = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        synced_s, resident_mb = [], []
        for _ in range(SYNCS):
            with CrowdController(kube, directory) as controller:
                synced_s.append(controller.ready_after_s)
                resident_mb.append(controller.peak_mb)
        with CrowdController(kube, directory) as controller:
            say(f"{AGENTS} agents follow one pod")
            told_s = asyncio.run(tell_agents(kube, controller, AGENTS, CHANGES))
            figures = {
                f"controller started to ready, {PODS} pods (s)": median(synced_s),
                f"controller's memory at its highest, {PODS} pods (MB)": median(resident_mb),
                f"a pod changed to {AGENTS} agents have acknowledged (ms)": median(told_s) * 1000,
                f"controller's memory with {AGENTS} agents (MB)": controller.peak_mb,
            }
    return [Figures(figures)]


@contextmanager
def crowded(pods: int) -> Iterator[Cluster]:
    """An API server of its own, with so many pods."""
    kube = Cluster()
    try:
        kube.start()
        kube.install_crds()
        kube.preload(crowd("crowd", pods, PODS_A_NODE))
        yield kube
    finally:
        kube.stop()


class CrowdController:
    """`meshctl serve --source kubernetes` as a process, with the rights of its manifest; ready when it is entered."""

    def __init__(self, kube: Cluster, directory: Path) -> None:
        self._kube = kube
        self.state = directory / f"state-{secrets.token_hex(3)}"
        self._log = self.state.with_suffix(".log")
        self._kubeconfig, self.namespace = controller_kubeconfig(kube, directory)
        self._token_port, self.agent_port, self._metrics_port = free_ports(3)
        self.ready_after_s = 0.0

    def __enter__(self) -> Self:
        options = {
            "source": "kubernetes",
            "kubeconfig": self._kubeconfig,
            "namespace": self.namespace,
            "state": self.state,
            "admin-socket": self.state.with_suffix(".sock"),
            "listen": "127.0.0.1",
            "token-port": self._token_port,
            "agent-port": self.agent_port,
            "metrics-port": self._metrics_port,
        }
        command = [str(Path(sys.executable).parent / "meshctl"), "serve", *(f"--{name}={value}" for name, value in options.items())]
        began_s = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
        while not self._ready():
            if self._process.poll() is not None or time.perf_counter() - began_s > WAIT_S:
                self._process.kill()
                raise RuntimeError(f"the controller is not ready:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.02)
        self.ready_after_s = time.perf_counter() - began_s
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(WAIT_S)

    @property
    def peak_mb(self) -> float:
        """The most memory that was resident at once."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith("VmHWM:"))

    @property
    def resident_mb(self) -> float:
        return float(psutil.Process(self._process.pid).memory_info().rss) / MB

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/ready", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


async def tell_agents(kube: Cluster, controller: CrowdController, agents: int, changes: int) -> list[float]:
    """Seconds from a pod's change, asked of the API server, to the last agent's acknowledgement; once for each change."""
    issuer = load_issuer(controller.state / "ca", time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    uid = f"{wire.DEFAULT_CLUSTER}//Pod/{namespace_of('crowd', 0)}/p0"
    async with AsyncExitStack() as opened:
        turns = asyncio.Semaphore(CONNECT_AT_ONCE)

        async def connected(number: int) -> _Agent:
            async with turns:
                agent = _Agent(f"crowd-n{number}", issuer, key, controller.agent_port)
                opened.push_async_callback(agent.close)
                await agent.follow(uid)
                return agent

        fleet = await asyncio.gather(*(connected(number) for number in range(agents)))
        took_s = []
        for change in range(changes):
            told = [asyncio.ensure_future(agent.acknowledged()) for agent in fleet]
            await asyncio.sleep(0)
            began_s = time.perf_counter()
            patch = {**crowd_pod("crowd", 0), "metadata": {"name": "p0", "namespace": namespace_of("crowd", 0)}}
            patch["metadata"]["labels"] = {"version": f"v{change + 2}"}
            await asyncio.to_thread(kube.admin.merge, {name: patch[name] for name in ("apiVersion", "kind", "metadata")})
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*told)
            took_s.append(time.perf_counter() - began_s)
        return took_s


class _Agent:
    """A node's side of discovery, as little of it as is measured."""

    def __init__(self, node: str, issuer: Issuer, key: ec.EllipticCurvePrivateKey, port: int) -> None:
        when = validity(asked_s=3600, max_ttl_s=3600, revoked_before_s=0, issuer=issuer, now_s=time.time())
        leaf = sign_identity(issuer, key.public_key(), str(AgentIdentity(wire.DEFAULT_TRUST_DOMAIN, node)), when)
        chain = leaf.public_bytes(Encoding.PEM) + b"".join(issuer.intermediates_pem)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        credentials = grpc.ssl_channel_credentials(issuer.roots_pem, pem, chain)
        self._channel = aio.secure_channel(f"localhost:{port}", credentials, options=(("grpc.use_local_subchannel_pool", 1),))
        # A thousand at once: who comes at a bad moment tries again. (The stubs know no call without an iterator.)
        self._call: Any = self._channel.stream_stream(discovery.DELTA_METHOD)(wait_for_ready=True)  # type: ignore[call-arg]
        self._node = discovery.Node(f"ztunnel~10.0.0.1~{node}.mesh~mesh.svc.cluster.local", {"NODE_NAME": node})

    async def follow(self, key: str) -> None:
        """Subscribes to one key, and acknowledges what there is."""
        request = discovery.Request(wire.ADDRESS_TYPE, (key,), ("*",), {}, node=self._node)
        await self._call.write(discovery.encode_request(request))
        await self.acknowledged()

    async def acknowledged(self) -> None:
        """The next response."""
        body = await self._call.read()
        if not isinstance(body, bytes):
            raise TypeError(f"the stream ended: {await self._call.details()}")
        response = discovery.decode_response(body)
        await self._call.write(discovery.encode_request(discovery.Request(response.type_url, nonce=response.nonce)))

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close(None)
