"""The real plugin against the agent's socket: what it asks, what it passes on, and how it fails."""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.cni.protocol import Attachment, AttachmentKey, Refusal
from nodeagent.cni.server import SOCKET, CNIServer
from tests.nodeagent.cni.plugin import PREVIOUS, Result, call, configuration
from tests.nodeagent.waiting import until

ADDED = Attachment("c1", "eth0", "/run/netns/x", "shop", "web", "u1", ("10.77.0.1", "fd77::1"))


@dataclass
class Answers:
    """Stands in for the agent: `refusal` is its answer to everything, `silent` keeps it from answering."""

    refusal: Refusal | None = None
    silent: bool = False
    asked: list[object] = field(default_factory=list)

    async def add(self, attachment: Attachment, *, deadline_s: float) -> None:
        await self._answer((attachment, deadline_s))

    async def check(self, attachment: Attachment) -> None:
        await self._answer(attachment)

    async def delete(self, key: AttachmentKey) -> None:
        await self._answer(key)

    async def collect(self, valid: frozenset[AttachmentKey]) -> None:
        await self._answer(valid)

    def status(self) -> None:
        self.asked.append("status")
        if self.refusal:
            raise self.refusal

    async def _answer(self, question: object) -> None:
        self.asked.append(question)
        if self.silent:
            await asyncio.Event().wait()
        if self.refusal:
            raise self.refusal


@asynccontextmanager
async def serving(directory: Path, answers: Answers) -> AsyncIterator[Path]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(CNIServer(answers, directory).run())
        await until((directory / SOCKET).exists)
        yield directory / SOCKET
        task.cancel()


def failed(result: Result, code: int) -> str:
    """What a runtime would put into the pod's event."""
    assert result.status == 1
    assert result.said["code"] == code, result.said
    return str(result.said["msg"]) + " " + result.said.get("details", "")


async def test_add_asks_the_agent_and_passes_the_result_on(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(tmp_path, answers) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        result = await call("ADD", configuration(path, prevResult=PREVIOUS))
        assert (result.status, result.said) == (0, PREVIOUS)
        assert answers.asked == [(ADDED, 4)], "the agent gives up before the plugin does"
        for version in ("0.3.1", "0.4.0", "1.1.0"):
            assert (await call("ADD", configuration(path, prevResult=PREVIOUS) | {"cniVersion": version})).ok


async def test_a_refusal_is_the_pod_s_event(tmp_path: Path) -> None:
    async with serving(tmp_path, Answers(Refusal(11, "pod shop/web is not in the mesh within 4 s: no identity", "more"))) as path:
        assert "no identity more" in failed(await call("ADD", configuration(path, prevResult=PREVIOUS)), 11)
        assert "no identity" in failed(await call("CHECK", configuration(path, prevResult=PREVIOUS)), 11)
        assert "no identity" in failed(await call("STATUS", configuration(path) | {"cniVersion": "1.1.0"}), 50)
        gone = configuration(path) | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
        assert "no identity" in failed(await call("GC", gone), 11)
        assert await call("DEL", configuration(path)) == Result(0, ""), "nothing keeps a pod from ending"


async def test_the_other_commands(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(tmp_path, answers) as path:
        assert await call("CHECK", configuration(path, prevResult=PREVIOUS)) == Result(0, "")
        assert await call("DEL", configuration(path, prevResult=PREVIOUS)) == Result(0, "")
        assert await call("DEL", configuration(path), CNI_NETNS="<unset>") == Result(0, "")
        valid = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]
        latest = configuration(path) | {"cniVersion": "1.1.0"}
        assert await call("GC", latest | {"cni.dev/valid-attachments": valid}) == Result(0, "")
        assert await call("GC", latest) == Result(0, ""), "a runtime that says nothing asks for nothing to be forgotten"
        assert await call("STATUS", latest) == Result(0, "")
    key = AttachmentKey("c1", "eth0")
    assert answers.asked == [ADDED, key, key, frozenset({key, AttachmentKey("c2", "net1")}), "status"]


async def test_version_needs_neither_configuration_nor_agent() -> None:
    result = await call("VERSION", b"")
    assert result.said == {"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


async def test_while_the_agent_is_away_no_pod_starts_that_could_be_in_the_mesh(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    config = configuration(path, prevResult=PREVIOUS, exempt_namespaces=["kube-system"])
    assert "can't be reached" in failed(await call("ADD", config), 11)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert "can't be reached" in failed(await call("ADD", config), 11)
    assert "can't be reached" in failed(await call("CHECK", config), 11)
    assert "can't be reached" in failed(await call("STATUS", config | {"cniVersion": "1.1.0"}), 50)
    assert await call("DEL", config) == Result(0, "")
    exempt = "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns;K8S_POD_UID=u2"
    assert (await call("ADD", config, args=exempt)).said == PREVIOUS
    assert (await call("ADD", config, args="IgnoreUnknown=1")).said == PREVIOUS, "what is no pod is in no namespace that is enrolled"


async def test_an_agent_that_does_not_answer_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, Answers(silent=True)) as path:
        begin = time.monotonic()
        assert "did not answer within 1 s" in failed(await call("ADD", configuration(path, prevResult=PREVIOUS, deadline_s=1)), 11)
        assert await call("DEL", configuration(path)) == Result(0, "")
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("answer", [b"", b"\n", b"{}\n", b'{"ok":1}\n', b'{"ok":false}\n', b'{"code":0}\n', b"[" * 70_000, b"\xff\xfe\n"])
async def test_an_answer_that_is_none_starts_no_pod(tmp_path: Path, answer: bytes) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(reply, tmp_path / SOCKET):
        failed(await call("ADD", configuration(tmp_path / SOCKET, prevResult=PREVIOUS)), 11)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where another user can make a socket; pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="nodemesh-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def impostor(open_directory: Path) -> Iterator[Path]:
    """The socket of a process of another user that says yes to everything."""
    path = open_directory / SOCKET
    program = (
        "import socket, sys\n"
        "server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()\n"
        "while True:\n"
        "    connection = server.accept()[0]\n"
        "    connection.sendall(b'{\"ok\":true}\\n')\n"
    )
    process = subprocess.Popen(["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/env", "python3", "-c", program, str(path)])
    try:
        yield path
    finally:
        process.kill()
        process.wait()


async def test_another_user_s_word_starts_no_pod(impostor: Path) -> None:
    await until(impostor.exists, deadline_s=20)
    assert "is not the node agent" in failed(await call("ADD", configuration(impostor, prevResult=PREVIOUS)), 11)


async def test_another_user_is_not_answered(open_directory: Path) -> None:
    answers = Answers()
    async with serving(open_directory, answers) as path:
        path.chmod(0o666)
        program = "import socket, sys\nc = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])\nprint(c.recv(100))\n"
        command = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/env", "python3", "-c", program, str(path)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout == "b''\n"
    assert not answers.asked


GOOD = {"cniVersion": "1.0.0", "name": "net", "socket": "/run/x.sock", "prevResult": PREVIOUS}


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (b"", 6),
        (b"{", 6),
        (b"[]", 6),
        (b"\xff", 6),
        (b"[" * 100_000, 6),
        (b" " * ((1 << 20) + 1), 6),
        ({}, 1),
        (GOOD | {"cniVersion": "0.2.0"}, 1),
        (GOOD | {"cniVersion": 1}, 7),
        ({name: value for name, value in GOOD.items() if name != "prevResult"}, 7),
        (GOOD | {"prevResult": None}, 7),
        (GOOD | {"prevResult": {"ips": 1}}, 7),
        (GOOD | {"prevResult": {"ips": [{"address": "10.0.0.1\n/24"}]}}, 7),
        (GOOD | {"prevResult": {"ips": [{}]}}, 7),
        (GOOD | {"prevResult": {"ips": [{"address": "10.0.0.1/24"}] * 1000}}, 7),
        (GOOD | {"socket": "relative"}, 7),
        (GOOD | {"socket": 1}, 7),
        (GOOD | {"socket": "/" + "x" * 200}, 11),
        (GOOD | {"deadline_s": 0}, 7),
        (GOOD | {"deadline_s": 1e9}, 7),
        (GOOD | {"exempt_namespaces": "kube-system"}, 7),
        (GOOD | {"exempt_namespaces": [1]}, 7),
    ],
)
async def test_a_configuration_that_can_not_be_followed_is_an_error_of_the_specification(config: object, code: int) -> None:
    result = await call("ADD", config)
    failed(result, code)
    assert "panicked" not in result.output
    assert await call("DEL", config) == Result(0, "")


