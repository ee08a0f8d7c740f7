"""What plugin and agent say to each other: one question and one answer, a line of JSON each. The other side is plugin/src/agent.rs."""

from typing import Final

import msgspec
from msgspec import Struct

VERSION: Final = 1
MAX_QUESTION_BYTES: Final = 1 << 20
TRY_AGAIN: Final = 11
"""The specification's code for what cures itself: the runtime comes back."""
UNAVAILABLE: Final = 50
NOT_AS_EXPECTED: Final = 100
"""Ours: what `check` finds missing."""


class AttachmentKey(Struct, frozen=True):
    """What the specification names an attachment by."""

    container_id: str
    ifname: str


class Attachment(Struct, frozen=True):
    """A pod's network namespace, as the container runtime made it. `uid` is the pod's in Kubernetes."""

    container_id: str
    ifname: str
    netns: str
    namespace: str
    name: str
    uid: str
    addresses: tuple[str, ...] = ()

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.container_id, self.ifname)

    @property
    def pod(self) -> str:
        return f"{self.namespace}/{self.name}"


class Add(Attachment, frozen=True, tag="add", tag_field="command"):
    """The pod starts when this is answered."""

    version: int = VERSION
    deadline_s: int = 30


class Check(Attachment, frozen=True, tag="check", tag_field="command"):
    """Is it still as it was when it was added?"""

    version: int = VERSION
    deadline_s: int = 30


class Delete(AttachmentKey, frozen=True, tag="delete", tag_field="command"):
    """The pod has ended, or its start failed."""

    version: int = VERSION


class Collect(Struct, frozen=True, tag="collect", tag_field="command"):
    """All attachments that there are: others are to be forgotten."""

    attachments: tuple[AttachmentKey, ...]
    version: int = VERSION


class Status(Struct, frozen=True, tag="status", tag_field="command"):
    """Could a pod be added now?"""

    version: int = VERSION


Question = Add | Check | Delete | Collect | Status


class Refusal(Exception):
    """The answer is no; the texts become the pod's event."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


_decoder: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)


def decode(line: bytes) -> Question:
    """Raises Refusal for what is no question, or of a plugin that speaks another version."""
    try:
        question = _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refusal(TRY_AGAIN, "the plugin's question can't be understood", str(error)) from error
    if question.version != VERSION:
        raise Refusal(TRY_AGAIN, f"the plugin speaks version {question.version}, the node agent {VERSION}")
    if isinstance(question, Attachment) and ("\0" in question.netns or not question.netns.startswith("/")):
        raise Refusal(TRY_AGAIN, "the plugin names no path of a network namespace")
    return question


def accepted() -> bytes:
    """The answer that all is well."""
    return b'{"ok":true}\n'


def refused(refusal: Refusal) -> bytes:
    """The answer that it is not."""
    return msgspec.json.encode({"code": refusal.code, "message": refusal.message, "details": refusal.details}) + b"\n"
