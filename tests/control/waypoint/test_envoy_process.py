"""control/waypoint/envoy_process.py and run.py: Envoy never outlives the process beside it, and how it ends by itself is told."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.waypoint.ends import note_end, words
from control.waypoint.envoy_process import EnvoyEndedError, EnvoyProcess
from control.waypoint.run import alone
from control.waypoint.settings import Controllers, Settings
from demo.cluster import eventually
from tests.control.envoy.real_envoy import ENVOY

RUN = """
import asyncio, logging, sys
from tests.control.waypoint.test_envoy_process import settings
from control.waypoint.envoy_process import EnvoyProcess
from pathlib import Path
logging.basicConfig(level="INFO")
asyncio.run(EnvoyProcess(settings(Path(sys.argv[1]), Path(sys.argv[2]))).run())
"""


def settings(directory: Path, envoy: Path) -> Settings:
    return Settings("shop", "waypoint", Controllers(("nowhere",)), b"", directory, directory, envoy, concurrency=1)


def state(pid: int) -> str:
    """Of a process, as the kernel has it; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_what_ends_the_one_by_force_ends_the_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), str(ENVOY)], stderr=file)
    try:
        eventually((tmp_path / "admin.sock").exists, "Envoy to run", timeout_s=30)
        (pid,) = re.findall(r"envoy runs as process (\d+)", log.read_text())
        assert state(int(pid)) not in {"", "Z"}
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    eventually(lambda: state(int(pid)) in {"", "Z"}, "Envoy to end with it", timeout_s=10)


async def test_how_it_ends_by_itself_is_told_and_how_often(tmp_path: Path) -> None:
    failing = tmp_path / "envoy"
    failing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    failing.chmod(0o755)
    with pytest.raises(EnvoyEndedError, match=r"ended with status 1 after \d+ s$"):
        await EnvoyProcess(settings(tmp_path, Path("/bin/false"))).run()
    with pytest.raises(EnvoyEndedError, match=r"ended by SIGSEGV after \d+ s; it has ended by itself 2 times within the last hour"):
        await EnvoyProcess(settings(tmp_path, failing)).run()


def test_what_is_long_ago_or_can_not_be_read_counts_no_more(tmp_path: Path) -> None:
    now_s = time.time()
    assert [note_end(tmp_path, at_s) for at_s in (now_s, now_s + 1, now_s + 3601.5, now_s)] == [1, 2, 1, 1]
    (tmp_path / "ends.json").write_text("{")
    assert note_end(tmp_path, now_s) == 1
    assert (words(0), words(-9), words(-300)) == ("with status 0", "by SIGKILL", "by signal 300")


def test_two_do_not_share_a_directory(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(OSError, match="another one runs in"), alone(tmp_path):
        raise AssertionError("the second one")
    with alone(tmp_path):
        pass
