"""Answers the plugin: a pod of the mesh starts when it is captured and served under its own identity, others at once."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from nodeagent.cni import protocol
from nodeagent.cni.attachments import Attachments
from nodeagent.cni.protocol import Attachment, AttachmentKey, Refusal
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, key_at
from nodeagent.runtime.places import prove
from nodeagent.runtime.pods import Standing
from nodeagent.turn import Turn


class Pods(Protocol):
    """What is known of the pods of this node."""

    @property
    def problem(self) -> str: ...

    def standing(self, namespace: str, name: str, uid: str) -> Standing: ...

    def lacks(self, uid: str) -> str:
        """What keeps the pod with that uid from being found, in words."""

    async def refresh(self, namespace: str) -> None:
        """Asks the API server of a namespace now; what is known stays if it does not answer."""

    def look(self) -> None:
        """Where its namespace is may have been told."""


class PodNetwork:
    """Implements `server.Network`. `turn` is told whenever the standing of a pod, or its enrolment, may have changed."""

    def __init__(
        self,
        pods: Pods,
        attachments: Attachments,
        statuses: Callable[[], tuple[WorkloadStatus, ...]],
        not_ready: Callable[[], str | None],
        turn: Turn,
    ) -> None:
        self._pods = pods
        self._attachments = attachments
        self._statuses = statuses
        self._not_ready = not_ready
        self._turn = turn
        with Namespace.own() as own:
            self._node = own.key

    async def add(self, attachment: Attachment, *, deadline_s: float) -> None:
        """See `server.Network`. An attachment is kept whatever the pod's standing is: it may be enrolled later."""
        await asyncio.to_thread(self._prove, attachment)
        await asyncio.to_thread(self._attachments.put, attachment)
        self._pods.look()
        try:
            async with asyncio.timeout(deadline_s):
                await self._await(attachment)
                # A label that was set just before the pod was made may come after the pod: the two are watched each on its own.
                await self._pods.refresh(attachment.namespace)
                await self._await(attachment)
        except TimeoutError as error:
            reason = self._waits_for(attachment) or "the API server does not say whether its namespace is"
            words = f"pod {attachment.pod} is not in the mesh within {deadline_s:g} s: {reason}"
            raise Refusal(protocol.TRY_AGAIN, words) from error

    async def check(self, attachment: Attachment) -> None:
        if (reason := self._waits_for(attachment)) is not None:
            raise Refusal(protocol.NOT_AS_EXPECTED, f"pod {attachment.pod} is not in the mesh: {reason}")

    async def delete(self, key: AttachmentKey) -> None:
        """Capture stays until the namespace goes: what a pod says at its end is not said in the clear."""
        await asyncio.to_thread(self._attachments.remove, key)
        self._pods.look()

    async def collect(self, valid: frozenset[AttachmentKey]) -> None:
        await asyncio.to_thread(self._attachments.retain, valid)
        self._pods.look()

    def status(self) -> None:
        if reason := self._pods.problem or self._not_ready():
            raise Refusal(protocol.UNAVAILABLE, f"the node agent is not ready: {reason}")

    def _prove(self, attachment: Attachment) -> None:
        try:
            prove(Namespace.open(attachment.netns), attachment.addresses, self._node).close()
        except KernelError as error:
            raise Refusal(
                protocol.TRY_AGAIN, f"the network namespace of pod {attachment.pod} is not as the plugin says", str(error)
            ) from error

    async def _await(self, attachment: Attachment) -> None:
        while self._waits_for(attachment) is not None:
            await self._turn.wait()

    def _waits_for(self, attachment: Attachment) -> str | None:
        """What is missing before the pod may run, None if nothing is."""
        match self._pods.standing(attachment.namespace, attachment.name, attachment.uid):
            case Standing.UNKNOWN:
                return self._pods.problem or "the API server has not told of it yet"
            case Standing.OUTSIDE:
                return None
        status = next((one for one in self._statuses() if one.workload.instance == attachment.uid), None)
        if status is None or status.workload.network is None:
            return self._pods.lacks(attachment.uid) or "its network namespace is being looked for"
        if status.workload.network != key_at(attachment.netns):
            return "an earlier network namespace of it is still captured"
        if status.state is EnrolmentState.CAPTURED:
            return None
        return (self._not_ready() if status.state is not EnrolmentState.WAITING else None) or status.problem or status.state.value
