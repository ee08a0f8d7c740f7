"""Where pods' network namespaces are: by what the CNI plugin told, else by the pods' processes, and never without proof.

A namespace that was found is held open for as long as its pod is sought: so what it is called in the kernel stays its own.
"""

import errno
import time
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Final, NamedTuple

from msgspec import Struct

from nodeagent.linux import cgroups, netlink
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, NamespaceKey, key_at
from nodeagent.runtime import pod_processes

_FIRST_SCAN_S: Final = 0.25
_LONGEST_SCAN_S: Final = 5.0
"""Between two looks at all processes while a pod is not found."""
_MAX_TRIES: Final = 16
"""Processes of a pod whose namespaces are looked into: it can make more."""


class Sought(Struct, frozen=True):
    """A pod whose namespace is wanted. `addresses` are the API server's; `told` is where the plugin said it is."""

    uid: str
    addresses: tuple[str, ...] = ()
    told: str = ""
    told_addresses: tuple[str, ...] = ()


class Place(Struct, frozen=True):
    """A namespace, proved to be the pod's."""

    path: str
    key: NamespaceKey
    started_ticks: int = 0
    """Of the process that the path is of, if it is of one."""
    cgroup: str = ""
    """Of the pod's processes, below the mount of cgroup v2; empty if it is not known."""


class _Found(NamedTuple):
    namespace: Namespace
    cgroup: str
    started_ticks: int = 0

    @property
    def there(self) -> bool:
        return key_at(self.namespace.path) == self.namespace.key

    @property
    def place(self) -> Place:
        return Place(self.namespace.path, self.namespace.key, self.started_ticks, self.cgroup)


class Places:
    """Owns the namespaces that it found. Its methods block but for `moved` and `due`."""

    def __init__(self) -> None:
        self._held: dict[str, _Found] = {}
        self._missing: dict[str, str] = {}
        self._scan_at_s = 0.0
        self._pause_s = _FIRST_SCAN_S
        with Namespace.own() as own:
            self._node = own.key

    @property
    def missing(self) -> dict[str, str]:
        """The pods (by uid) whose namespaces are not found, and why."""
        return self._missing

    def moved(self) -> bool:
        """Whether a namespace that was found is no longer where it was."""
        return not all(found.there for found in self._held.values())

    def due(self) -> bool:
        """Whether it is time to look again for what is missing."""
        return bool(self._missing) and time.monotonic() >= self._scan_at_s

    def find(self, sought: Iterable[Sought]) -> dict[str, Place]:
        """The places of those that have one now, by uid; lets go of what is not sought any more."""
        wanted = {one.uid: one for one in sought}
        for uid in [uid for uid in self._held if uid not in wanted]:
            self._held.pop(uid).namespace.close()
        self._missing = {}
        for one in wanted.values():
            self._check(one)
        self._scan([one for one in wanted.values() if one.uid not in self._held])
        return {uid: found.place for uid, found in self._held.items()}

    def close(self) -> None:
        for found in self._held.values():
            found.namespace.close()
        self._held.clear()

    def _check(self, one: Sought) -> None:
        """What is held stays as long as it is there: a pod that takes its own addresses off does not get out of the mesh by that."""
        held = self._held.get(one.uid)
        if held is not None and not held.there:
            self._held.pop(one.uid).namespace.close()
            held = None
        # The same one by another path stays, too: its path is what it is known by after a restart.
        if one.told and (held is None or key_at(one.told) not in {held.namespace.key, None}):
            self._take(one, self._told(one))

    def _take(self, one: Sought, found: _Found | None) -> None:
        if found is not None:
            if (before := self._held.pop(one.uid, None)) is not None:
                before.namespace.close()
            self._held[one.uid] = found

    def _told(self, one: Sought) -> _Found | None:
        try:
            return _Found(prove(Namespace.open(one.told), one.addresses or one.told_addresses, self._node), _usual_cgroup(one.uid))
        except OSError as error:
            self._missing[one.uid] = str(error)
            return None

    def _scan(self, lost: list[Sought]) -> None:
        """Looks for processes of pods; a pod without an address can't be proved to be found."""
        for one in lost:
            self._missing.setdefault(one.uid, "it has no address yet" if not one.addresses else "no process of it is found")
        now_s = time.monotonic()
        if not lost:
            self._pause_s = _FIRST_SCAN_S
        if not lost or now_s < self._scan_at_s:
            return
        self._pause_s = min(2 * self._pause_s, _LONGEST_SCAN_S)
        self._scan_at_s = now_s + self._pause_s
        provable = {one.uid: one for one in lost if one.addresses}
        for uid, processes in pod_processes.by_pod(provable).items() if provable else ():
            self._take(provable[uid], next(self._proved(provable[uid], processes), None))
            if uid in self._held:
                del self._missing[uid]

    def _proved(self, one: Sought, processes: list[pod_processes.PodProcess]) -> Iterator[_Found]:
        seen: set[NamespaceKey | None] = {self._node}
        for process in processes:
            if (key := key_at(f"/proc/{process.pid}/ns/net")) in seen or len(seen) > _MAX_TRIES:
                continue
            seen.add(key)
            try:
                if (namespace := pod_processes.open_namespace(process, one.uid)) is not None:
                    proved = prove(namespace, one.addresses, self._node)
                    yield _Found(proved, pod_processes.cgroup_of(process), process.started_ticks)
            except OSError as error:
                self._missing[one.uid] = str(error)


def prove(namespace: Namespace, addresses: Iterable[str], node: NamespaceKey) -> Namespace:
    """Returns the namespace if it has the addresses and is not the node's own; else closes it and raises KernelError. Blocks."""
    try:
        if namespace.key == node:
            raise KernelError(errno.EINVAL, namespace.path, detail="is the node's own network, which is never captured")
        inside = set(namespace.run(netlink.addresses))
        lacking = [address for address in addresses if str(ip_address(address)) not in inside]
        if lacking:
            raise KernelError(errno.EADDRNOTAVAIL, namespace.path, detail=f"does not have the pod's address {', '.join(lacking)}")
    except ValueError as error:
        namespace.close()
        raise KernelError(errno.EINVAL, namespace.path, detail=str(error)) from error
    except OSError:
        namespace.close()
        raise
    return namespace


def _usual_cgroup(uid: str) -> str:
    """The cgroup that the kubelet made ahead of the pod's namespace, while no process is there yet to tell."""
    try:
        mount = cgroups.root()
    except OSError:
        return ""
    return next((path for path in pod_processes.usual_cgroups(uid) if (mount / path).is_dir()), "")
