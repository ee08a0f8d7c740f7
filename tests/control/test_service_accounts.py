"""I1, I2, I5 against a real API server: bound tokens, TokenReview, pods that come and go. The token is never anything but a real one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from control.rpc import grpc
from meshapi import wire
from meshapi.spiffe import AgentIdentity, WorkloadIdentity
from nodeagent.identity.agent import AgentCredential
from nodeagent.identity.authority import CertificateService
from nodeagent.identity.controller import Controller
from nodeagent.identity.trust import Trust
from nodeagent.state.files import StateDirectory
from nodeagent.state.identities import IdentityFiles
from tests.control.agent import Discovery, bearer, create
from tests.control.fakes import csr_pem, new_key
from tests.control.kube_controller import AUDIENCE, KubeWorld, kube_world
from tests.control.world import refused
from tests.kube.admin import Manifest
from tests.kube.cluster import Cluster
from tests.kube.objects import node, pod, run_pod

UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
WAIT_S = 10.0


@pytest.fixture
async def world(kube: Cluster, tmp_path: Path) -> AsyncIterator[KubeWorld]:
    async with kube_world(kube, tmp_path) as world:
        yield world


async def asked(world: KubeWorld, token: str, node_name: str, identity: str | None = None) -> list[str]:
    """A certificate for `identity`, or for the agent itself, by a token."""
    agent = await world.agent(node_name)
    async with agent.by_token() as channel:
        return await create(channel, csr_pem(identity or agent.identity, new_key()), bearer(token), identity)


async def granted(world: KubeWorld, token: str, node_name: str, identity: str | None = None) -> list[str]:
    """The same, once the controller knows what the API server knows already."""
    deadline_s = asyncio.get_running_loop().time() + WAIT_S
    while True:
        try:
            return await asked(world, token, node_name, identity)
        except grpc.aio.AioRpcError as error:
            if asyncio.get_running_loop().time() > deadline_s:
                line = world.audit()[-1]
                raise TimeoutError(f"{error.code()}: {line['check']} {line['detail']}") from error
            await asyncio.sleep(0.05)


async def check_of(world: KubeWorld, token: str, node_name: str, identity: str | None = None) -> str:
    """The name of the check that a request fails; it must fail."""
    assert await refused(asked(world, token, node_name, identity)) in {UNAUTHENTICATED, DENIED}
    return world.audit()[-1]["check"]


async def refused_as(world: KubeWorld, check: str, token: str, node_name: str, identity: str | None = None) -> None:
    """Comes to fail with this check, within 5 s: what the API server knows takes a moment to be known."""
    found = []
    async with asyncio.timeout(5):
        while check not in found:
            try:
                await asked(world, token, node_name, identity)
            except grpc.aio.AioRpcError:
                found.append(world.audit()[-1]["check"])
            await asyncio.sleep(0.02)


async def test_an_agent_joins_by_its_token_and_renews_by_its_certificate(kube: Cluster, tmp_path: Path) -> None:
    """Renewals ask Kubernetes nothing: they go on while it is away."""
    async with kube_world(kube, tmp_path) as world:
        name = world.node()
        app = run_pod(kube.admin, world.namespace, "app", "10.9.9.1", node=name)
        identity = f"spiffe://cluster.local/ns/{world.namespace}/sa/{app['spec']['serviceAccountName']}"
        mine = world.agent_pod(name)
        token, later = world.token(mine), world.token(mine)
        await granted(world, token, name, identity)
        agent = await world.agent(name)
        await agent.join(token)
        world.cut_off()
        assert await agent.certificate(agent.identity)
        assert await agent.certificate(identity)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await asked(world, later, name)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_the_agents_own_code_joins_that_way(world: KubeWorld, tmp_path: Path) -> None:
    """`nodeagent run --join-token` with the file that its pod is given: read until there is a certificate, and that is for its node."""
    name = world.node()
    token = tmp_path / "token"
    token.write_text(world.token(world.agent_pod(name)))
    await granted(world, token.read_text(), name)
    roots = x509.load_pem_x509_certificates((await world.admin("GET", "/root"))["pem"].encode())
    trust = Trust("cluster.local", roots)
    controller = Controller(f"localhost:{world.token_port}", f"localhost:{world.agent_port}", "Kubernetes", trust)
    state = StateDirectory(tmp_path / "agent")
    state.prepare()
    credential = AgentCredential(
        AgentIdentity("cluster.local", name),
        IdentityFiles(state),
        trust,
        joining=CertificateService(lambda: controller.by_token(token)),
        renewing=CertificateService(lambda: controller.by_certificate(credential.current())),
        on_rotated=lambda: None,
    )
    running = asyncio.ensure_future(credential.run())
    try:
        await asyncio.wait_for(credential.wait(), WAIT_S)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert credential.state().error is None


async def test_by_its_token_alone_an_agent_gets_all_that_it_needs(world: KubeWorld) -> None:
    """As Istio's ztunnel does it: certificates of its pods and discovery, both on the one port."""
    name = world.node()
    run_pod(world.kube.admin, world.namespace, "app", "10.9.9.2", node=name)
    mine = world.agent_pod(name)
    token = world.token(mine)
    identity = f"spiffe://cluster.local/ns/{world.namespace}/sa/default"
    assert len(await granted(world, token, name, identity)) == 3
    async with (await world.agent(name)).by_token() as channel:
        stream = Discovery(channel, bearer(token))
        await stream.ask(wire.ADDRESS_TYPE)
        response = await stream.read()
        assert f"Kubernetes//Pod/{world.namespace}/app" in {resource.name for resource in response.resources}
        world.kube.admin.delete("v1", "Pod", mine["metadata"]["name"], world.namespace)
        assert await stream.ended() == (UNAUTHENTICATED, "not authenticated")


