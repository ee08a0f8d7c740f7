"""Network namespaces: opening one, naming it, and running a function in it.

A function runs in a thread of its own that enters the namespace and ends there. So no thread ever comes back from a foreign
namespace, and nothing forks: a fork beside gRPC crashes.
"""

import errno
import os
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, Self, TypeVar

from nodeagent.linux import libc
from nodeagent.linux.descriptors import OwnedDescriptor
from nodeagent.linux.errors import KernelError
from nodeagent.linux.threads import run_in_thread

P = ParamSpec("P")
T = TypeVar("T")


class NamespaceKey(NamedTuple):
    """What a namespace is, whatever path leads to it. Unique as long as something holds the namespace open."""

    device: int
    inode: int


class Namespace(OwnedDescriptor):
    """An open network namespace. Owns its descriptor, and by that keeps the namespace alive."""

    def __init__(self, descriptor: int, path: str) -> None:
        """Takes `descriptor` over; closes it if it is no network namespace and raises KernelError."""
        self.path = path
        super().__init__(descriptor)
        try:
            _check(descriptor, path)
            status = os.fstat(descriptor)
        except OSError:
            self.close()
            raise
        self.key = NamespaceKey(status.st_dev, status.st_ino)

    @classmethod
    def open(cls, path: str) -> Self:
        """Opens the namespace at `path`; raises KernelError."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"network namespace {path}") from error
        return cls(descriptor, path)

    @classmethod
    def own(cls) -> Self:
        """The namespace of this process: that of the node."""
        return cls.open("/proc/self/ns/net")

    @property
    def id(self) -> int:
        """As the kernel's description of a link has it."""
        return self.key.inode

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `function` in this namespace, waits for it, returns or raises what it does. Blocks: off the event loop."""

        def enter() -> None:
            libc.setns(self._descriptor, libc.CLONE_NEWNET, self.path)

        return run_in_thread(f"netns {self.path}", enter, lambda: function(*args, **kwargs))


def run_in_empty(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls `function` in a new namespace that ends with the call: a place to ask the kernel what it makes of something."""
    return run_in_thread("empty netns", lambda: libc.unshare(libc.CLONE_NEWNET), lambda: function(*args, **kwargs))


def key_at(path: str) -> NamespaceKey | None:
    """Which namespace `path` leads to now, without opening it; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of procfs: pathlib adds nothing
    except OSError:
        return None
    return NamespaceKey(status.st_dev, status.st_ino)


def _check(descriptor: int, path: str) -> None:
    if libc.namespace_kind(descriptor) != libc.CLONE_NEWNET:
        raise KernelError(errno.EINVAL, path, detail="is not a network namespace")
