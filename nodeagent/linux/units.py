"""A process group of the node's own network namespace: a cgroup, such as a unit of systemd has."""

import os
from pathlib import Path
from typing import Final, Self

from nodeagent.linux.cgroups import Cgroup
from nodeagent.linux.namespaces import Namespace, NamespaceKey

_OWN: Final = "/proc/self/ns/net"


class Network:
    """An open network namespace of somebody else's, by its own number."""

    def __init__(self, inode: int, descriptor: int) -> None:
        """`descriptor` stays the caller's."""
        self.id = inode
        self._descriptor = descriptor

    def fileno(self) -> int:
        """The descriptor, as long as it is open."""
        return self._descriptor


class Unit(Namespace):
    """A network namespace, as that of one cgroup's processes. Owns descriptors of both; its key is the cgroup's."""

    def __init__(self, cgroup: Cgroup, path: str, network: str) -> None:
        """Takes `cgroup` over."""
        self.cgroup = cgroup
        try:
            super().__init__(os.open(network, os.O_RDONLY | os.O_CLOEXEC), path)
            self.network = self.key
            """Of the namespace that it shares with all others of the node."""
            self.key = NamespaceKey(os.fstat(cgroup.fileno()).st_dev, cgroup.id)
        except OSError:
            cgroup.close()
            raise

    @classmethod
    def open(cls, path: str, network: str = _OWN) -> Self:
        """Opens the cgroup whose directory is at `path`, in the network of this process if none is named; raises KernelError."""
        return cls(Cgroup.open("", Path(path)), path, network)

    @property
    def host(self) -> "Network":
        """The network namespace, as a place where programs run; as long as this is open."""
        return Network(self.network.inode, self.fileno())

    def close(self) -> None:
        """Closes the descriptors; safe to repeat."""
        self.cgroup.close()
        super().close()
