"""The unix socket that Envoy asks: secrets from this process, configuration from the controller, to which it is connected through."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from google.protobuf.message import DecodeError

from control.rpc import END_OF_STREAM, RPCHandler, aio, grpc
from control.waypoint.gateway_secrets import GatewaySecrets
from control.waypoint.identity import Identity
from control.waypoint.secrets import Held, SecretStream
from meshapi import discovery

ADS_SERVICE, ADS_METHOD = discovery.DELTA_METHOD.lstrip("/").split("/")
SDS_SERVICE, SDS_METHOD = "envoy.service.secret.v3.SecretDiscoveryService", "StreamSecrets"
STOP_GRACE_S = 1.0
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
log = logging.getLogger(__name__)


@asynccontextmanager
async def serving(identity: Identity, path: Path, certificates: GatewaySecrets | None = None) -> AsyncIterator[None]:
    """Answers on the socket (0600), in place of one that a former process left. `certificates`: those of a gateway."""
    _forget(path)
    server = aio.server(options=_OPTIONS)
    secrets = _secrets(identity, certificates or GatewaySecrets(identity))
    server.add_generic_rpc_handlers((secrets, _configuration(identity)))
    # The mode at creation, not after: there is no moment in which another user could connect.
    former = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        await server.start()
    finally:
        os.umask(former)
    try:
        yield
    finally:
        await server.stop(STOP_GRACE_S)
        _forget(path)


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def _secrets(identity: Identity, certificates: GatewaySecrets) -> RPCHandler:
    async def stream(_requests: object, context: "aio.ServicerContext[bytes, bytes]") -> None:
        state, wake = SecretStream(), asyncio.Event()
        unwatch = [identity.on_change(wake.set), certificates.on_change(wake.set)]
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(_write_secrets(identity, certificates, state, wake, context), name="secrets to envoy")
                while (body := await context.read()) is not END_OF_STREAM:
                    refusal = state.request(body)
                    if refusal is not None:
                        log.error("envoy refuses its secrets: %.300s", refusal)
                    for name in state.names:
                        certificates.want(name)
                    wake.set()
                await _gone(context)
                writer.cancel()
        except* DecodeError:
            log.error("envoy asks for secrets in words that are none")  # noqa: TRY400 -- there is no more to tell
        finally:
            for end in unwatch:
                end()

    return grpc.method_handlers_generic_handler(SDS_SERVICE, {SDS_METHOD: grpc.stream_stream_rpc_method_handler(stream)})


async def _gone(context: "aio.ServicerContext[bytes, bytes]") -> None:
    """Waits until a client that has said all it has to say is gone.

    Envoy's own streams stay open to both sides. What asks once and waits for the whole answer is a request that passes Envoy, a script's
    say: it never gets to see one, for none ever ends.
    """
    gone = asyncio.Event()
    # The stubs want an instance of a class of theirs, where any callable will do.
    context.add_done_callback(lambda _: gone.set())  # type: ignore[arg-type]
    await gone.wait()


async def _write_secrets(
    identity: Identity, certificates: GatewaySecrets, state: SecretStream, wake: asyncio.Event, context: "aio.ServicerContext[bytes, bytes]"
) -> None:
    while True:
        await wake.wait()
        wake.clear()
        svid = identity.svid
        held = Held(svid.chain_pem, svid.key_pem, identity.roots_pem) if svid is not None else None
        response = state.response(held, certificates.get)
        if response is not None:
            await context.write(response)


def _configuration(identity: Identity) -> RPCHandler:
    async def relay(_requests: object, context: "aio.ServicerContext[bytes, bytes]") -> None:
        await identity.ready.wait()
        proof = identity.proof()
        try:
            async with identity.dialler.channel(proof) as channel:
                call = channel.stream_stream(discovery.DELTA_METHOD, None, None)(None, metadata=identity.dialler.metadata(proof))
                async with asyncio.TaskGroup() as tasks:
                    upward = tasks.create_task(_upward(call, context), name="configuration: envoy to controller")
                    while isinstance(body := await call.read(), bytes):
                        await context.write(body)
                    upward.cancel()
        except* aio.AioRpcError as group:
            error = _first(group)
            identity.dialler.failed()
            log.info("the controller's stream ended: %s", error)
        # Envoy comes back by itself, with a delay that grows.
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the controller's stream ended")

    return grpc.method_handlers_generic_handler(ADS_SERVICE, {ADS_METHOD: grpc.stream_stream_rpc_method_handler(relay)})


async def _upward(call: "aio.StreamStreamCall[bytes, bytes]", context: "aio.ServicerContext[bytes, bytes]") -> None:
    while (body := await context.read()) is not END_OF_STREAM:
        await call.write(body)
    await _gone(context)


def _first(group: BaseExceptionGroup[aio.AioRpcError]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{error.code().name}: {error.details()}"[:300] if isinstance(error, aio.AioRpcError) else str(error)
