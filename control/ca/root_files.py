"""The files of the mesh's own root: which they are, how they are written so that a crash in between harms nothing, and the store of a
controller that has the root for itself."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from control.ca.issuer import ROOTS_FILE
from control.ca.own_root import NEXT_KEY_FILE, NEXT_ROOT_FILE, OWN_ROOT_FILE, ROOT_KEY_FILE, ensure_own_authority
from control.ca.private_files import make_private_directory, write_private
from control.ca.rotation import ROTATION_FILE, Files, Step

REQUIRED: Final = (OWN_ROOT_FILE, ROOTS_FILE, ROOT_KEY_FILE)
# In the order of writing. What is to come stands before what says that it comes; a key before its certificate: where the two do not
# belong together, the coming certificate does to the key, and `ensure_own_authority` puts it in its place.
OWN_FILES: Final = (NEXT_ROOT_FILE, NEXT_KEY_FILE, ROOTS_FILE, ROTATION_FILE, ROOT_KEY_FILE, OWN_ROOT_FILE)


class RootStore(Protocol):
    """Where the own root is kept."""

    async def files(self) -> Files:
        """As they are now."""

    async def change(self, step: Step) -> None:
        """Returns when what a step makes of the files is in force here; raises what it raises, or UnavailableError."""


def write_root(directory: Path, files: Files, trust_domain: str, now_s: float) -> None:
    """Puts the files of a root in place, and an intermediate below it. Blocks."""
    make_private_directory(directory)
    for name in OWN_FILES:
        if name in files and _content(directory / name) != files[name]:
            write_private(directory / name, files[name])
    ensure_own_authority(directory, trust_domain, now_s)
    for name in reversed(OWN_FILES):
        if name not in files:
            (directory / name).unlink(missing_ok=True)


def read_root(directory: Path) -> Files:
    """Blocks."""
    found = {name: _content(directory / name) for name in OWN_FILES}
    return {name: content for name, content in found.items() if content is not None}


class RootDirectory:
    """Implements RootStore: a directory of this controller alone."""

    def __init__(self, directory: Path, trust_domain: str, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._clock = clock
        self._turn = asyncio.Lock()

    async def files(self) -> Files:
        return await asyncio.to_thread(read_root, self._directory)

    async def change(self, step: Step) -> None:
        """See `RootStore`."""
        async with self._turn:
            wanted = step(await self.files())
            await asyncio.to_thread(write_root, self._directory, wanted, self._trust_domain, self._clock())


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
