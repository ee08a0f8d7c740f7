"""The stream by which the controller says what workloads are called: for labels alone, so that nothing waits for it but they."""

import asyncio
import logging

from control.rpc import aio
from control.waypoint.dialling import Backoff
from control.waypoint.identity import Identity, words
from control.waypoint.workload_names import WorkloadNames
from meshapi import discovery, wire
from meshapi.decoding import ModelError

log = logging.getLogger(__name__)
Call = aio.StreamStreamCall


async def follow_names(identity: Identity, names: WorkloadNames) -> None:
    """Keeps `names` up to date until cancelled."""
    backoff = Backoff()
    await identity.ready.wait()
    while True:
        try:
            await _follow(identity, names, backoff)
        except* (aio.AioRpcError, discovery.DiscoveryError, ModelError, ValueError, TimeoutError, OSError) as group:
            # Which controller is dialled, is for the streams to say that matter.
            log.info("the stream of workloads' names ended: %s", "; ".join(words(one) for one in group.exceptions))
        await asyncio.sleep(backoff.next_s())


async def _follow(identity: Identity, names: WorkloadNames, backoff: Backoff) -> None:
    proof = identity.proof()
    async with identity.dialler.channel(proof) as channel:
        call = channel.stream_stream(discovery.DELTA_METHOD, None, None)(None, metadata=identity.dialler.metadata(proof))
        writing = asyncio.Lock()
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(_ask(call, writing, identity, names), name="names: what is asked for")
            while isinstance(body := await call.read(), bytes):
                response = discovery.decode_response(body)
                names.take(response)
                backoff.reset()
                await _write(call, writing, discovery.Request(wire.WORKLOAD_TYPE, nonce=response.nonce))
            asking.cancel()


async def _ask(call: "Call[bytes, bytes]", writing: asyncio.Lock, identity: Identity, names: WorkloadNames) -> None:
    """Writes each address that comes to be of interest."""
    wanted = asyncio.Event()
    names.on_wanted = wanted.set
    subscribe, unsubscribe = names.first_request()
    node = discovery.Node(f"waypoint~names~{identity.instance}")
    await _write(call, writing, discovery.Request(wire.WORKLOAD_TYPE, subscribe, unsubscribe, node=node))
    while True:
        await wanted.wait()
        wanted.clear()
        if (found := names.next_request()) is not None:
            await _write(call, writing, discovery.Request(wire.WORKLOAD_TYPE, *found))


async def _write(call: "Call[bytes, bytes]", writing: asyncio.Lock, request: discovery.Request) -> None:
    """One at a time: more is not what a call of grpc can take."""
    async with writing:
        await call.write(discovery.encode_request(request))
