"""The static runtime: workloads from a YAML list that is watched.

- name: web-1
  namespace: shop
  service_account: web          # default: default
  netns: /run/netns/web-1
  uid: Kubernetes//Pod/shop/web-1   # default: from cluster, namespace and name
  annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: "3306"}   # default: none; see `nodeagent.capture.annotations`
  cgroup: shop.slice/web-1      # of its processes, below the mount of cgroup v2; default: not known

An entry with `host: true`, and neither netns nor cgroup, is the node itself: all that has no network of its own. What comes to the agent's
ports 15020 and 15021 is left alone, and to 22 unless its annotations say which ports are. An entry with a cgroup and without a netns is a
process group of the node's own network, such as a unit of systemd has. What comes to it is captured at the ports that it names (`ports:
[8080]`); tunnels it takes at addresses of the host that are its alone (`addresses: [10.1.2.3]`).
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import yaml

from meshapi.decoding import MAX_PORT
from meshapi.spiffe import IdentityError, check_segment
from meshapi.wire import DEFAULT_CLUSTER, DEFAULT_SERVICE_ACCOUNT
from nodeagent.capture.annotations import read_host_terms, read_terms
from nodeagent.capture.terms import Terms
from nodeagent.linux import cgroups
from nodeagent.linux.namespaces import key_at
from nodeagent.policy.addresses import AddressError, parse_address
from nodeagent.runtime.base import HOST_NETWORK, LocalWorkload

log = logging.getLogger(__name__)

_MAX_FILE_BYTES: Final = 4 << 20
_MAX_DEPTH: Final = 8
_POLL_S: Final = 0.1
_UID: Final = re.compile(r"[A-Za-z0-9._/:-]{1,512}\Z", re.ASCII)
_ENTRY: Final = re.compile(r"\$\[(\d+)\]")


class ListError(ValueError):
    """A list that can't be used; the text says file, line, what is wrong."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    namespace: str
    netns: str = ""
    service_account: str = DEFAULT_SERVICE_ACCOUNT
    uid: str = ""
    probe_ports: tuple[int, ...] = ()
    annotations: dict[str, str] = {}
    cgroup: str = ""
    host: bool = False
    ports: tuple[int, ...] = ()
    addresses: tuple[str, ...] = ()


class StaticRuntime:
    """See `Runtime`. A list that can't be used leaves the last good one in force."""

    def __init__(self, path: Path, *, cluster: str = DEFAULT_CLUSTER) -> None:
        self._path = path
        self._cluster = cluster
        self.problem = "not read yet"

    async def watch(self) -> AsyncIterator[tuple[LocalWorkload, ...]]:
        """Looks every 100 ms: a `stat` costs a microsecond, and sees namespaces come and go as well as edits."""
        seen: object = None
        listed: tuple[LocalWorkload, ...] | None = None
        yielded: tuple[LocalWorkload, ...] | None = None
        while True:
            if (version := self._version()) != seen:
                seen = version
                listed = self._reread(listed)
            if listed is not None:
                current = tuple(msgspec.structs.replace(workload, network=key_at(workload.netns)) for workload in listed)
                if current != yielded:
                    yielded = current
                    yield current
            await asyncio.sleep(_POLL_S)

    def _version(self) -> object:
        try:
            status = self._path.stat()
        except OSError as error:
            return error.errno
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _reread(self, last_good: tuple[LocalWorkload, ...] | None) -> tuple[LocalWorkload, ...] | None:
        try:
            listed = read(self._path, cluster=self._cluster)
        except ListError as error:
            self.problem = str(error)
            log.warning("workload list: %s; the last good list stays in force", error)
            return last_good
        self.problem = ""
        return listed