async def test_tokens_that_prove_nothing(world: KubeWorld) -> None:
    """I5."""
    kube, name = world.kube, world.node()
    mine = world.agent_pod(name)
    good = world.token(mine)
    await granted(world, good, name)
    assert await check_of(world, world.token(mine, "somebody-else"), name) == "token-audience"
    assert await check_of(world, kube.admin.token(world.namespace, "agent", audience=AUDIENCE), name) == "token-unbound"
    app = run_pod(kube.admin, world.namespace, "app", "10.9.9.3", node=name)
    assert await check_of(world, world.token(app), name) == "token-account"
    waiting = kube.admin.create(pod(world.namespace, "waiting", account="agent"))
    assert await check_of(world, world.token(waiting), name) == "token-unbound"
    head, body, signature = good.split(".")
    for forged in (f"{head}.{body}.{signature[:-8]}AAAAAAAA", f"{head}.{body}.", "a.b.c", "nmj1.x.y", "x" * 10_000):
        assert (await check_of(world, forged, name)).startswith("token-")
    assert await check_of(world, kube.credentials.admin_token, name) == "token-form"


async def test_a_token_for_everybody_is_not_for_us(world: KubeWorld) -> None:
    """The API server's own audience, which every pod's default token has."""
    name = world.node()
    mine = world.agent_pod(name)
    await granted(world, world.token(mine), name)
    assert await check_of(world, world.token(mine, ""), name) == "token-audience"


async def test_a_token_shown_from_another_node(world: KubeWorld) -> None:
    """I5: replayed. The node that the token names is not at the address that it is shown from."""
    kube = world.kube
    here = world.node()
    await granted(world, world.token(world.agent_pod(here)), here)
    kube.admin.create(node(f"{here}-far", address="192.0.2.7"))
    assert await check_later(world, world.token(world.agent_pod(f"{here}-far")), f"{here}-far") == "token-source"


async def check_later(world: KubeWorld, token: str, name: str) -> str:
    """The check that a request fails when the controller knows of node and pod."""
    async with asyncio.timeout(WAIT_S):
        while (check := await check_of(world, token, name)) in {"node-unknown", "pod-unknown"}:  # noqa: ASYNC110 -- a test's poll
            await asyncio.sleep(0.02)
    return check


