"""control/waypoint/gateway_secrets.py: what Envoy gets over its socket of the certificates that the controller holds for its gateway."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from control.envoy.built import SECRET
from control.envoy.messages import message_class, new
from control.rpc import aio
from control.waypoint.gateway_secrets import GatewaySecrets
from control.waypoint.local import serving
from control.waypoint.settings import Settings
from control.xds.secrets import SecretStore
from tests.control.agent import WAIT_S
from tests.control.envoy.authority import Authority
from tests.control.model.builders import Config
from tests.control.waypoint.test_identity import SECRETS, kept, settings_of
from tests.control.world import World, running

RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"
GATEWAY = """
    kind: Gateway
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {name: gate, namespace: shop}
    spec:
      gatewayClassName: nodemesh
      listeners:
      - name: s
        port: 443
        protocol: HTTPS
        tls: {certificateRefs: [{name: cart}], options: {gateway.istio.io/tls-terminate-mode: MUTUAL}}
"""


class Asking:
    """Envoy at the socket of the process beside it."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel

    async def ask(self, name: str) -> "aio.StreamStreamCall[bytes, bytes]":
        stream = self._channel.stream_stream(SECRETS)()
        await stream.write(new("envoy.service.discovery.v3.DiscoveryRequest", resource_names=[name]).SerializeToString())
        return stream


async def answer(stream: "aio.StreamStreamCall[bytes, bytes]"):
    async with asyncio.timeout(WAIT_S):
        (found,) = message_class(RESPONSE).FromString(await stream.read()).resources
    return message_class(SECRET.partition("/")[2]).FromString(found.value)


async def key_of(stream: "aio.StreamStreamCall[bytes, bytes]") -> bytes:
    return bytes((await answer(stream)).tls_certificate.private_key.inline_bytes)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(World(tmp_path, Config(GATEWAY).mesh)) as made:
        yield made


def pair(authority: Authority, name: str) -> dict[str, bytes]:
    certificate, key = authority.issue(name)
    return {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}


@asynccontextmanager
async def beside(settings: Settings) -> AsyncIterator[tuple[Asking, GatewaySecrets]]:
    """The process beside an Envoy, and who asks it."""
    async with AsyncExitStack() as stack:
        identity = await stack.enter_async_context(kept(settings))
        certificates = GatewaySecrets(identity)
        await stack.enter_async_context(serving(identity, settings.socket, certificates))
        following = asyncio.ensure_future(certificates.run())
        stack.callback(following.cancel)
        yield Asking(await stack.enter_async_context(aio.insecure_channel(f"unix:{settings.socket}"))), certificates


async def test_a_certificate_comes_and_is_renewed_and_nobody_elses_comes(world: World, tmp_path: Path) -> None:
    authority, store = Authority(tmp_path), held(world)
    first, second, other = (pair(authority, name) for name in ("a.example", "b.example", "c.example"))
    async with beside(await settings_of(world, tmp_path)) as (envoy, certificates):
        asked, in_vain = await envoy.ask("kubernetes://shop/cart"), await envoy.ask("kubernetes://shop/other")
        store.put({("shop", "other"): other, ("shop", "cart"): first})
        assert await key_of(asked) == first["tls.key"]
        store.put({("shop", "cart"): second})
        assert await key_of(asked) == second["tls.key"]
        assert certificates.get("kubernetes://shop/other") is None, "no server of the gateway names it"
        assert "PRIVATE" not in repr(certificates)
        in_vain.cancel()


def held(world: World) -> SecretStore:
    """Where the controller has its secrets from."""
    assert world.proxies is not None
    return world.proxies.stores.secrets


async def test_roots_that_are_gone_let_nobody_in(world: World, tmp_path: Path) -> None:
    authority, store = Authority(tmp_path), held(world)
    async with beside(await settings_of(world, tmp_path)) as (envoy, certificates):
        roots, server = await envoy.ask("kubernetes://shop/cart-cacert"), await envoy.ask("kubernetes://shop/cart")
        served = pair(authority, "a.example")
        store.put({("shop", "cart"): served, ("shop", "cart-cacert"): {"ca.crt": authority.root.read_bytes()}})
        assert await key_of(server) == served["tls.key"]
        assert (await answer(roots)).validation_context.trusted_ca.inline_bytes == authority.root.read_bytes()
        store.put({("shop", "cart"): None, ("shop", "cart-cacert"): None})
        left = (await answer(roots)).validation_context.trusted_ca.inline_bytes
        assert left != authority.root.read_bytes()
        assert b"BEGIN CERTIFICATE" in left
        found = certificates.get("kubernetes://shop/cart")
        assert found is not None
        assert found.tls_certificate.private_key.inline_bytes == served["tls.key"]
