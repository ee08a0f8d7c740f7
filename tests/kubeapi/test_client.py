"""The client against a real API server: tokens that are replaced, refusals, and a server that says nothing."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kubeapi.access import Access, from_kubeconfig
from kubeapi.client import APIError, KubeClient
from tests.kube.cluster import Cluster
from tests.kube.quiet import quiet
from tests.kube.relay import relay


@pytest.fixture(autouse=True)
async def _quiet() -> AsyncIterator[None]:
    yield
    await quiet()


async def test_a_token_that_is_replaced_is_read_again(kube: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("stale")
    access = Access(kube.server, kube.tls, token_file=token)
    async with KubeClient(access) as client:
        with pytest.raises(APIError) as refused:
            await client.request("GET", "/api/v1/namespaces")
        assert refused.value.status == 401
        token.write_text(kube.credentials.admin_token)
        # At once, since it was refused; and again while the file is gone.
        assert await client.request("GET", "/api/v1/namespaces")
        token.unlink()
        assert await client.request("GET", "/api/v1/namespaces")


async def test_refusals_say_what_the_api_server_says(kube: Cluster, tmp_path: Path) -> None:
    access = from_kubeconfig(kube.kubeconfig(tmp_path / "kubeconfig", kube.credentials.admin_token))
    async with KubeClient(access) as client:
        with pytest.raises(APIError, match="NotFound") as refused:
            await client.request("GET", "/api/v1/namespaces/none-such")
        assert (refused.value.status, refused.value.reason) == (404, "NotFound")
        with pytest.raises(APIError, match="404"):
            async with client.stream("/apis/none", {}, deadline_s=10):
                pass


async def test_a_server_that_says_nothing(kube: Cluster) -> None:
    async with relay(kube.port) as between:
        between.stall()
        async with KubeClient(Access(between.server, kube.tls, token="t")) as client:
            with pytest.raises(APIError) as refused:
                await client.request("GET", "/readyz", deadline_s=0.3)
            assert refused.value.status == 0
            with pytest.raises(APIError):
                async with client.stream("/api", {}, deadline_s=0.3):
                    pass


async def test_a_server_that_is_another_one_gets_no_token(kube: Cluster) -> None:
    """Not even a request: the handshake fails."""
    seen: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(65536))
        writer.close()

    strange = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strange.load_cert_chain(kube.credentials.certificate, kube.credentials.key)
    server = await asyncio.start_server(listen, "127.0.0.1", 0, ssl=strange)
    port = server.sockets[0].getsockname()[1]
    async with KubeClient(Access(f"https://127.0.0.1:{port}", ssl.create_default_context(), token="t")) as client:
        with pytest.raises(APIError) as refused:
            await client.request("GET", "/api")
    assert refused.value.status == 0
    assert not any(seen)
    server.close()
