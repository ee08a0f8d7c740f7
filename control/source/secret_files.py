"""Certificates of gateways from a private directory: `<namespace>/<name>/` with the files of a Secret, as a mounted volume has them.

Files are read again when something happened there, all of them, and what differs is told. A certificate and its key that are written one
after the other do not fit for a moment: whoever uses them keeps the former pair until they do.
"""

import asyncio
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from control.source.directory import Watch
from control.validation import values

FIELDS: Final = ("tls.crt", "tls.key", "ca.crt", "ca.crl", "cert", "key", "cacert", "crl")
MAX_SECRETS: Final = 5_000
MAX_BYTES: Final = 1 << 20
log = logging.getLogger(__name__)
Name = tuple[str, str]
"""Namespace and name."""
Secrets = Mapping[Name, Mapping[str, bytes]]


def read_secrets(directory: Path) -> Secrets:
    """All that is there; raises OSError where that can't be told, PermissionError if others may look into it."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        raise PermissionError(f"{directory} has mode {mode:04o}: keys are there, so it must be 0700 (chmod 700 {directory})")
    found: dict[Name, Mapping[str, bytes]] = {}
    for namespace in _folders(directory, values.label_name):
        for place in _folders(namespace, values.object_name):
            if len(found) == MAX_SECRETS:
                raise OSError(f"{directory} holds more than {MAX_SECRETS} secrets")
            found[namespace.name, place.name] = {field: content for field in FIELDS if (content := _content(place / field)) is not None}
    return found


class SecretFiles:
    """Follows a directory; one use of `run` at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: Secrets = {}

    async def run(self, put: Callable[[Mapping[Name, Mapping[str, bytes] | None]], None]) -> None:
        """Until cancelled; `put` gets what is new, changed or gone (None). Raises OSError if the directory can't be read at the start."""
        loop, stop = asyncio.get_running_loop(), threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="secret-files") as thread:
            try:
                watch = await loop.run_in_executor(thread, Watch, self._directory)
                self._tell(await loop.run_in_executor(thread, read_secrets, self._directory), put)
                while True:
                    await loop.run_in_executor(thread, watch.wait, stop)
                    try:
                        found = await loop.run_in_executor(thread, read_secrets, self._directory)
                    except OSError as error:
                        log.warning("certificates stay as they were: %s", error)
                        continue
                    self._tell(found, put)
            finally:
                stop.set()

    def _tell(self, found: Secrets, put: Callable[[Mapping[Name, Mapping[str, bytes] | None]], None]) -> None:
        changed = {name: found.get(name) for name in found.keys() | self._known.keys() if found.get(name) != self._known.get(name)}
        self._known = found
        if changed:
            put(changed)


def _folders(directory: Path, check: Callable[[str], str]) -> Iterator[Path]:
    for place in sorted(directory.iterdir()):
        try:
            check(place.name)
        except ValueError:
            continue
        if place.is_dir():
            yield place


def _content(file: Path) -> bytes | None:
    try:
        # Without O_NONBLOCK, opening a FIFO that took the file's place would hang.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(f"{file} is longer than {MAX_BYTES} bytes")
    return content
