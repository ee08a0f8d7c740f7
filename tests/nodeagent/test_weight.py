"""What an agent weighs, and how soon it answers: of a real process that serves what was kept, with the test as its proxy.

Memory is USS, what this process alone costs the node: pages of libraries are counted once for all who share them, while RSS counts
Python's and the crypto libraries' anew in every process. Time is the processor's: on a busy machine the wall's clock tells how busy it is.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil

from demo.cgroups import entering
from nodeagent.bpf import mesh_sockets
from nodeagent.capture.ebpf import DIRECTORY
from nodeagent.config import Config
from nodeagent.linux.cgroups import Cgroup
from nodeagent.ztunnel.protocol import AnswerVerdict, AskVerdict, Hello, Synced, Via
from tests.nodeagent import cgroups
from tests.nodeagent.test_agent import KEPT, Node
from tests.nodeagent.waiting import until
from tests.nodeagent.ztunnel.peer import Peer

MAX_PRIVATE_BYTES = 55_000_000
"""Measured: 45 MB, with 30 pods 50."""
MAX_START_CPU_S = 0.6
"""Measured: 0.25."""


def free_port() -> int:
    """A port of this machine that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def agent(config: Config) -> AsyncIterator[psutil.Process]:
    """`nodeagent run`, and its proxy (which only sleeps)."""
    command = [
        *(sys.executable, "-c", "from nodeagent.cli.main import main; main()", f"--run-dir={config.run_dir}", "run"),
        *("--node=n1", f"--controller=127.0.0.1:{config.controller.certificate_port}", f"--root-ca={config.root_ca}"),
        *(f"--join-token={config.join_token}", f"--runtime=static:{config.runtime.path}", f"--state-dir={config.state_dir}"),
        *(f"--metrics-listen=127.0.0.1:{free_port()}", f"--ready-listen=127.0.0.1:{free_port()}", f"--proxy-binary={config.proxy_binary}"),
    ]
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        process = await asyncio.create_subprocess_exec(*entering(path, command))
        try:
            yield psutil.Process(process.pid)
        finally:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
            await process.wait()
            mesh_sockets.detach(DIRECTORY, cgroup)


async def first_answer(path: Path) -> None:
    """Dials until the agent listens, and returns when a question was answered."""
    with socket.socket(socket.AF_UNIX) as sock:
        await until(lambda: sock.connect_ex(str(path)) == 0)
        sock.setblocking(False)  # noqa: FBT003 - the socket's own method
        peer = Peer(sock)
        await peer.send(Hello(1, "build", 1, "i", 0.0))
        while not isinstance(await peer.receive(), Synced):
            pass
        await peer.send(AskVerdict(1, "api", "10.0.0.9:80", Via.PLAINTEXT, "10.0.0.7"))
        answer = await peer.receive()
        assert isinstance(answer, AnswerVerdict)
        assert not answer.allow


async def test_a_start_is_quick_and_an_idle_agent_is_small(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.keep(KEPT)
    async with agent(node.config) as process:
        await first_answer(node.config.run_dir / "decisions.sock")
        times = process.cpu_times()
        assert times.user + times.system < MAX_START_CPU_S
        await until((node.config.run_dir / "admin.sock").exists)
        assert process.memory_full_info().uss < MAX_PRIVATE_BYTES
