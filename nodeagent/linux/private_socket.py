"""Unix sockets that only this user can reach: private from their first moment, callers checked."""

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

_PEER: Final = struct.Struct("3i")


def listen(path: Path) -> socket.socket:
    """A listening socket of mode 0600: bound under another name, closed to others, then put in place. Raises OSError."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(draft))
        draft.chmod(0o600)
        listening.listen(128)
        os.replace(draft, path)  # noqa: PTH105 - a socket, not a file: the plain call says what happens
    except OSError:
        listening.close()
        raise
    return listening


def remove(path: Path, inode: int) -> None:
    """Leaves no socket that nobody answers; one that a successor put in place is not ours to remove."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def stranger(connection: socket.socket) -> str | None:
    """Who dialled, in words, if it is not a process of our own user."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return None if uid == os.geteuid() else f"process {pid} of user {uid}"