def read(path: Path, *, cluster: str = DEFAULT_CLUSTER) -> tuple[LocalWorkload, ...]:
    """Reads a list, sorted by uid; raises ListError."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ListError(f"{path}: {error.strerror}") from error
    if len(text) > _MAX_FILE_BYTES:
        raise ListError(f"{path}: larger than {_MAX_FILE_BYTES} bytes")
    try:
        entries = _decode(text)
        return _workloads(entries, cluster)
    except ValueError as error:
        words = " ".join(str(error).split())
        raise ListError(f"{path}{_line(text, words)}: {words}") from error


def _decode(text: bytes) -> list[_Entry]:
    _check_depth(text)
    return msgspec.yaml.decode(text, type=list[_Entry] | None) or []


def _check_depth(text: bytes) -> None:
    # Ahead of the decoder: libyaml's composer recurses in C, and enough brackets would end the process.
    depth = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise ListError("nested too deeply")
    except yaml.YAMLError as error:
        raise ListError(str(error)) from error


def _workloads(entries: list[_Entry], cluster: str) -> tuple[LocalWorkload, ...]:
    made: dict[str, LocalWorkload] = {}
    places: dict[str, int] = {}
    for index, entry in enumerate(entries):
        workload = _workload(entry, index, cluster)
        if workload.uid in made:
            raise ListError(f"uid {workload.uid} is listed twice - at `$[{index}]`")
        if (other := places.setdefault(workload.netns, index)) != index:
            raise ListError(f"{workload.netns} belongs to entry {other} already - at `$[{index}]`")
        made[workload.uid] = workload
    return tuple(sorted(made.values()))


def _workload(entry: _Entry, index: int, cluster: str) -> LocalWorkload:
    for field, value in (("name", entry.name), ("namespace", entry.namespace), ("service_account", entry.service_account)):
        try:
            check_segment(value)
        except IdentityError as error:
            raise ListError(f"{error} - at `$[{index}].{field}`") from error
    uid = entry.uid or f"{cluster}//Pod/{entry.namespace}/{entry.name}"
    if not _UID.match(uid):
        raise ListError(f"{uid[:80]!r} is no uid: letters, digits, . _ / : - only - at `$[{index}].uid`")
    if entry.host and (entry.netns or entry.cgroup):
        raise ListError(f"the whole host has its own netns, and no cgroup - at `$[{index}].host`")
    cgroup = _cgroup(entry.cgroup, index)
    terms, problem = read_host_terms(entry.annotations) if entry.host else read_terms(entry.annotations, cgroup=cgroup)
    if entry.ports or entry.addresses:
        terms = _of_unit(terms, entry, index)
    return LocalWorkload(
        uid,
        entry.name,
        entry.namespace,
        entry.service_account,
        HOST_NETWORK if entry.host else _netns(entry.netns, cgroup, index),
        terms=terms,
        terms_problem=problem,
        probe_ports=_ports(entry.probe_ports, index, "probe_ports"),
        process_group=bool(cgroup) and not entry.netns,
    )


def _of_unit(terms: Terms, entry: _Entry, index: int) -> Terms:
    if entry.netns or not entry.cgroup:
        raise ListError(f"ports and addresses are of process groups: all of a network of its own is captured - at `$[{index}]`")
    try:
        addresses = tuple(sorted({str(parse_address(one)) for one in entry.addresses}))
    except AddressError as error:
        raise ListError(f"{error} - at `$[{index}].addresses`") from error
    ports = _ports(entry.ports, index, "ports") or terms.include_inbound_ports
    return msgspec.structs.replace(terms, include_inbound_ports=ports, addresses=addresses)


def _netns(path: str, cgroup: str, index: int) -> str:
    if not path and cgroup:
        try:
            return str(cgroups.root() / cgroup)
        except OSError as error:
            raise ListError(f"{error} - at `$[{index}].cgroup`") from error
    if not Path(path).is_absolute() or "\0" in path:
        raise ListError(f"{path!r} must be an absolute path, or a cgroup given instead - at `$[{index}].netns`")
    return path


def _cgroup(path: str, index: int) -> str:
    parts = path.strip("/").split("/") if path else []
    if "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise ListError(f"{path[:80]!r} is no path below the mount of cgroup v2 - at `$[{index}].cgroup`")
    return "/".join(parts)


def _ports(ports: tuple[int, ...], index: int, field: str) -> tuple[int, ...]:
    for port in ports:
        if not 0 < port <= MAX_PORT:
            raise ListError(f"{port} is no port: 1 to {MAX_PORT} - at `$[{index}].{field}`")
    return tuple(sorted(set(ports)))


def _line(text: bytes, error: str) -> str:
    """Where the entry that the error names begins, as `:line`."""
    if not (named := _ENTRY.search(error)):
        return ""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return ""
    index = int(named.group(1))
    if not isinstance(root, yaml.SequenceNode) or index >= len(root.value):
        return ""
    return f":{root.value[index].start_mark.line + 1}"