@pytest.mark.parametrize(
    "environment",
    [
        {"CNI_COMMAND": "<unset>"},
        {"CNI_COMMAND": "add"},
        {"CNI_CONTAINERID": ""},
        {"CNI_CONTAINERID": "../x"},
        {"CNI_IFNAME": "a/b"},
        {"CNI_IFNAME": "x" * 16},
        {"CNI_NETNS": ""},
        {"CNI_NETNS": "relative"},
        {"CNI_NETNS": "/" + "x" * 5000},
        {"CNI_ARGS": "K8S_POD_NAME"},
        {"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"},
        {"CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=web;K8S_POD_UID=u1"},
        {"CNI_ARGS": os.fsdecode(b"K8S_POD_NAME=\xff")},
    ],
)
async def test_parameters_that_can_not_be_are_errors(tmp_path: Path, environment: dict[str, str]) -> None:
    answers = Answers()
    async with serving(tmp_path, answers) as path:
        failed(await call("ADD", configuration(path, prevResult=PREVIOUS, exempt_namespaces=["kube-system"]), **environment), 4)
    assert not answers.asked


async def test_what_is_no_question_gets_an_answer_that_says_so(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(tmp_path, answers) as path:
        for line in (b"", b"{}\n", b"[" * 5000 + b"\n", b'{"command":"add","version":1}\n', b"x" * (2 << 20)):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(line)
            if not line:
                writer.write_eof()
            # One that is read in part only is answered and reset.
            with suppress(ConnectionError):
                answer = json.loads(await asyncio.wait_for(reader.read(), 10))
                assert (answer["code"], "ok" in answer) == (11, False)
            writer.close()
        for netns in ("relative", "", "/a\0b"):
            named = {"container_id": "c", "ifname": "eth0", "netns": netns, "namespace": "a", "name": "b", "uid": "u"}
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(json.dumps({"command": "add", "version": 1, **named}).encode() + b"\n")
            assert "names no path" in json.loads(await asyncio.wait_for(reader.read(), 10))["message"]
            writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"command":"status","version":2}\n')
        assert "speaks version 2" in json.loads(await asyncio.wait_for(reader.read(), 10))["message"]
        writer.close()
    assert not answers.asked


def test_it_is_one_file_that_needs_no_library() -> None:
    from tests.nodeagent.cni.plugin import BINARY

    headers = subprocess.run(["readelf", "--program-headers", BINARY], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in headers
