"""control/waypoint/: in a pod, by its projected token, at a controller on a real API server: as its own account and as nobody else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.envoy.built import CLUSTER
from control.waypoint.identity import Identity
from control.waypoint.settings import Controllers, Settings
from meshapi import discovery
from tests.control.kube_controller import AUDIENCE, KubeWorld, kube_world
from tests.control.waypoint.test_identity import kept
from tests.kube.admin import Manifest
from tests.kube.cluster import Cluster
from tests.kube.objects import run_pod

WAIT_S = 20.0


@pytest.fixture
async def world(kube: Cluster, tmp_path: Path) -> AsyncIterator[KubeWorld]:
    async with kube_world(kube, tmp_path, any_source=True) as made:
        yield made


def gateway(namespace: str) -> Manifest:
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "gate", "namespace": namespace},
        "spec": {"gatewayClassName": "istio-waypoint", "listeners": [listener]},
    }


async def pod_of(world: KubeWorld, namespace: str, account: str) -> Manifest:
    """Beside its Gateway, both known to the controller."""
    world.kube.service_account(namespace, "gate")
    world.kube.admin.apply(gateway(namespace))
    labels = {"gateway.networking.k8s.io/gateway-name": "gate", "istio.io/dataplane-mode": "none"}
    made = run_pod(world.kube.admin, namespace, "gate-1", "10.9.7.9", node=world.node(), account=account, labels=labels)
    async with asyncio.timeout(WAIT_S):
        for kind in ("Gateway", "Pod"):
            while not (await world.admin("GET", "/objects", params={"kind": kind, "namespace": namespace}))["objects"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    return made


async def settings_of(world: KubeWorld, namespace: str, path: Path, token: str) -> Settings:
    state = path / "waypoint"
    state.mkdir(mode=0o700)
    (state / "token").write_text(token + "\n")
    return Settings(
        namespace=namespace,
        gateway="gate",
        controllers=Controllers(("localhost",), world.token_port, world.agent_port),
        roots_pem=(await world.admin("GET", "/root"))["pem"].encode(),
        state_dir=state,
        run_dir=state,
        envoy=Path("/none"),
        token_file=state / "token",
    )


async def configured(identity: Identity) -> str:
    """Asks for configuration under the identity: `given`, or how the stream ended."""
    async with identity.dialler.channel(identity.proof()) as channel:
        stream = channel.stream_stream(discovery.DELTA_METHOD)()
        node = discovery.Node("waypoint~127.0.0.1~gate-1.x~x.svc.cluster.local")
        await stream.write(discovery.encode_request(discovery.Request(CLUSTER, node=node)))
        async with asyncio.timeout(WAIT_S):
            return "given" if await stream.read() else (await stream.code()).name


async def told(world: KubeWorld, *checks: str) -> str:
    """The next refusal by one of these checks, of which there was none before."""

    def found() -> list[str]:
        file = world.state / "audit-refused.log"
        return [one["check"] for one in world.audit() if one["check"] in checks] if file.exists() else []

    async with asyncio.timeout(WAIT_S):
        while not found():  # noqa: ASYNC110 -- polls what has no event, with a deadline
            await asyncio.sleep(0.05)
    return found()[-1]


async def test_a_projected_token_is_enough_and_read_anew(world: KubeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.waypoint.identity.PAUSE_S", 0.1)
    kube = world.kube
    namespace = kube.namespace("gate")
    pod = await pod_of(world, namespace, "gate")

    def token() -> str:
        return kube.admin.token(namespace, "gate", audience=AUDIENCE, pod=pod)

    settings = await settings_of(world, namespace, tmp_path, token())
    async with kept(settings) as identity:
        first = identity.svid
        assert first is not None
        assert await configured(identity) == "given"
        # The kubelet puts another one there, and it is read for each request.
        (settings.state_dir / "token").write_text(token())
        identity._renew.set()
        async with asyncio.timeout(WAIT_S):
            while identity.svid == first:  # noqa: ASYNC110 -- polls what has no event, with a deadline
                await asyncio.sleep(0.05)
        kube.admin.delete("v1", "Pod", "gate-1", namespace)
        async with asyncio.timeout(WAIT_S):
            while kube.admin.list("v1", "Pod", namespace):  # noqa: ASYNC110 -- likewise
                await asyncio.sleep(0.05)
        # A certificate is still there, and is no way to another one.
        identity._renew.set()
        assert await told(world, "pod-unknown", "token-unknown")


@pytest.mark.parametrize(
    ("account", "audience", "check"),
    [("default", AUDIENCE, "token-account"), ("gate", "elsewhere", "token-audience")],
    ids=["another account", "another audience"],
)
async def test_other_tokens_are_refused(world: KubeWorld, tmp_path: Path, account: str, audience: str, check: str) -> None:
    kube = world.kube
    namespace = kube.namespace("gate")
    pod = await pod_of(world, namespace, account)
    settings = await settings_of(world, namespace, tmp_path, kube.admin.token(namespace, account, audience=audience, pod=pod))
    identity = Identity(settings)
    task = asyncio.ensure_future(identity.run())
    try:
        assert await told(world, check)
        assert identity.svid is None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
