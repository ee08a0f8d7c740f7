"""Puts the plugin where the container runtime finds it, keeps it in the chain whoever rewrites that, and takes it out without a trace.

What stands in the directories is looked at anew each time: the network's own agent, and other versions of this one, write there, too.
"""

import asyncio
import errno
import logging
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from nodeagent.cni import conflist
from nodeagent.cni.conflist import CNIPlaces, ConflistError, PluginEntry
from nodeagent.linux.errors import KernelError
from nodeagent.linux.inotify import DirectoryWatch

log = logging.getLogger(__name__)

BUNDLED: Final = Path(__file__).parent / "bin" / conflist.PLUGIN
ASIDE_SUFFIX: Final = ".nodemesh-aside"
"""Behind the name of a file that a list was made of: no runtime looks at it."""
_RECHECK_S: Final = 10.0
_BINARY_MODE: Final = 0o755


class Installation:
    """Owns our plugin's file and its part of the chosen configuration. `problem` says why pods would start without it; empty if not."""

    def __init__(self, places: CNIPlaces, entry: PluginEntry, *, binary: Path = BUNDLED) -> None:
        self._places = places
        self._entry = entry
        self._binary = binary
        self._reported = ""
        self._removed = False
        self._writing = threading.Lock()
        self.problem = "not installed yet"

    async def run(self) -> NoReturn:
        """Until cancelled; what is installed stays, so that no pod starts uncaptured while the agent is away."""
        renew = True
        while True:
            try:
                with DirectoryWatch(self._places.conf_dir) as watch:
                    while True:
                        await asyncio.to_thread(self.install, renew=renew)
                        # Only at the start: of two agents during an upgrade each would put its own entry in place of the other's for ever.
                        renew = False
                        await watch.changed(timeout_s=_RECHECK_S)
            except OSError as error:
                self._report(f"CNI: {error}")
                await asyncio.sleep(1.0)

    def install(self, *, renew: bool = False) -> None:
        """Does what is missing; `renew` replaces an entry and a file of another version, too. After `remove` it does nothing. Blocks."""
        with self._writing:
            if self._removed:
                return
            try:
                self._install_binary(renew=renew)
                self._report(self._install_entry(renew=renew))
            except OSError as error:
                self._report(f"CNI: {error}")

    def remove(self) -> None:
        """Puts every configuration back as it would be without us, then removes the plugin's file. Blocks; raises OSError."""
        with self._writing:
            self._removed = True
            self._remove()
            self.problem = ""

    def _remove(self) -> None:
        directory = self._places.conf_dir
        for name in conflist.candidates(_names(directory)):
            with suppress(ConflistError):
                text = _read(directory / name)
                if conflist.has_plugin(name, text):
                    self._take_out(directory / name, text)
        (self._places.bin_dir / conflist.PLUGIN).unlink(missing_ok=True)

    def _take_out(self, file: Path, text: bytes) -> None:
        original = file.name.removesuffix(conflist.CONVERTED_SUFFIX)
        aside = file.with_name(original + ASIDE_SUFFIX)
        if original != file.name and aside.exists() and conflist.converts_to(_read(aside), text):
            aside.rename(file.with_name(original))
            file.unlink()
        else:
            _replace(file, conflist.without_plugin(text))
            aside.unlink(missing_ok=True)
        log.info("CNI: the plugin is out of %s", file)

    def _install_binary(self, *, renew: bool) -> None:
        target = self._places.bin_dir / conflist.PLUGIN
        if not renew and target.exists():
            return
        wanted = self._binary.read_bytes()
        if not target.exists() or target.read_bytes() != wanted:
            _replace(target, wanted, mode=_BINARY_MODE)
            log.info("CNI: the plugin is in %s", target)

    def _install_entry(self, *, renew: bool) -> str:
        """Into the first file that is a configuration; returns what keeps it from that, in words."""
        directory = self._places.conf_dir
        problems: list[str] = []
        for name in conflist.candidates(_names(directory)):
            try:
                text = _read(directory / name)
                if renew or not conflist.has_plugin(name, text):
                    self._put_in(directory / name, text, conflist.with_plugin(name, text, self._entry))
            except ConflistError as error:
                problems.append(f"CNI configuration {directory / name} {error}; it is left alone")
            else:
                return "; ".join(problems)
        problems = problems or [f"no CNI configuration is in {directory} yet"]
        return "; ".join(problems) + ": pods start without the mesh's plugin"

    def _put_in(self, file: Path, before: bytes, after: bytes) -> None:
        if conflist.is_list(file.name):
            if before != after:
                _replace(file, after)
                log.info("CNI: the plugin is in the chain of %s", file)
            return
        # The list first: as long as both are there the single one, which sorts first, is in force.
        converted = file.with_name(file.name + conflist.CONVERTED_SUFFIX)
        _replace(converted, after, mode=file.stat().st_mode & 0o777)
        file.rename(file.with_name(file.name + ASIDE_SUFFIX))
        log.info("CNI: the plugin is in the chain of %s, made from %s", converted, file.name)

    def _report(self, problem: str) -> None:
        if problem and problem != self._reported:
            log.warning("%s", problem)
        self._reported = self.problem = problem


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(directory) if entry.is_file()]
    except FileNotFoundError:
        return []


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(conflist.MAX_TEXT_BYTES + 1)


def _replace(file: Path, body: bytes, *, mode: int | None = None) -> None:
    """In one step, so that a runtime reads the old or the new, whole; keeps the file's mode if none is given."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}.draft")
    try:
        mode = mode if mode is not None else file.stat().st_mode & 0o777
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(body)
            stream.flush()
            os.fsync(descriptor)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise KernelError(error.errno or errno.EIO, str(file)) from error
