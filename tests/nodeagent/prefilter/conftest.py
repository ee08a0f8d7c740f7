"""A captured pod with a proxy and an application in it, a client, and what the agent knows of them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest

from meshapi.workload import Workload, WorkloadUID
from nodeagent.bpf.outbound import Outbound
from nodeagent.bpf.steering import Steering
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.listeners import open_listeners
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.prefilter.owner import PrefilterOwner
from nodeagent.prefilter.telling import Telling
from nodeagent.runtime.base import LocalWorkload
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.telemetry.access_log import AccessLog
from nodeagent.telemetry.recorder import Recorder
from nodeagent.telemetry.records import as_json
from tests.nodeagent import bpffs
from tests.nodeagent.pods import Pair, pair
from tests.nodeagent.standin import Application, Proxy

UID = WorkloadUID("Kubernetes//Pod/shop/api")
PORT = 8080


@dataclass
class Node:
    """One captured pod; `status` is what enrolment says of it."""

    network: Pair
    proxy: Proxy
    application: Application
    capture: EbpfCapture
    steering: Steering
    store: SnapshotStore
    recorder: Recorder
    status: list[WorkloadStatus] = field(default_factory=list)

    def owner(self, *, enabled: bool = True) -> PrefilterOwner:
        return PrefilterOwner(self.store, self.steering, lambda: self.status, Telling(self.store, self.recorder), enabled=enabled)

    @asynccontextmanager
    async def owned(self, *, enabled: bool = True) -> AsyncIterator[PrefilterOwner]:
        owner = self.owner(enabled=enabled)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(owner.run())
            try:
                yield owner
            finally:
                running.cancel()

    def outcome(self, family: int, port: int = PORT) -> str:
        """How a call of the client ends, without blocking for long: `answered`, `refused` (no connection), or another error."""
        try:
            with self.network.client.dial(self.network.pod.addresses[family], port) as made:
                made.sendall(b"x")
                return "answered" if made.recv(100) else "closed"
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return type(error).__name__

    async def call(self, family: int = socket.AF_INET, port: int = PORT) -> str:
        return await asyncio.to_thread(self.outcome, family, port)


@contextmanager
def made(pins: Path) -> Iterator[Node]:
    with pair() as network:
        pod = network.pod
        with Proxy(pod, listeners := open_listeners(pod.namespace)) as proxy, Application(pod, PORT) as application:
            capture = EbpfCapture(steering := Steering(pins), Outbound(pins))
            capture.apply(pod.namespace, listeners)
            store = SnapshotStore(Snapshot())
            addresses = tuple(map(ip_address, pod.addresses.values()))
            store.apply(Update(workloads=(Workload(UID, "api", "shop", addresses=addresses),), policies_arrived=True))
            local = LocalWorkload(UID, "api", "shop", "default", pod.namespace.path, pod.namespace.key)
            node = Node(network, proxy, application, capture, steering, store, Recorder(AccessLog(None, as_json)))
            node.status.append(WorkloadStatus(local, EnrolmentState.CAPTURED, "ebpf"))
            yield node


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with bpffs.mounted(tmp_path) as mount_point, made(mount_point / "nodemesh") as one:
        yield one
