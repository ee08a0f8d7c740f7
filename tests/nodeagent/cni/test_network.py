"""What the plugin is answered: who waits for what, and who does not."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.cni.attachments import Attachments
from nodeagent.cni.network import PodNetwork
from nodeagent.cni.protocol import Attachment, AttachmentKey, Refusal
from nodeagent.enrolment.status import EnrolmentState, WorkloadStatus
from nodeagent.runtime.base import LocalWorkload
from nodeagent.runtime.pods import Standing
from nodeagent.state.files import StateDirectory
from nodeagent.turn import Turn
from tests.nodeagent.pod_sandbox import Sandbox, sandboxes


@pytest.fixture(scope="module")
def pod() -> Iterator[Sandbox]:
    with sandboxes() as made:
        yield made.add("10.9.0.1", process=False)


@dataclass
class Pods:
    """The rest of the agent, as the test wants it to be."""

    stands: Standing = Standing.UNKNOWN
    after_refresh: Standing | None = None
    problem: str = ""
    missing: str = ""
    looked: int = 0
    refreshed: list[str] = field(default_factory=list)
    statuses: tuple[WorkloadStatus, ...] = ()
    not_ready: str | None = None

    def standing(self, namespace: str, name: str, uid: str) -> Standing:
        assert (namespace, name, uid) == ("shop", "web", "u1")
        return self.stands

    def lacks(self, uid: str) -> str:
        return self.missing

    async def refresh(self, namespace: str) -> None:
        self.refreshed.append(namespace)
        self.stands = self.after_refresh or self.stands

    def look(self) -> None:
        self.looked += 1


@dataclass
class Site:
    pods: Pods
    network: PodNetwork
    attachments: Attachments
    turn: Turn

    def enrol(self, pod: Sandbox, state: EnrolmentState, problem: str = "", *, instance: str = "u1") -> None:
        workload = LocalWorkload("uid", "web", "shop", "default", pod.netns, pod.key, instance=instance)
        self.pods.statuses = (WorkloadStatus(workload, state, "ebpf", problem=problem),)
        self.turn.tell()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    pods, attachments, turn = Pods(), Attachments(state), Turn()
    return Site(pods, PodNetwork(pods, attachments, lambda: pods.statuses, lambda: pods.not_ready, turn), attachments, turn)


def attached(pod: Sandbox, *addresses: str) -> Attachment:
    return Attachment("c1", "eth0", pod.netns, "shop", "web", "u1", addresses or ("10.9.0.1",))


async def refused(site: Site, attachment: Attachment, deadline_s: float = 0.05) -> str:
    with pytest.raises(Refusal) as info:
        await site.network.add(attachment, deadline_s=deadline_s)
    return f"{info.value.message} {info.value.details}"


async def test_a_pod_of_the_mesh_waits_until_it_is_captured(site: Site, pod: Sandbox) -> None:
    adding = asyncio.ensure_future(site.network.add(attached(pod), deadline_s=10))
    for step in (
        lambda: setattr(site.pods, "stands", Standing.INSIDE),
        lambda: site.enrol(pod, EnrolmentState.WAITING),
        lambda: site.enrol(pod, EnrolmentState.LISTENING),
        lambda: site.enrol(pod, EnrolmentState.CLOSED),
        lambda: site.enrol(pod, EnrolmentState.CAPTURED, instance="another"),
    ):
        step()
        site.turn.tell()
        done, _ = await asyncio.wait({adding}, timeout=0.05)
        assert not done
    site.enrol(pod, EnrolmentState.CAPTURED)
    await asyncio.wait_for(adding, 10)
    assert site.attachments.of_pod("u1") == attached(pod)
    assert site.pods.looked == 1
    await site.network.check(attached(pod))


async def test_others_start_at_once_but_a_label_set_just_before_counts(site: Site, pod: Sandbox) -> None:
    site.pods.stands = Standing.OUTSIDE
    await site.network.add(attached(pod), deadline_s=10)
    assert site.pods.refreshed == ["shop"]
    site.pods.after_refresh = Standing.INSIDE
    assert "shop/web is not in the mesh within 0.05 s" in await refused(site, attached(pod))


async def test_what_it_waits_for_is_told(site: Site, pod: Sandbox) -> None:
    assert "the API server has not told of it yet" in await refused(site, attached(pod))
    site.pods.problem = "the API server can't be read: 403"
    assert "can't be read: 403" in await refused(site, attached(pod))
    site.pods.stands = Standing.INSIDE
    assert "is being looked for" in await refused(site, attached(pod))
    site.pods.missing = "its namespace is another's"
    assert "its namespace is another's" in await refused(site, attached(pod))
    site.enrol(pod, EnrolmentState.CLOSED, "waiting for its identity")
    assert "waiting for its identity" in await refused(site, attached(pod))
    site.pods.not_ready = "the proxy is not connected"
    assert "the proxy is not connected" in await refused(site, attached(pod))
    with pytest.raises(Refusal, match="is not in the mesh"):
        await site.network.check(attached(pod))


async def test_a_namespace_that_is_not_the_pod_s_is_refused_before_anything_else(site: Site, pod: Sandbox) -> None:
    site.pods.stands = Standing.OUTSIDE
    assert "does not have the pod's address 10.9.0.2" in await refused(site, attached(pod, "10.9.0.2"))
    assert "not appear to be an IPv4 or IPv6 address" in await refused(site, attached(pod, "no address"))
    for path in ("/proc/self/ns/net", "/run/netns/nowhere", "/etc/passwd"):
        wrong = Attachment("c1", "eth0", path, "shop", "web", "u1")
        assert "is not as the plugin says" in await refused(site, wrong), path
    assert len(site.attachments) == 0


async def test_status_is_whether_a_pod_could_be_added(site: Site) -> None:
    site.network.status()
    site.pods.not_ready = "the proxy is not connected"
    with pytest.raises(Refusal, match="the proxy is not connected"):
        site.network.status()
    site.pods.problem, site.pods.not_ready = "no API server", None
    with pytest.raises(Refusal, match="no API server"):
        site.network.status()


async def test_what_is_deleted_or_not_collected_is_forgotten(site: Site, pod: Sandbox) -> None:
    site.pods.stands = Standing.OUTSIDE
    await site.network.add(attached(pod), deadline_s=10)
    await site.network.collect(frozenset({AttachmentKey("c1", "eth0")}))
    assert len(site.attachments) == 1
    await site.network.collect(frozenset({AttachmentKey("c1", "net1")}))
    assert len(site.attachments) == 0
    await site.network.add(attached(pod), deadline_s=10)
    await site.network.delete(AttachmentKey("c1", "eth0"))
    await site.network.delete(AttachmentKey("c1", "eth0"))
    assert len(site.attachments) == 0


def test_attachments_outlive_the_agent_but_not_their_namespaces(tmp_path: Path, pod: Sandbox) -> None:
    state = StateDirectory(tmp_path)
    first = Attachments(state)
    first.put(attached(pod))
    first.put(Attachment("c2", "eth0", "/run/netns/gone", "shop", "old", "u2"))
    again = Attachments(state)
    assert again.of_pod("u1") == attached(pod)
    assert again.of_pod("u2") is None
    newer = Attachment("c3", "eth0", pod.netns, "shop", "web", "u1")
    again.put(newer)
    assert again.of_pod("u1") == newer, "the latest sandbox of a pod counts"
    state.write("attachments", b'[{"container_id": 1}]')
    assert len(Attachments(state)) == 0
    assert (tmp_path / "attachments.damaged").exists()


def test_many_attachments_are_no_burden(tmp_path: Path) -> None:
    class Memory(StateDirectory):
        def write(self, name: str, body: bytes) -> None: ...

    attachments = Attachments(Memory(tmp_path))
    begin = time.monotonic()
    for number in range(4200):
        attachments.put(Attachment(f"c{number}", "eth0", "/run/netns/gone", "shop", "web", f"u{number}"))
    assert len(attachments) < 4200, "what is never deleted is bounded"
    assert time.monotonic() - begin < 60
