"""The pods of this node as the API server tells of them, and which of them are to be in the mesh. No I/O."""

from collections.abc import Collection
from enum import Enum, auto
from typing import Final

from msgspec import Struct, field

from meshapi import wire
from nodeagent.runtime.probe_ports import Container

_MIRROR: Final = "kubernetes.io/config.mirror"
_STATIC_UID: Final = "kubernetes.io/config.hash"
_TUNNEL_LABEL: Final = "networking.istio.io/tunnel"


class Meta(Struct, frozen=True, rename="camel"):
    """Of an object; only what is used."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    resource_version: str = ""

    @property
    def revision(self) -> int:
        """Grows with each change of anything in the cluster."""
        return int(self.resource_version) if self.resource_version.isdecimal() else 0


class PodSpec(Struct, frozen=True, rename="camel"):
    host_network: bool = False
    service_account_name: str = wire.DEFAULT_SERVICE_ACCOUNT
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Struct, frozen=True):
    ip: str


class PodStatus(Struct, frozen=True, rename="camel"):
    phase: str = "Pending"
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")


class Pod(Struct, frozen=True):
    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def key(self) -> "Name":
        return (self.metadata.namespace, self.metadata.name)

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def live(self) -> bool:
        """Whether it runs, or will."""
        return self.status.phase in {"Pending", "Running", "Unknown"}

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(entry.ip for entry in self.status.pod_ips) or ((self.status.pod_ip,) if self.status.pod_ip else ())


class Namespace(Struct, frozen=True):
    metadata: Meta


class Standing(Enum):
    """What is known of a pod that is about to start."""

    UNKNOWN = auto()
    OUTSIDE = auto()
    INSIDE = auto()


def enrolled(pod: Pod, namespace_mode: str | None) -> bool:
    """Whether a pod is to be captured: its own label wins over its namespace's.

    Never: on the host's network, which is the node's own; with a sidecar or a tunnel of its own; static pods, which have no account.
    """
    labels, annotations = pod.metadata.labels, pod.metadata.annotations
    if pod.spec.host_network or any(annotation in annotations for annotation in wire.ANNOTATIONS_APART):
        return False
    if "http" in labels.get(_TUNNEL_LABEL, "").split(","):
        return False
    return labels.get(wire.LABEL_DATAPLANE_MODE, namespace_mode) == "ambient"


Name = tuple[str, str]
"""Namespace and name."""


class PodBook:
    """Follows pods and namespaces, by what one watch after the other says. Nothing is wanted before both have told of all there is."""

    def __init__(self, *, exempt_namespaces: Collection[str] = ()) -> None:
        self._exempt = frozenset(exempt_namespaces)
        self._pods: dict[Name, Pod] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._parting: dict[str, Pod] = {}
        self.listed: set[type[Pod | Namespace]] = set()
        """The kinds of which all has been told that there is."""

    @property
    def synced(self) -> bool:
        return {Pod, Namespace} <= self.listed

    def put_pod(self, pod: Pod) -> None:
        """It is there, new or changed. One of another uid under its name takes the place of one that has ended."""
        before = self._pods.get(pod.key)
        if before is not None and before.live and (pod.uid != before.uid or not pod.live):
            self._part(before)
        self._pods[pod.key] = pod

    def drop_pod(self, namespace: str, name: str) -> None:
        """Its object is gone, which does not say that its processes are."""
        pod = self._pods.pop((namespace, name), None)
        if pod is not None and pod.live:
            self._part(pod)

    def put_namespace(self, namespace: Namespace) -> None:
        """What is older than what is known is no news: it may be asked for ahead of the watch."""
        before = self._namespaces.get(namespace.metadata.name)
        if before is None or namespace.metadata.revision >= before.metadata.revision:
            self._namespaces[namespace.metadata.name] = namespace

    def drop_namespace(self, name: str) -> None:
        self._namespaces.pop(name, None)

    def standing(self, namespace: str, name: str, uid: str) -> Standing:
        """Of the pod with that uid. One of another uid under its name is another pod."""
        pod = self._pods.get((namespace, name))
        if not self.synced or pod is None or namespace not in self._namespaces:
            return Standing.UNKNOWN
        # A static pod has one uid with the kubelet, and another with the API server, whose mirror of it names the first.
        if _MIRROR in pod.metadata.annotations and pod.metadata.annotations.get(_STATIC_UID) == uid:
            return Standing.OUTSIDE
        if pod.uid != uid:
            return Standing.UNKNOWN
        return Standing.INSIDE if self._wanted(pod) else Standing.OUTSIDE

    def wanted(self) -> tuple[Pod, ...]:
        """The pods to be captured, those last that have ended and may have processes left: who leaves the API leaves no capture behind."""
        live = tuple(pod for pod in self._pods.values() if pod.live and self._wanted(pod))
        return (*live, *self._parting.values())

    def keep_parting(self, present: Collection[str]) -> None:
        """Forgets those that have ended but for `present` (uids), whose namespaces are still there."""
        self._parting = {uid: pod for uid, pod in self._parting.items() if uid in present}

    def pods(self) -> tuple[Pod, ...]:
        """All of this node."""
        return tuple(self._pods.values())

    def _part(self, pod: Pod) -> None:
        if self._wanted(pod):
            self._parting[pod.uid] = pod

    def _wanted(self, pod: Pod) -> bool:
        name = pod.metadata.namespace
        namespace = self._namespaces.get(name)
        mode = None if namespace is None else namespace.metadata.labels.get(wire.LABEL_DATAPLANE_MODE)
        return name not in self._exempt and enrolled(pod, mode)
