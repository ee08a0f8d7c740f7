"""Files that only their owner reads, replaced as a whole: after a crash there is the old content or the new, never a part."""

import os
import stat
from pathlib import Path


def make_private_directory(path: Path) -> None:
    """Makes `path` (0700) with its parents; raises PermissionError if it exists and others may look into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise PermissionError(f"{path} has mode {mode:04o}: keys live there, so it must be 0700 (chmod 700 {path})")


def write_private(path: Path, content: bytes) -> None:
    """Replaces `path` with `content`, mode 0600, and returns when it is on disk."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    # O_EXCL and the mode at creation: there is no moment in which another user could open it.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
