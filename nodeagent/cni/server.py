"""The socket that the plugin dials: reads a question, has it answered, whatever comes writes an answer."""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn, Protocol, assert_never

from nodeagent.cni import protocol
from nodeagent.cni.protocol import Add, Attachment, AttachmentKey, Check, Collect, Delete, Question, Refusal, Status
from nodeagent.linux import private_socket

log = logging.getLogger(__name__)

SOCKET: Final = "cni.sock"
_READ_DEADLINE_S: Final = 5.0
_MAX_CALLERS: Final = 256
"""Far more than a runtime starts pods at once."""
_AHEAD_S: Final = 1.0
"""By this the agent gives up before the plugin does, so that the pod's event says for what it waited."""


class Network(Protocol):
    """Who answers. All raise Refusal."""

    async def add(self, attachment: Attachment, *, deadline_s: float) -> None:
        """Returns when the pod may start."""

    async def check(self, attachment: Attachment) -> None: ...

    async def delete(self, key: AttachmentKey) -> None: ...

    async def collect(self, valid: frozenset[AttachmentKey]) -> None: ...

    def status(self) -> None: ...


class CNIServer:
    """Serves `cni.sock` in the run directory, mode 0600."""

    def __init__(self, network: Network, run_dir: Path) -> None:
        self._network = network
        self._path = run_dir / SOCKET
        self._callers = asyncio.Semaphore(_MAX_CALLERS)

    async def run(self) -> NoReturn:
        """Serves until it is cancelled; raises OSError if the socket can't be made."""
        with private_socket.listen(self._path) as listening:
            ours = self._path.stat().st_ino
            server = await asyncio.start_unix_server(self._converse, sock=listening, limit=protocol.MAX_QUESTION_BYTES)
            try:
                async with server:
                    await asyncio.Event().wait()
            finally:
                private_socket.remove(self._path, ours)
        raise AssertionError("only cancellation ends the wait")

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (stranger := private_socket.stranger(writer.get_extra_info("socket"))) is not None:
            log.warning("CNI socket: refused %s", stranger)
            writer.close()
            return
        try:
            async with self._callers:
                answer = await self._reply(reader)
            writer.write(answer)
            async with asyncio.timeout(_READ_DEADLINE_S):
                await writer.drain()
        except (OSError, TimeoutError) as error:
            log.info("CNI socket: a plugin did not wait for its answer: %s", error)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(_READ_DEADLINE_S):
                line = await reader.readline()
        except (ValueError, TimeoutError) as error:
            return protocol.refused(Refusal(protocol.TRY_AGAIN, "the plugin's question can't be read", str(error)))
        try:
            await self._answer(protocol.decode(line))
        except Refusal as refusal:
            log.warning("CNI: %s", refusal.message)
            return protocol.refused(refusal)
        except OSError as error:
            log.warning("CNI: %s", error)
            return protocol.refused(Refusal(protocol.TRY_AGAIN, str(error)))
        return protocol.accepted()

    async def _answer(self, question: Question) -> None:
        network = self._network
        match question:
            case Add():
                await network.add(_attachment(question), deadline_s=max(_AHEAD_S, question.deadline_s - _AHEAD_S))
            case Check():
                await network.check(_attachment(question))
            case Delete():
                await network.delete(AttachmentKey(question.container_id, question.ifname))
            case Collect(attachments):
                await network.collect(frozenset(attachments))
            case Status():
                network.status()
            case _:
                assert_never(question)


def _attachment(question: Add | Check) -> Attachment:
    return Attachment(
        question.container_id,
        question.ifname,
        question.netns,
        question.namespace,
        question.name,
        question.uid,
        question.addresses,
    )
