"""The client against a real gRPC server over TLS on loopback, and what goes wrong with servers."""

import asyncio
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from meshapi.discovery import DELTA_METHOD, Node, Request, Response, decode_request, encode_response
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE
from nodeagent.xds.backoff import Backoff
from nodeagent.xds.channel import ClientCertificate, Dial, open_channel
from nodeagent.xds.client import XDSClient
from nodeagent.xds.core import Core
from nodeagent.xds.events import Rejected, Update
from nodeagent.xds.kinds import KINDS
from tests.nodeagent.identity.pki import authority
from tests.nodeagent.xds.samples import bad_policy_resource, policy, policy_resource, workload, workload_resource

DEADLINE_S = 10.0
Talk = Callable[["Talker"], Awaitable[None]]


class Talker:
    """One stream as the server's script sees it."""

    def __init__(self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._requests = requests
        self._early: deque[Request] = deque()
        self.context = context

    async def hear(self) -> Request:
        return self._early.popleft() if self._early else decode_request(await anext(self._requests))

    async def say(self, response: Response) -> None:
        await self.context.write(encode_response(response))

    async def greet(self) -> None:
        """Answers the first requests of the three types with nothing, and takes the acknowledgements.

        A client may ask for more between two acknowledgements; that is heard afterwards.
        """
        acknowledged = 0
        while acknowledged < len(KINDS):
            request = decode_request(await anext(self._requests))
            if request.node is not None:
                await self.say(Response(request.type_url, f"greeting {request.type_url}"))
            elif request.nonce:
                assert request == Request(request.type_url, nonce=f"greeting {request.type_url}")
                acknowledged += 1
            else:
                self._early.append(request)


class Server:
    """A discovery server whose streams follow a script each; the last script serves all further streams."""

    def __init__(self, scripts: list[Talk]) -> None:
        self.scripts = scripts
        self.metadata: list[dict[str, str]] = []
        self.failures: list[BaseException] = []

    async def serve(self, requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            await script(Talker(requests, context))
        except StopAsyncIteration:
            return  # the client left
        except AssertionError as error:
            self.failures.append(error)
            raise


class Recorder:
    """Keeps what the client tells."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.refused: list[Rejected] = []
        self.ready = 0

    def apply(self, update: Update) -> None:
        self.updates.append(update)

    def on_rejected(self, rejected: Rejected) -> None:
        self.refused.append(rejected)

    def on_ready(self) -> None:
        self.ready += 1

    @property
    def names(self) -> list[str]:
        return [accepted.resource.name for update in self.updates for accepted in update.upserts]


ROOT = authority("root", time.time())


@asynccontextmanager
async def serving(*scripts: Talk, clients: bytes | None = None) -> AsyncIterator[tuple[Server, int]]:
    server = Server(list(scripts))
    grpc_server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(server.serve)
    service, _, method = DELTA_METHOD[1:].partition("/")
    grpc_server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    pair = ROOT.server(time.time() - 60)
    credentials = grpc.ssl_server_credentials([pair], root_certificates=clients, require_client_auth=clients is not None)
    port = grpc_server.add_secure_port("127.0.0.1:0", credentials)
    await grpc_server.start()
    try:
        yield server, port
    finally:
        await grpc_server.stop(None)
    assert server.failures == []


@asynccontextmanager
async def running(dial: Callable[[], Dial]) -> AsyncIterator[tuple[XDSClient, Recorder]]:
    recorder = Recorder()
    client = XDSClient(Core(Node("node"), required=(ADDRESS_TYPE, AUTHORIZATION_TYPE)), dial, recorder)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(client.run(), name="client")
        try:
            yield client, recorder
        finally:
            task.cancel()


def to(port: int, token: str | None = None) -> Callable[[], Dial]:
    return lambda: Dial(f"localhost:{port}", ROOT.pem, "Kubernetes", token=token)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def stay(talker: Talker) -> None:
    await talker.greet()
    await talker.hear()


async def test_subscribing_gets_the_resource_and_a_bad_one_is_refused_by_name() -> None:
    async def script(talker: Talker) -> None:
        await talker.greet()
        asked = await talker.hear()
        assert (asked.type_url, asked.subscribe) == (ADDRESS_TYPE, ("/10.0.0.1", "/10.0.0.2"))
        await talker.say(Response(ADDRESS_TYPE, "n1", (workload_resource(workload("web")),), ("/10.0.0.2",)))
        assert (await talker.hear()).error is None
        await talker.say(Response(AUTHORIZATION_TYPE, "n2", (bad_policy_resource("bad"), policy_resource(policy("good")))))
        refused = await talker.hear()
        assert refused.nonce == "n2"
        assert refused.error is not None
        assert refused.error.startswith("ns/bad: ")
        await talker.hear()

    async with serving(script) as (_, port), running(to(port)) as (client, recorder):
        await until(lambda: recorder.ready)
        client.subscribe({"/10.0.0.1"})
        client.subscribe({"/10.0.0.2"})
        await until(lambda: recorder.refused)
        assert recorder.names == ["Kubernetes//Pod/ns/web", "ns/good"]
        assert recorder.updates[0].absent == ("/10.0.0.2",)
        assert client.status.ready
        assert client.status.connected_since_s is not None


async def test_the_token_is_read_again_for_every_stream(tmp_path: Path) -> None:
    async def once(talker: Talker) -> None:
        await talker.greet()

    file = tmp_path / "token"
    tokens = iter(["first", "second"])

    async with serving(once, stay) as (server, port):

        def dial() -> Dial:
            file.write_text(next(tokens))
            return Dial(f"127.0.0.1:{port}", ROOT.pem, "c1", token=file.read_text())

        async with running(dial):
            await until(lambda: len(server.metadata) == 2)
            assert [seen["authorization"] for seen in server.metadata] == ["Bearer first", "Bearer second"]
            assert server.metadata[0]["clusterid"] == "c1"


async def test_after_an_orderly_end_it_comes_back_with_the_versions_it_holds() -> None:
    item = policy_resource(policy("kept"))
    seen: list[Request] = []

    async def first(talker: Talker) -> None:
        await talker.greet()
        await talker.say(Response(AUTHORIZATION_TYPE, "n", (item,)))
        await talker.hear()

    async def second(talker: Talker) -> None:
        seen.append(await talker.hear())
        await talker.say(Response(seen[0].type_url, "n"))
        seen.extend([await talker.hear() for _ in range(len(KINDS))])
        await talker.hear()

    async with serving(first, second) as (_, port), running(to(port)) as (_, recorder):
        await until(lambda: len(seen) == 1 + len(KINDS))
        assert {"ns/kept": item.version} in [request.initial_versions for request in seen if request.type_url == AUTHORIZATION_TYPE]
        assert [update.removed for update in recorder.updates] == [()]


async def garbage(talker: Talker) -> None:
    await talker.greet()
    await talker.context.write(b"\xff\xff\xff\xff garbage")
    await talker.hear()


async def abort(talker: Talker) -> None:
    await talker.greet()
    await talker.context.abort(grpc.StatusCode.INTERNAL, "broken")


async def abort_at_once(talker: Talker) -> None:
    await talker.context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")


@pytest.mark.parametrize(
    ("fault", "error"), [(garbage, "no DeltaDiscoveryResponse"), (abort, "INTERNAL: broken"), (abort_at_once, "UNAUTHENTICATED")]
)
async def test_a_server_that_fails_is_dialled_again(fault: Talk, error: str) -> None:
    async with serving(fault, stay) as (server, port), running(to(port)) as (client, recorder):
        await until(lambda: recorder.ready and client.status.connected_since_s is not None and len(server.metadata) == 2)
        assert error in (client.status.last_error or "")


async def test_a_reset_connection_is_dialled_again() -> None:
    async with AsyncExitStack() as stack:
        server, port = await stack.enter_async_context(serving(stay))
        cut = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    sink.write(data)

            async def reset() -> None:
                await cut.wait()
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                raise ConnectionResetError

            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(pump(reader, up_writer))
                    tasks.create_task(pump(up_reader, writer))
                    tasks.create_task(reset())
            except* ConnectionError:
                cut.clear()
            finally:
                up_writer.close()
                writer.close()

        front = await asyncio.start_server(relay, "127.0.0.1", 0)
        stack.push_async_callback(front.wait_closed)
        stack.callback(front.close)
        client, recorder = await stack.enter_async_context(running(to(front.sockets[0].getsockname()[1])))
        await until(lambda: recorder.ready)
        cut.set()
        await until(lambda: len(server.metadata) == 2)
        await until(lambda: client.status.connected_since_s is not None)


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    async with running(to(port)) as (client, _):
        await until(lambda: client.status.failures >= 3)
        assert client.status.connected_since_s is None
        assert client.status.last_error is not None
        assert "UNAVAILABLE" in client.status.last_error


async def test_a_server_under_another_root_is_not_talked_to() -> None:
    other = authority("other", time.time())
    async with serving(stay) as (server, port):
        async with running(lambda: Dial(f"localhost:{port}", other.pem, "c", token="secret")) as (client, _):
            await until(lambda: client.status.failures >= 2)
        assert server.metadata == []


async def test_credentials_that_cannot_be_read_are_an_error_that_is_shown() -> None:
    def dial() -> Dial:
        raise FileNotFoundError(2, "No such file", "token")

    async with running(dial) as (client, _):
        await until(lambda: client.status.failures >= 2)
        assert client.status.last_error == "credentials: [Errno 2] No such file: 'token'"


async def test_new_credentials_are_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def dial() -> Dial:
        raise ValueError("none yet")

    monkeypatch.setattr("nodeagent.xds.core.Backoff", lambda chance: Backoff(first_s=60, last_s=60, chance=chance))
    async with running(dial) as (client, _):
        await until(lambda: client.status.failures == 1)
        client.redial()
        await until(lambda: client.status.failures == 2)


async def test_rotation_dials_again_with_the_new_certificate() -> None:
    def credential() -> ClientCertificate:
        key, chain = ROOT.server(time.time() - 60)
        return ClientCertificate(chain, key)

    dialled: list[bytes] = []
    shown: list[object] = []

    async def script(talker: Talker) -> None:
        shown.append(talker.context.auth_context()["x509_pem_cert"])
        await stay(talker)

    async with serving(script, clients=ROOT.pem) as (_, port):

        def dial() -> Dial:
            certificate = credential()
            dialled.append(certificate.chain_pem)
            return Dial(f"localhost:{port}", ROOT.pem, "c", certificate=certificate)

        async with running(dial) as (client, recorder):
            await until(lambda: recorder.ready)
            client.redial()
            await until(lambda: len(shown) == 2)
            assert shown == [[chain] for chain in dialled]


def test_secrets_are_in_no_repr() -> None:
    dial = Dial("h:1", b"", "c", token="canary-token", certificate=ClientCertificate(b"", b"canary-key"))
    assert "canary" not in repr(dial)


async def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(talker: Talker) -> None:
        await talker.hear()
        await asyncio.Event().wait()

    monkeypatch.setattr("nodeagent.xds.client.FIRST_ANSWER_DEADLINE_S", 0.1)
    async with serving(silent, stay) as (server, port), running(to(port)) as (_, recorder):
        await until(lambda: recorder.ready)
        assert len(server.metadata) == 2


async def test_a_server_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def deaf(talker: Talker) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("nodeagent.xds.client.WRITE_DEADLINE_S", 0.2)
    async with serving(deaf) as (server, port), running(to(port)) as (client, _):
        await until(lambda: server.metadata)
        client.subscribe([f"/{number}{'x' * 1000}" for number in range(5000)])
        await until(lambda: len(server.metadata) == 2)
        assert client.status.last_error == "the server does not read"


def test_without_roots_there_is_no_channel() -> None:
    with pytest.raises(ValueError, match="no root"):
        open_channel(Dial("localhost:1", b"", "c"))
