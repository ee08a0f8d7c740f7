"""What the mesh calls the workloads that this Envoy's reports are about, without I/O: asked for by address, taken by identity.

An address says where a connection came from, its certificate who it is. A name is taken only if the workload at that address is who the
certificate says: an address that was another's a moment ago, or that somebody stands in for, names nobody.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from msgspec import Struct

from control.envoy.reports import workload_text
from meshapi import discovery
from meshapi.workload import AddressKey, WorkloadUID, address_key, decode_alone

MAX_ADDRESSES: Final = 8192
PATIENCE_S: Final = 2.0
"""How long an answer is waited for."""
NOBODY: Final = ""


class _Workload(Struct, frozen=True):
    identity: str
    text: str


class _Asked(Struct):
    """An address. `uid` is whose it is; `answered`: whether there was an answer at all, be it that it is nobody's."""

    since_s: float
    answered: bool = False
    uid: WorkloadUID | None = None


class WorkloadNames:
    """Keeps the addresses seen last, and what the controller says of them."""

    def __init__(self, max_addresses: int = MAX_ADDRESSES) -> None:
        self._max_addresses = max_addresses
        self._asked: OrderedDict[AddressKey, _Asked] = OrderedDict()
        """The one longest not asked for comes first."""
        self._workloads: dict[WorkloadUID, _Workload] = {}
        self._keys: dict[WorkloadUID, set[AddressKey]] = {}
        self._subscribe: dict[str, None] = {}
        self._unsubscribe: dict[str, None] = {}
        self.on_wanted: Callable[[], None] = lambda: None
        """Called when there is something to ask the controller."""
        self.answers = 0
        """How often it said something: names that were found before may be others since."""

    def find(self, address: str, identity: str, now_s: float) -> str | None:
        """A `workload_text`; NOBODY if the mesh knows nobody of that identity there, None if it is not known yet and worth waiting for."""
        key = _key(address)
        if key is None or not identity:
            return NOBODY
        found = self._asked.get(key)
        if found is None:
            self._ask(key, now_s)
            return None
        self._asked.move_to_end(key)
        if not found.answered:
            return None if now_s < found.since_s + PATIENCE_S else NOBODY
        workload = self._workloads.get(found.uid) if found.uid is not None else None
        return workload.text if workload is not None and workload.identity == identity else NOBODY

    def _ask(self, key: AddressKey, now_s: float) -> None:
        self._asked[key] = _Asked(now_s)
        self._unsubscribe.pop(key, None)
        self._subscribe[key] = None
        if len(self._asked) > self._max_addresses:
            gone, last = self._asked.popitem(last=False)
            self._detach(gone, last)
            if gone in self._subscribe:
                del self._subscribe[gone]
            else:
                self._unsubscribe[gone] = None
        self.on_wanted()

    # ---- the stream

    def first_request(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a new stream asks for: all that is of interest now, and nothing else."""
        self._subscribe.clear()
        self._unsubscribe.clear()
        return ("*", *self._asked), ("*",)

    def next_request(self) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """What to subscribe to and what no more; None while there is nothing new."""
        if not (self._subscribe or self._unsubscribe):
            return None
        found = tuple(self._subscribe), tuple(self._unsubscribe)
        self._subscribe.clear()
        self._unsubscribe.clear()
        return found

    def take(self, response: discovery.Response) -> None:
        """What the controller says; raises ModelError for what is no workload."""
        self.answers += 1
        for name in response.removed:
            asked = self._asked.get(AddressKey(name))
            if asked is not None:
                self._detach(AddressKey(name), asked)
                asked.answered = True
            self._remove(WorkloadUID(name))
        for resource in response.resources:
            self._put(resource.body)

    def _put(self, body: bytes) -> None:
        workload = decode_alone(body)
        self._remove(workload.uid)
        keys = {address_key("", one) for one in workload.addresses} & self._asked.keys()
        for key in keys:
            asked = self._asked[key]
            self._detach(key, asked)
            asked.uid, asked.answered = workload.uid, True
        if keys:
            self._workloads[workload.uid] = _Workload(str(workload.identity), workload_text(workload))
            self._keys[workload.uid] = keys

    def _remove(self, uid: WorkloadUID) -> None:
        for key in self._keys.pop(uid, ()):
            self._asked[key].uid = None
        self._workloads.pop(uid, None)

    def _detach(self, key: AddressKey, asked: _Asked) -> None:
        """The address is no longer of the workload that it was of."""
        uid, asked.uid = asked.uid, None
        if uid is None:
            return
        self._keys[uid].discard(key)
        if not self._keys[uid]:
            self._remove(uid)


@lru_cache(maxsize=8192)
def _key(address: str) -> AddressKey | None:
    """None for what is no IP address."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return address_key("", mapped or found)
