"""Hearing of changes in a directory as they happen, inotify(7)."""

import asyncio
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.linux import libc
from nodeagent.linux.descriptors import OwnedDescriptor
from nodeagent.linux.errors import KernelError

_CLOSE_WRITE: Final = 0x8
_MOVED: Final = 0xC0
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_UNMOUNT: Final = 0x2000
_ONLY_DIRECTORY: Final = 0x1000000
_MASK: Final = _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _ONLY_DIRECTORY
_READ_BYTES: Final = 1 << 16


class DirectoryWatch(OwnedDescriptor):
    """Tells that something changed, not what: who is told looks at the directory anew."""

    def __init__(self, path: Path) -> None:
        """Raises KernelError if there is no such directory."""
        self._path = path
        super().__init__(libc.inotify_open())
        try:
            libc.inotify_add(self._descriptor, str(path), _MASK)
            self._inode = path.stat().st_ino
        except OSError:
            self.close()
            raise

    async def changed(self, *, timeout_s: float) -> None:
        """Returns after a change, or when the time is up; raises KernelError when the directory is gone, or is another."""
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_reader(self._descriptor, heard.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await heard.wait()
        finally:
            loop.remove_reader(self._descriptor)
        with suppress(BlockingIOError):
            while os.read(self._descriptor, _READ_BYTES):
                pass
        try:
            replaced = self._path.stat().st_ino != self._inode
        except OSError:
            replaced = True
        if replaced:
            raise KernelError(errno.ENOENT, f"directory {self._path}")
