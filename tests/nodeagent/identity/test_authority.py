"""CreateCertificate against a real gRPC server over TLS on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from meshapi.proto.certificates_pb2 import IstioCertificateRequest, IstioCertificateResponse
from nodeagent.identity.authority import METHOD, AuthorityError, CertificateService
from nodeagent.identity.certificate import check_issued, new_key, parse_chain, request_pem
from nodeagent.identity.controller import Controller
from nodeagent.identity.trust import Trust
from tests.nodeagent.identity.fakes import svid
from tests.nodeagent.identity.pki import authority

ID = "spiffe://cluster.local/ns/shop/sa/web"
AGENT = "spiffe://cluster.local/nodemesh/node/n1"
ROOT = authority("root", time.time())


class Server:
    def __init__(self) -> None:
        self.requests: list[tuple[IstioCertificateRequest, dict[str, str], str]] = []
        self.garbage = False
        self.gate: asyncio.Event | None = None

    async def create(self, body: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        request = IstioCertificateRequest.FromString(body)
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        self.requests.append((request, headers, context.peer()))
        if headers.get("authorization") == "Bearer spent":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "denied")
        if self.gate is not None:
            await self.gate.wait()
        if self.garbage:
            return b"\xff\xff"
        csr = x509.load_pem_x509_csr(request.csr.encode())
        leaf = ROOT.sign(csr.public_key(), svid(ID, time.time()))  # type: ignore[arg-type]
        return IstioCertificateResponse(cert_chain=[leaf.decode(), ROOT.pem.decode()]).SerializeToString()


@asynccontextmanager
async def serving(*, mutual: bool = False) -> AsyncIterator[tuple[Server, Controller]]:
    server = Server()
    grpc_server = grpc.aio.server()
    service, _, method = METHOD[1:].partition("/")
    handler = grpc.unary_unary_rpc_method_handler(server.create)
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    pair = ROOT.server(time.time() - 60)
    credentials = grpc.ssl_server_credentials([pair], ROOT.pem if mutual else None, require_client_auth=mutual)
    target = f"localhost:{grpc_server.add_secure_port('127.0.0.1:0', credentials)}"
    await grpc_server.start()
    try:
        yield server, Controller(target, target, "c1", Trust("cluster.local", [ROOT.certificate]))
    finally:
        await grpc_server.stop(None)


async def test_a_request_on_behalf_of_a_workload_and_its_answer(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with serving() as (server, controller):
        service = CertificateService(lambda: controller.by_token(token))
        key = new_key()
        text = request_pem(key, ID)
        chain = parse_chain(await service.sign(text, on_behalf_of=ID))
        assert check_issued(ID, chain, key, [ROOT.certificate], time.time()).identity == ID
        [(request, headers, _)] = server.requests
        assert request.csr == text
        assert request.validity_duration == 86_400
        assert dict(request.metadata) == {"ImpersonatedIdentity": ID}
        assert (headers["authorization"], headers["clusterid"]) == ("Bearer secret", "c1")
        await service.close()


async def test_a_channel_is_kept_until_the_credentials_change(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with serving() as (server, controller):
        service = CertificateService(lambda: controller.by_token(token))
        for text in ("one", "one", "two"):
            token.write_text(text)
            await service.sign(request_pem(new_key(), AGENT))
        peers = [peer for _, _, peer in server.requests]
        assert peers[0] == peers[1] != peers[2]
        assert not server.requests[0][0].HasField("metadata")
        await service.close()


async def test_the_agents_certificate_proves_it_by_mutual_tls() -> None:
    async with serving(mutual=True) as (server, controller):
        key = new_key()
        leaf = ROOT.sign(key.public_key(), svid(AGENT, time.time())).decode()
        issued = check_issued(AGENT, parse_chain([leaf]), key, [ROOT.certificate], time.time())
        service = CertificateService(lambda: controller.by_certificate(issued))
        await service.sign(request_pem(new_key(), ID), on_behalf_of=ID)
        assert len(server.requests) == 1
        await service.close()


async def test_a_request_under_way_when_the_credentials_change_fails_and_does_not_vanish(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    async with serving() as (server, controller):
        service = CertificateService(lambda: controller.by_token(token))
        server.gate = asyncio.Event()
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            first = tasks.create_task(failure(service))
            while not server.requests:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.002)
            token.write_text("two")
            server.gate = None
            await service.sign(request_pem(new_key(), AGENT))
        assert first.result() == "the credentials changed under way"
        await service.close()


async def failure(service: CertificateService) -> str | None:
    try:
        await service.sign(request_pem(new_key(), AGENT))
    except AuthorityError as error:
        return str(error)
    return None


async def test_what_goes_wrong_is_said(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with serving() as (server, controller):
        service = CertificateService(lambda: controller.by_token(token))
        with pytest.raises(AuthorityError, match=r"credentials: .*No such file"):
            await service.sign("")
        token.write_text(" \n")
        with pytest.raises(AuthorityError, match="holds no token"):
            await service.sign("")
        token.write_text("spent")
        with pytest.raises(AuthorityError, match="UNAUTHENTICATED: denied"):
            await service.sign("")
        token.write_text("good")
        server.garbage = True
        with pytest.raises(AuthorityError, match="no certificate response"):
            await service.sign("")
        await service.close()
    gone = CertificateService(lambda: controller.by_token(token))
    with pytest.raises(AuthorityError, match="UNAVAILABLE"):
        await gone.sign("")
    await gone.close()
