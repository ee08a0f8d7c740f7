"""Agents and proxies are replaced by others while traffic runs: no connection fails, and what is open goes on under the same policies."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo import manifests
from nodeagent.ztunnel.supervisor import BUNDLED
from tests.e2e.mesh import ECHO, NODES, Mesh, Stream, echoes

DRAIN = "--proxy-drain=60"


@contextmanager
def traffic(mesh: Mesh) -> Iterator[list[Stream]]:
    """From n1 to n2, and within each of them, on a new connection each."""
    shop, near, far = mesh.pods["shop"], mesh.pods["api-1"], mesh.pods["api-2"]
    with mesh.stream(shop, far.ipv4) as across, mesh.stream(shop, near.ipv6) as within:
        yield [across, within]


def more_calls(mesh: Mesh, streams: list[Stream]) -> None:
    before = [len(stream.calls) for stream in streams]
    mesh.wait(lambda: all(len(stream.calls) > count + 20 for stream, count in zip(streams, before, strict=True)), "more calls")


def draining(mesh: Mesh, node: str) -> list[int]:
    return list(mesh.admin(node, "/status")["proxy"]["draining"])


def gone(pid: int | None) -> bool:
    return not Path(f"/proc/{pid}").exists()


def succeeded(mesh: Mesh, node: str, former: int | None) -> None:
    mesh.wait(lambda: mesh.cluster.proxy_pid(node) not in {None, former}, f"another proxy on {node}")


@pytest.fixture
def another_binary(tmp_path: Path) -> Path:
    return Path(shutil.copy(BUNDLED, tmp_path / BUNDLED.name))


def test_a_new_proxy_takes_the_place_of_the_former_one_under_traffic(mesh: Mesh, another_binary: Path) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    kept, denied = mesh.hold(shop, far.ipv4), mesh.hold(shop, far.ipv6)
    former = {node: mesh.cluster.proxy_pid(node) for node in NODES}
    with traffic(mesh) as streams:
        for node in NODES:
            mesh.cluster.agents[node].stop()
            mesh.cluster.start_agent(node, f"--proxy-binary={another_binary}", DRAIN, join=False)
            succeeded(mesh, node, former[node])
            more_calls(mesh, streams)
            assert draining(mesh, node) == [former[node]]
        assert echoes(kept)
        listed = {entry["destination"] for entry in mesh.admin("n1", "/connections")}
        assert f"{far.ipv4}:{ECHO}" in listed, "what the former one carries is listed, too"
    assert [stream.failed for stream in streams] == [[], []]
    with mesh.policies(manifests.authorization_policy("late", "DENY", app="api", ports=["9000"])):
        mesh.wait(lambda: not echoes(kept) and not echoes(denied), "the former proxies to close what is denied now")
    # Nothing is left for them to finish.
    mesh.wait(lambda: all(gone(pid) for pid in former.values()), "the former proxies to end", timeout_s=20)
    back = {node: mesh.cluster.proxy_pid(node) for node in NODES}
    for node in NODES:
        mesh.cluster.agents[node].stop()
        mesh.cluster.start_agent(node, DRAIN, join=False)
        succeeded(mesh, node, back[node])
    mesh.wait(lambda: all(gone(pid) for pid in back.values()), "the copies to end", timeout_s=20)


def test_the_next_agent_takes_over_from_one_in_a_container(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    outside = mesh.cluster.proxy_pid("n1")
    mesh.cluster.agents["n1"].stop()
    mesh.cluster.start_agent("n1", "--in-container", DRAIN, join=False)
    succeeded(mesh, "n1", outside)
    first, former = mesh.cluster.agents["n1"], mesh.cluster.proxy_pid("n1")
    kept = mesh.hold(shop, far.ipv4)
    with traffic(mesh) as streams:
        mesh.cluster.start_agent("n1", "--in-container", DRAIN, join=False)
        succeeded(mesh, "n1", former)
        more_calls(mesh, streams)
        assert first.alive, "its container goes with it, and so would the connection"
        assert echoes(kept)
        mesh.release()
        mesh.wait(lambda: not first.alive, "the former agent to end when its proxy has", timeout_s=20)
        more_calls(mesh, streams)
    assert first.stop() == 0
    assert gone(former)
    assert [stream.failed for stream in streams] == [[], []]


def test_one_in_a_container_ends_with_its_proxy_and_the_capture_stays(mesh: Mesh) -> None:
    shop, far = mesh.pods["shop"], mesh.pods["api-2"]
    mesh.cluster.agents["n1"].stop()
    outside = mesh.cluster.proxy_pid("n1")
    mesh.cluster.start_agent("n1", "--in-container", "--proxy-drain=0.5", join=False)
    succeeded(mesh, "n1", outside)
    proxy = mesh.cluster.proxy_pid("n1")
    mesh.hold(shop, far.ipv4)
    assert mesh.cluster.agents["n1"].stop(signal_number=signal.SIGTERM) == 0
    assert gone(proxy)
    assert not mesh.call(shop, far.ipv4, timeout_s=2.0).ok
    mesh.cluster.start_agent("n1", join=False)
    mesh.wait(lambda: mesh.call(shop, far.ipv4).ok, "calls with the next agent")
