"""A container that is to be in the mesh, as its engine tells of it."""

import re
from collections.abc import Mapping

from msgspec import Struct

from meshapi.wire import LABEL_DATAPLANE_MODE

LABEL = (LABEL_DATAPLANE_MODE, "ambient")


class EngineError(Exception):
    """The engine refused, or does not answer as engines do."""


class Container(Struct, frozen=True):
    """It has a process, the mesh's label, and a network of its own: one that shares another's is that one's."""

    id: str
    """Of no other container of the node, also not of a later one of the same name."""
    name: str
    labels: dict[str, str]
    pid: int
    cgroup: str
    """A regular expression, for the path of the cgroup (with a slash at its end) that its processes are in, and nobody else's."""
    addresses: tuple[str, ...] = ()
    """As far as the engine knows them."""
    sandbox: str = ""
    """Path of its network namespace that does not change with its processes, if the engine has one."""

    def owns(self, cgroups: str) -> bool:
        """Whether a process is the container's, by the text of its /proc/PID/cgroup: a pid alone may be another's by now."""
        paths = (line.split(":", 2)[-1] + "/" for line in cgroups.splitlines())
        return any(re.search(self.cgroup, path) for path in paths)


def is_labelled(labels: Mapping[str, str]) -> bool:
    """Whether a container with these labels asks to be in the mesh."""
    name, value = LABEL
    return labels.get(name) == value
