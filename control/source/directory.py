"""A directory of YAML as the source of configuration, watched through inotify.

The watch only says that something happened: what there is is read from the directory each time, so that a lost or reordered event
costs at most a rescan. Files and folders whose names begin with a dot are passed over (a ConfigMap's `..data` among them).
"""

import asyncio
import errno
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from watchfiles._rust_notify import RustNotify

from control.source import Change, FileFindings, Reject, Synced, Upsert
from control.source.tree import Absent, FileState, FileTree, Unreadable
from control.validation.finding import Severity
from control.validation.yaml_text import MAX_FILE_BYTES

MAX_FILES: Final = 20_000
_QUIET_MS: Final = 30
"""A change is read once nothing has happened for this long: editors write in several steps."""
_COALESCE_MS: Final = 90
_GLANCE_MS: Final = 1_000
"""How often it is asked whether the directory is still the same one, which costs one system call."""
_GLANCES_PER_SCAN: Final = 30
"""Without any notification, all files are looked at after so many glances."""
_SUFFIXES: Final = (".yaml", ".yml")

log = logging.getLogger(__name__)
Signature = tuple[int, int, int, int, int]


class DirectorySource:
    """Reads a directory and follows it; one use of `changes` at a time."""

    def __init__(self, directory: Path, root_namespace: str) -> None:
        self._directory = directory
        self._scanner = DirectoryScanner(directory)
        self._tree = FileTree(root_namespace)

    async def changes(self) -> AsyncIterator[tuple[Change, ...]]:
        """Raises OSError if the directory is not there at the start.

        Synced waits for every file to have been readable once: agents that still have their policies would be told that those in an
        unreadable file are gone.
        """
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="config-source") as thread:
            try:
                watch = await loop.run_in_executor(thread, Watch, self._directory)
                synced = False
                while True:
                    changes = await loop.run_in_executor(thread, self._read)
                    if not synced and not self._scanner.unreadable:
                        synced = True
                        changes = (*changes, Synced())
                    if changes:
                        yield changes
                    await loop.run_in_executor(thread, watch.wait, stop)
            finally:
                stop.set()

    def _read(self) -> tuple[Change, ...]:
        changes = tuple(self._tree.update(self._scanner.scan()))
        for change in changes:
            for finding in change.findings if isinstance(change, Upsert | Reject | FileFindings) else ():
                log.log(logging.WARNING if finding.severity is Severity.ERROR else logging.INFO, "%s", finding)
        return changes


class Watch:
    """The inotify watch; made anew when the directory is another one under the same name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._identity, self._notify = _identity(directory), _notifier(directory)

    def wait(self, stop: threading.Event) -> None:
        """Returns when something changed, or when it is time to look whether something did."""
        for _ in range(_GLANCES_PER_SCAN):
            happened = self._notify.watch(_COALESCE_MS, _QUIET_MS, _GLANCE_MS, stop)
            if happened != "timeout" or self._moved():
                return

    def _moved(self) -> bool:
        try:
            identity = _identity(self._directory)
            if self._identity == identity:
                return False
            former, self._notify = self._notify, _notifier(self._directory)
        except OSError:
            # Gone for now: the scan says so, and the next round looks again.
            return True
        former.close()
        self._identity = identity
        return True


def _notifier(directory: Path) -> RustNotify:
    return RustNotify(
        watch_paths=[str(directory)],
        debug=False,
        force_polling=False,
        poll_delay_ms=0,
        recursive=True,
        ignore_permission_denied=True,
    )


class DirectoryScanner:
    """Finds which files are new, changed or gone since the last scan, and reads them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Signature | str] = {}
        """What each file was when it was read: its signature, or why it could not be read."""
        self._unreadable: set[str] = set()

    @property
    def unreadable(self) -> set[str]:
        """The files that are there and could not be read."""
        return set(self._unreadable)

    def scan(self) -> dict[str, FileState]:
        """The files that changed, by path."""
        blind: list[str] = []
        found = dict(self._signatures(blind))
        changed = {file: self._load(file, signature) for file, signature in found.items() if self._known.get(file) != signature}
        for file in self._known.keys() - found.keys():
            # Below a folder that could not be listed, absence means nothing.
            if not any(file == folder or file.startswith(folder + os.sep) for folder in blind):
                del self._known[file]
                changed[file] = Absent()
        for file, state in changed.items():
            (self._unreadable.add if isinstance(state, Unreadable) else self._unreadable.discard)(file)
        return changed

    def _signatures(self, blind: list[str]) -> Iterator[tuple[str, Signature | str]]:
        def unlisted(error: OSError) -> None:
            # A folder that went away is empty; if the whole directory did, nothing can be concluded.
            if error.errno != errno.ENOENT or error.filename == str(self._directory):
                blind.append(str(error.filename))

        count = 0
        for folder, folders, files in os.walk(self._directory, onerror=unlisted):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.endswith(_SUFFIXES) and not name.startswith("."):
                    count += 1
                    file = str(Path(folder) / name)
                    yield file, _signature(file) if count <= MAX_FILES else f"more than {MAX_FILES} files"
        for folder in blind:
            yield folder, "the folder can't be listed"

    def _load(self, file: str, signature: Signature | str) -> FileState:
        self._known[file] = signature
        if isinstance(signature, str):
            return Unreadable(signature)
        state = read_file(file)
        if isinstance(state, Unreadable):
            # Read again with the next scan: it need not be the file's fault (no free descriptor).
            self._known[file] = state.reason
        return state


def read_file(file: str) -> FileState:
    """The text of a file, or why there is none."""
    try:
        # Without O_NONBLOCK, opening a FIFO that took the file's place would hang.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        return content.decode("utf-8-sig") if len(content) <= MAX_FILE_BYTES else Unreadable(f"larger than {MAX_FILE_BYTES} bytes")
    except (OSError, UnicodeDecodeError) as error:
        return Unreadable(str(error))


def _signature(file: str) -> Signature | str:
    try:
        status = Path(file).stat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_size > MAX_FILE_BYTES:
        return f"larger than {MAX_FILE_BYTES} bytes"
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _identity(directory: Path) -> tuple[int, int]:
    status = directory.stat()
    return status.st_dev, status.st_ino
