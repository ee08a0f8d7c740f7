"""The attachments that the plugin told of, kept on disk: an agent that restarts finds the namespaces of its pods where they were."""

import logging
import threading
from collections.abc import Collection
from typing import Final, Protocol

import msgspec

from nodeagent.cni.protocol import Attachment, AttachmentKey
from nodeagent.linux.namespaces import key_at

log = logging.getLogger(__name__)
_NAME: Final = "attachments"
_MAX: Final = 4096
"""More than a node has pods: what is beyond was never deleted."""


class Store(Protocol):
    """Private files that are whole or not there (`nodeagent.state.files.StateDirectory`)."""

    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, body: bytes) -> None: ...

    def set_aside(self, name: str, why: str) -> None: ...


_decoder = msgspec.json.Decoder(tuple[Attachment, ...])


class Attachments:
    """By their key, the latest last. What changes blocks until it is on disk, and may be called from several threads."""

    def __init__(self, store: Store) -> None:
        """Blocks: reads what was kept, without what is gone."""
        self._store = store
        self._writing = threading.Lock()
        self._known = {one.key: one for one in _load(store) if key_at(one.netns) is not None}

    def __len__(self) -> int:
        return len(self._known)

    def of_pod(self, uid: str) -> Attachment | None:
        """The latest of a pod, by its uid in Kubernetes."""
        return next((one for one in reversed(tuple(self._known.values())) if one.uid == uid), None)

    def put(self, attachment: Attachment) -> None:
        with self._writing:
            self._known.pop(attachment.key, None)
            known = self._known | {attachment.key: attachment}
            if len(known) > _MAX:
                known = {key: one for key, one in known.items() if key_at(one.netns) is not None}
            self._keep(known)

    def remove(self, key: AttachmentKey) -> None:
        """Fine if it is not there."""
        with self._writing:
            if key in self._known:
                self._keep({one: attachment for one, attachment in self._known.items() if one != key})

    def retain(self, valid: Collection[AttachmentKey]) -> None:
        """Forgets all others."""
        with self._writing:
            self._keep({key: one for key, one in self._known.items() if key in valid})

    def _keep(self, known: dict[AttachmentKey, Attachment]) -> None:
        self._known = known
        try:
            self._store.write(_NAME, msgspec.json.encode(tuple(known.values())))
        except OSError as error:
            # What is lost with it is a shorter way to a namespace: the pods' processes lead there, too.
            log.warning("the attachments are not kept: %s", error)


def _load(store: Store) -> tuple[Attachment, ...]:
    body = store.read(_NAME)
    if body is None:
        return ()
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        store.set_aside(_NAME, str(error))
        return ()