async def test_an_agent_gets_nothing_of_another_node_and_nothing_of_pods_that_are_gone(world: KubeWorld) -> None:
    """I1, I2: elsewhere, never there, finished, deleted."""
    admin, namespace = world.kube.admin, world.namespace
    here, there = world.node(), world.node()
    for account in ("elsewhere", "done", "deleted", "never"):
        world.kube.service_account(namespace, account)
    run_pod(admin, namespace, "elsewhere", "10.9.9.4", node=there, account="elsewhere")
    done = run_pod(admin, namespace, "done", "10.9.9.5", node=here, account="done")
    run_pod(admin, namespace, "deleted", "10.9.9.6", node=here, account="deleted")
    token = world.token(world.agent_pod(here))

    def identity(account: str) -> str:
        return str(WorkloadIdentity("cluster.local", namespace, account))

    await granted(world, token, here, identity("done"))
    await granted(world, token, here, identity("deleted"))
    assert await check_of(world, token, here, identity("elsewhere")) == "placement"
    assert await check_of(world, token, here, identity("never")) == "placement"
    admin.status({**pod(namespace, "done"), "status": {"phase": "Succeeded"}})
    admin.delete("v1", "Pod", "deleted", namespace)
    await refused_as(world, "placement", token, here, identity("done"))
    await refused_as(world, "placement", token, here, identity("deleted"))
    assert done["metadata"]["uid"]
    # The agent claims to be another node's: it gets nothing in that name.
    with pytest.raises(grpc.aio.AioRpcError):
        await asked(world, token, there, f"spiffe://cluster.local/nodemesh/node/{there}")
    assert world.audit()[-1]["check"] == "identity-form"


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
async def test_an_agent_whose_pod_has_ended(world: KubeWorld, phase: str) -> None:
    """I2: Kubernetes still takes the token; the pod must live, too."""
    name = world.node()
    mine = world.agent_pod(name)
    token = world.token(mine)
    await granted(world, token, name)
    world.kube.admin.status({**pod(world.namespace, mine["metadata"]["name"]), "status": {"phase": phase}})
    await refused_as(world, "pod-ended", token, name)


async def test_another_pod_under_the_same_name(world: KubeWorld) -> None:
    """I2: the token of the first one is worth nothing when the second one runs."""
    name = world.node()
    first = world.agent_pod(name)
    token = world.token(first)
    await granted(world, token, name)
    own = first["metadata"]["name"]
    world.kube.admin.delete("v1", "Pod", own, world.namespace)
    second: Manifest = run_pod(world.kube.admin, world.namespace, own, "10.9.8.1", node=name, account="agent")
    await granted(world, world.token(second), name)
    assert await check_of(world, token, name) in {"pod-unknown", "token-unknown"}


async def test_a_node_that_is_drained_and_taken_away(world: KubeWorld) -> None:
    """Its pods go one after the other, and their identities with them; then the node, and its agent's certificate is worth nothing."""
    admin, name = world.kube.admin, world.node()
    world.kube.service_account(world.namespace, "app")
    for number in range(3):
        run_pod(admin, world.namespace, f"app-{number}", f"10.9.5.{number + 1}", node=name, account="app")
    identity = f"spiffe://cluster.local/ns/{world.namespace}/sa/app"
    mine = world.agent_pod(name)
    token = world.token(mine)
    await granted(world, token, name, identity)
    agent = await world.agent(name)
    await agent.join(token)
    for number in range(3):
        assert await agent.certificate(identity), "as long as one of its pods is there"
        admin.delete("v1", "Pod", f"app-{number}", world.namespace)
    await refused_as(world, "placement", token, name, identity)
    admin.delete("v1", "Pod", mine["metadata"]["name"], world.namespace)
    admin.delete("v1", "Node", name)
    async with asyncio.timeout(5):
        while world.audit()[-1]["check"] != "node-unknown":
            try:
                await agent.certificate(agent.identity)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
