"""The runtime of plain containers: those of an engine that bear the label of the mesh, with no Kubernetes at all.

The engine is Docker, Podman, or whatever else speaks Docker's API on a unix socket, or containerd. Which labels name what:

    istio.io/dataplane-mode: ambient      the container is in the mesh
    nodemesh.io/workload: web-1           its name; default: the container's
    nodemesh.io/namespace: shop           default: default
    nodemesh.io/service-account: web      default: default
"""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from meshapi.spiffe import IdentityError, check_segment
from meshapi.wire import DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT
from nodeagent.capture.annotations import read_terms
from nodeagent.linux.errors import KernelError
from nodeagent.linux.namespaces import Namespace, key_at
from nodeagent.linux.process import started_ticks
from nodeagent.runtime.base import LocalWorkload
from nodeagent.runtime.places import prove

if TYPE_CHECKING:
    from nodeagent.runtime.engines.container import Container
    from nodeagent.runtime.engines.group import Engines

log = logging.getLogger(__name__)

NAME_LABEL: Final = "nodemesh.io/workload"
NAMESPACE_LABEL: Final = "nodemesh.io/namespace"
SERVICE_ACCOUNT_LABEL: Final = "nodemesh.io/service-account"
_DEFAULT_NAMESPACE: Final = "default"
_LOOK_S: Final = 0.1


class _Held(Struct, frozen=True):
    """A container whose namespace was found, and is held open so that no other can be taken for it."""

    workload: LocalWorkload
    namespace: Namespace
    labels: dict[str, str]
    """What the workload was made from: containerd lets them be changed while a container runs."""

    @property
    def there(self) -> bool:
        return key_at(self.namespace.path) == self.namespace.key


class ContainersRuntime:
    """See `Runtime`; and `Engines` for what it is made with."""

    def __init__(
        self, sockets: tuple[Path, ...], *, usual: bool = False, exempt: tuple[str, ...] = (), cluster: str = DEFAULT_CLUSTER
    ) -> None:
        self._sockets = sockets
        self._usual = usual
        self._exempt = exempt
        self._cluster = cluster
        self._held: dict[str, _Held] = {}
        self._refused: dict[str, str] = {}
        self._engines: Engines | None = None
        with Namespace.own() as own:
            self._node = own.key

    @property
    def problem(self) -> str:
        if self._engines is None:
            return "no engine is asked yet"
        return "; ".join((*self._engines.problems, *self._refused.values()))

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """See `Runtime`. While an engine is away, its last set stays, but for containers whose namespaces are gone."""
        module = await asyncio.to_thread(import_module, "nodeagent.runtime.engines.group")
        yielded: tuple[LocalWorkload, ...] | None = None
        async with module.Engines(self._sockets, usual=self._usual, exempt=self._exempt) as engines:
            self._engines = engines
            try:
                while True:
                    if await engines.changed_within(_LOOK_S):
                        await asyncio.to_thread(self._take, engines.containers)
                    elif all(held.there for held in self._held.values()):
                        continue
                    # The first set takes the place of what a former agent knew, so it must be whole.
                    if yielded is None and not engines.complete:
                        continue
                    current = self._current()
                    if current != yielded:
                        yielded = current
                        yield current
            finally:
                for held in self._held.values():
                    held.namespace.close()
                self._held.clear()

    def _current(self) -> tuple[LocalWorkload, ...]:
        for one in [one for one, held in self._held.items() if not held.there]:
            self._held.pop(one).namespace.close()
        made: dict[str, LocalWorkload] = {}
        for held in self._held.values():
            if made.setdefault(held.workload.uid, held.workload) != held.workload:
                self._refuse(held.workload.instance, f"container {held.workload.instance[:12]}: its name {held.workload.uid} is another's")
        return tuple(sorted(made.values(), key=lambda workload: workload.uid))

    def _take(self, listed: Iterable["Container"]) -> None:
        """Opens the namespaces of those that are new. Blocks."""
        joined = {container.id: container for container in listed}
        for one in [one for one in self._held if one not in joined]:
            self._held.pop(one).namespace.close()
        self._refused = {one: why for one, why in self._refused.items() if one in joined}
        for container in joined.values():
            held = self._held.get(container.id)
            if held is not None and held.there and held.labels == container.labels:
                continue
            try:
                found = self._found(container)
            except (OSError, IdentityError) as error:
                self._refuse(container.id, f"container {container.name}: {error}")
            else:
                self._held[container.id] = found
                self._refused.pop(container.id, None)
                if held is not None:
                    held.namespace.close()

    def _found(self, container: "Container") -> _Held:
        """Raises KernelError for a namespace that is not proved to be the container's, IdentityError for a name that can be none."""
        pid, labels = container.pid, container.labels
        name = labels.get(NAME_LABEL) or container.name
        namespace, account = labels.get(NAMESPACE_LABEL, _DEFAULT_NAMESPACE), labels.get(SERVICE_ACCOUNT_LABEL, DEFAULT_SERVICE_ACCOUNT)
        for part in (name, namespace, account):
            check_segment(part)
        begun = started_ticks(pid)
        opened = Namespace.open(f"/proc/{pid}/ns/net")
        if begun is None or started_ticks(pid) != begun or not container.owns(_cgroups(pid)):
            opened.close()
            raise KernelError(errno.ESRCH, f"process {pid}", detail="is not the container's any more")
        opened = prove(opened, container.addresses, self._node)
        # The engine's own path to it stays the same whatever becomes of the process.
        if container.sandbox and key_at(container.sandbox) == opened.key:
            opened.path, begun = container.sandbox, 0
        terms, problem = read_terms(labels)
        workload = LocalWorkload(
            uid=f"{self._cluster}//Pod/{namespace}/{name}",
            name=name,
            namespace=namespace,
            service_account=account,
            netns=opened.path,
            network=opened.key,
            terms=terms,
            terms_problem=problem,
            instance=container.id,
            started_ticks=begun,
        )
        return _Held(workload, opened, labels)

    def _refuse(self, one: str, why: str) -> None:
        if self._refused.get(one) != why:
            log.warning("%s", why)
        self._refused[one] = why


def _cgroups(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except OSError:
        return ""
