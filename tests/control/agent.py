"""A node's side of the wire, for tests: joins, asks for certificates, follows discovery. Independent of the agent's own code."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography.hazmat.primitives.asymmetric import ec

from control.rpc import aio, grpc
from meshapi import discovery
from meshapi.proto.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from tests.control.fakes import csr_pem, key_pem, new_key

CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
WAIT_S = 10.0


class Agent:
    """Talks to a controller on loopback; `certify` gives it its certificate."""

    def __init__(self, node: str, roots_pem: bytes, token_port: int, agent_port: int, trust_domain: str = "cluster.local") -> None:
        self.identity = f"spiffe://{trust_domain}/nodemesh/node/{node}"
        self.roots_pem = roots_pem
        self.token_port = token_port
        self.agent_port = agent_port
        self.key: ec.EllipticCurvePrivateKey = new_key()
        self.chain_pem = b""

    @asynccontextmanager
    async def by_token(self) -> AsyncIterator[aio.Channel]:
        credentials = grpc.ssl_channel_credentials(self.roots_pem)
        async with aio.secure_channel(f"localhost:{self.token_port}", credentials, options=NO_SHARING) as channel:
            yield channel

    @asynccontextmanager
    async def by_certificate(self) -> AsyncIterator[aio.Channel]:
        credentials = grpc.ssl_channel_credentials(self.roots_pem, key_pem(self.key), self.chain_pem)
        async with aio.secure_channel(f"localhost:{self.agent_port}", credentials, options=NO_SHARING) as channel:
            yield channel

    async def join(self, token: str) -> None:
        async with self.by_token() as channel:
            chain = await create(channel, csr_pem(self.identity, self.key), bearer(token))
        self.chain_pem = "".join(chain[:-1]).encode()

    async def certificate(self, identity: str) -> list[str]:
        async with self.by_certificate() as channel:
            return await create(channel, csr_pem(identity, new_key()), impersonated=identity)


# Channels of one process share connections otherwise, and with them the identity of the first.
NO_SHARING = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes"))


async def create(channel: aio.Channel, csr: str, metadata=(), impersonated: str | None = None) -> list[str]:
    request = IstioCertificateRequest(csr=csr, validity_duration=3600)
    if impersonated is not None:
        request.metadata.update({"ImpersonatedIdentity": impersonated})
    body = await channel.unary_unary(CREATE)(request.SerializeToString(), metadata=metadata, timeout=WAIT_S)
    return list(IstioCertificateResponse.FromString(body).cert_chain)


class Discovery:
    """One stream: acknowledges what it reads, and keeps what it was sent."""

    def __init__(self, channel: aio.Channel, metadata=()) -> None:
        self.call = channel.stream_stream(discovery.DELTA_METHOD)(metadata=metadata)
        self.holds: dict[str, dict[str, str]] = {}
        self.bodies: dict[str, bytes] = {}

    async def ask(self, type_url: str, *subscribe: str, un: tuple[str, ...] = (), had: dict[str, str] | None = None) -> None:
        node = discovery.Node("ztunnel~10.0.0.1~a.b~b.svc.cluster.local", {"NODE_NAME": "n1"})
        await self.call.write(discovery.encode_request(discovery.Request(type_url, subscribe, un, had or {}, node=node)))

    async def read(self, error: str | None = None) -> discovery.Response:
        async with asyncio.timeout(WAIT_S):
            body = await self.call.read()
        if body is aio.EOF:
            raise EOFError(f"{await self.call.code()}: {await self.call.details()}")
        response = discovery.decode_response(body)
        held = self.holds.setdefault(response.type_url, {})
        for name in response.removed:
            held.pop(name, None)
        for resource in response.resources:
            held[resource.name] = resource.version
            self.bodies[resource.name] = resource.body
        await self.call.write(discovery.encode_request(discovery.Request(response.type_url, nonce=response.nonce, error=error)))
        return response

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended; fails if it does not."""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    if await self.call.read() is aio.EOF:
                        return await self.call.code(), await self.call.details()
                except aio.AioRpcError as error:
                    return error.code(), error.details() or ""
