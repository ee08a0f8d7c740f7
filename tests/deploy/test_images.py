"""The images do what they are for, with no more than the manifests give them."""

import asyncio
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nodeagent.capture.base import Way
from nodeagent.capture.choice import choose
from nodeagent.linux.namespaces import Namespace
from tests.deploy import images
from tests.deploy.images import Container
from tests.nodeagent import bpffs
from tests.nodeagent.waiting import until

BASE = images.ROOT / "deploy/daemonset/base"
COMPILERS = ("cc", "gcc", "clang", "cargo", "rustc", "make", "go", "pip", "pip3")


@pytest.fixture(scope="module")
def tag() -> str:
    return images.build()


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"nm-image-{secrets.token_hex(4)}"
    images.run("ip", "netns", "add", name)
    images.run("ip", "-n", name, "link", "set", "lo", "up")
    yield name
    images.run("ip", "netns", "delete", name)


def container(file: str, kind: str) -> dict[str, object]:
    """The only container of the only `kind` in a file of the base."""
    (found,) = (item for item in yaml.safe_load_all((BASE / file).read_text()) if item["kind"] == kind)
    (only,) = found["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["agent", "controller", "envoy"])
def test_there_is_nothing_to_compile_with(tag: str, part: str) -> None:
    with Container(f"nodemesh-{part}:{tag}") as made:
        script = f"for tool in {' '.join(COMPILERS)}; do command -v $tool; done; echo end"
        assert made.run("sh", "-c", script).splitlines() == ["end"]


async def test_the_controller_is_nobody_in_particular_and_serves(tag: str, netns: str, tmp_path: Path) -> None:
    """As the Deployment runs it: without capabilities, and writing to its volume alone."""
    context = container("controller.yaml", "Deployment")["securityContext"]
    assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65532, 65532)
    (tmp_path / "config").mkdir()
    volumes = [f"{state}:/state", f"{tmp_path / 'config'}:/config:ro"]
    with Container(f"nodemesh-controller:{tag}", netns=netns, volumes=volumes) as made:
        status = dict(line.split(":", 1) for line in made.run("cat", "/proc/self/status").splitlines())
        assert status["Uid"].split() == ["65532"] * 4
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        options = ["--config=/config", "--state=/state/controller", "--admin-socket=/state/run/admin.sock", "--hostname=localhost"]
        serving = await asyncio.create_subprocess_exec(*made.command("meshctl", "serve", *options), start_new_session=True)
        try:
            await until((state / "run/admin.sock").exists, deadline_s=30)
            assert "BEGIN CERTIFICATE" in made.run("meshctl", "root", "--admin-socket=/state/run/admin.sock")
        finally:
            os.killpg(serving.pid, signal.SIGTERM)
            await asyncio.wait_for(serving.wait(), 30)
    written = {path.relative_to(state).parts[0] for path in state.rglob("*") if path.is_file()}
    assert written <= {"controller", "run"}


def test_the_agents_capabilities_are_enough_for_the_best_capture(tag: str, netns: str, tmp_path: Path) -> None:
    """Inside the image, with what the DaemonSet gives it and nothing else, probing ends as it does for all-powerful root."""
    context = container("agent.yaml", "DaemonSet")["securityContext"]
    assert isinstance(context, dict)
    assert context["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in context
    script = (
        "from pathlib import Path; from nodeagent.capture.base import Way; from nodeagent.capture.choice import choose;"
        "print(choose(Way.AUTO, Path('/pins/nodemesh')).way.name);"
        # Answers to DNS come from a resolver's own port.
        "from nodeagent.dns.sockets import open_answering; open_answering('192.0.2.53').close()"
    )
    with bpffs.mounted(tmp_path) as mount_point:
        with Namespace.open(f"/run/netns/{netns}") as namespace:
            expected = namespace.run(choose, Way.AUTO, mount_point / "outside").way.name
        volumes = [f"{mount_point}:/pins", "/proc:/host/proc"]
        given = images.ours() & set(context["capabilities"]["add"])
        with Container(f"nodemesh-agent:{tag}", capabilities=given, netns=netns, volumes=volumes) as made:
            assert made.run("/opt/nodemesh/bin/python3", "-c", script).split() == [expected]


def test_the_agents_image_has_all_of_its_parts(tag: str) -> None:
    script = """
from pathlib import Path
import nodeagent
root = Path(nodeagent.__file__).parent
print(*sorted(str(path.relative_to(root)) for path in [*root.glob("bpf/objects/*.o"), *root.glob("*/bin/*")]))
"""
    programs = [f"bpf/objects/{path.stem}.o" for path in (images.ROOT / "nodeagent/bpf/src").glob("*.bpf.c")]
    with Container(f"nodemesh-agent:{tag}") as made:
        assert made.run("/opt/nodemesh/bin/python3", "-c", script).split() == sorted(
            [*programs, "cni/bin/nodemesh-cni", "ztunnel/bin/nodemesh-proxy"]
        )
        assert "nodeagent" in made.run("nodeagent", "--version")


def test_what_runs_a_gateway_has_an_envoy_and_its_command(tag: str) -> None:
    """As nobody in particular, by the arguments that a Gateway's Deployment has."""
    with Container(f"nodemesh-envoy:{tag}") as made:
        assert "envoy  version:" in made.run("setpriv", "--pdeathsig", "KILL", "--", "envoy", "--version")
        for kind in ("gateway", "waypoint"):
            assert "/usr/local/bin/envoy" in made.run("meshctl", kind, "run", "--help")
        status = dict(line.split(":", 1) for line in made.run("cat", "/proc/self/status").splitlines())
        assert status["Uid"].split() == ["65532"] * 4
