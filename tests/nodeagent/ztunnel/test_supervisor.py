"""The supervisor with a real process that locks, waits, dies or refuses to."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nodeagent.linux.errors import KernelError
from nodeagent.linux.process import start
from nodeagent.ztunnel import proxy_log, proxy_process, succession
from nodeagent.ztunnel import supervisor as module
from nodeagent.ztunnel.proxy_process import ProxyPaths, holder, runs
from nodeagent.ztunnel.supervisor import ProxySupervisor
from tests.nodeagent.waiting import until


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxyPaths]:
    monkeypatch.setenv("SECRET", "canary")
    monkeypatch.setattr(module, "_GRACE_S", 0.2)
    monkeypatch.setattr(module, "runs", lambda *_: True)  # of a script, the kernel names the interpreter
    binary = tmp_path / "proxy"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).with_name("fake_proxy.py")} "$@"\n')
    binary.chmod(0o755)
    made = ProxyPaths(binary, tmp_path / "decisions.sock", tmp_path / "proxy.lock", tmp_path / "proxy.log")
    yield made
    for pid in Path("/proc/thread-self/children").read_text().split():
        if str(tmp_path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            reap(int(pid))


def reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


@contextlib.asynccontextmanager
async def running(paths: ProxyPaths, *, succeeds: bool = True) -> AsyncIterator[ProxySupervisor]:
    """With a proxy that serves as soon as it has its lock, or one that is never told anything."""
    made = ProxySupervisor(paths, lambda: (holder(paths.next_lock) or holder(paths.lock)) if succeeds else holder(paths.lock), drain_s=0.3)
    task = asyncio.ensure_future(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


def serving(paths: ProxyPaths, *, times: int = 1) -> bool:
    return paths.log.exists() and paths.log.read_text().count("serving") >= times


async def test_it_outlives_the_agent_and_is_found_again(paths: ProxyPaths) -> None:
    mine = os.memfd_create("mine")
    async with running(paths) as first:
        await until(lambda: serving(paths))
        os.close(mine)
        pid = first.state.pid
        assert pid
        assert not first.state.adopted
        assert os.getsid(pid) == pid
        assert holder(paths.lock) == pid
        assert "canary" not in paths.log.read_text()
        assert not [link for fd in range(3, 100) if "memfd:mine" in (link := name(pid, fd))], "nothing of the agent's is inherited"
    os.kill(pid, 0)
    async with running(paths) as second:
        await until(lambda: second.state.adopted)
        assert second.state.pid == pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: serving(paths, times=2))
        assert second.state.pid not in {pid, None}
        assert second.state.restarts == 1


def name(pid: int, fd: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")  # noqa: PTH115 - a magic link
    except FileNotFoundError:
        return ""


async def test_one_that_dies_is_reaped_and_started_again_ever_later(paths: ProxyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.02)
    paths.socket.with_name("exit-code").write_text("7")
    others = zombies()
    async with running(paths) as made:
        await until(lambda: made.state.restarts >= 3)
        assert "exit code 7" in made.state.problem
        paths.socket.with_name("exit-code").unlink()
        await until(lambda: made.state.pid is not None and holder(paths.lock) is not None)
    assert zombies() <= others


def zombies() -> set[str]:
    children = Path("/proc/thread-self/children").read_text().split()
    return {pid for pid in children if ") Z " in Path(f"/proc/{pid}/stat").read_text()}


async def test_a_program_that_is_not_there_is_a_problem_in_words(paths: ProxyPaths) -> None:
    paths.binary.unlink()
    async with running(paths) as made:
        await until(lambda: "is the program there" in made.state.problem)


async def test_the_log_of_a_running_proxy_is_bounded_and_goes_on(paths: ProxyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_log, "PERIOD_S", 0.01)
    monkeypatch.setattr(proxy_log, "MAX_BYTES", 50_000)
    old = paths.log.with_suffix(".old")
    async with running(paths) as made:
        await until(lambda: serving(paths))
        pid = made.state.pid
        assert pid
        for said in ("serving", "again"):
            with paths.log.open("a") as log:
                log.write("x" * 50_000)
            await until(lambda: paths.log.stat().st_size == 0)
            assert said in old.read_text()
            os.kill(pid, signal.SIGUSR2)
            # At the beginning of the file: one that does not append would leave a hole before it.
            await until(lambda: paths.log.read_text() == "again\n")
        assert made.state.pid == pid
    assert old.stat().st_mode & 0o777 == 0o600


def test_a_log_that_can_not_be_copied_is_emptied_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_log, "MAX_BYTES", 10)
    log = tmp_path / "proxy.log"
    log.write_text("x" * 11)
    log.with_suffix(".old").mkdir()
    proxy_log.bound(log)
    assert log.read_text() == ""


async def test_stop_asks_first_and_then_insists(paths: ProxyPaths) -> None:
    async with running(paths) as made:
        await until(lambda: serving(paths))
        pid = made.state.pid
        assert pid
        asked: list[float] = []

        def ask(drain_s: float) -> None:
            asked.append(drain_s)
            os.kill(pid, signal.SIGUSR1)

        async with asyncio.timeout(3):
            await made.stop(1.5, ask)
        assert asked == [1.5]
        assert holder(paths.lock) is None


async def test_stop_ends_even_a_stubborn_one(paths: ProxyPaths) -> None:
    paths.socket.with_name("stubborn").touch()
    async with running(paths) as made:
        await until(lambda: serving(paths))
        async with asyncio.timeout(3):
            await made.stop(0.0, lambda _: None)
        assert holder(paths.lock) is None


async def test_a_pid_that_is_another_process_now_is_not_taken_for_the_proxy(paths: ProxyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held by someone whose pid the file does not have."""
    monkeypatch.setattr(proxy_process, "_LOCK_DEADLINE_S", 0.1)
    pid = start(
        [str(paths.binary), "--socket", str(paths.socket), "--lock", str(paths.lock)],
        log_file=paths.log,
    )
    await until(lambda: serving(paths))
    paths.lock.write_text("1")
    with pytest.raises(KernelError, match="not by the process that it names"):
        holder(paths.lock)
    reap(pid)
    assert holder(paths.lock) is None


def test_no_lock_file_no_proxy(tmp_path: Path) -> None:
    assert holder(tmp_path / "absent") is None


async def test_one_of_another_program_is_succeeded_and_seen_off(paths: ProxyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(paths) as first:
        await until(lambda: serving(paths))
        former = first.state.pid
        assert former
    monkeypatch.setattr(module, "runs", lambda *_: False)
    async with running(paths) as second:
        await until(lambda: second.state.pid not in {None, former})
        assert holder(paths.lock) == second.state.pid
        assert holder(paths.next_lock) is None
        os.kill(former, 0)  # it has its time
        assert second.state.restarts == 0
        await until(lambda: not Path(f"/proc/{former}").exists())  # and no more: told nothing here, it is made to end
        assert holder(paths.lock) == second.state.pid
        async with asyncio.timeout(5):
            await second.stop(0.0, lambda _: None)


async def test_one_whose_successor_does_not_serve_stays_and_says_so(paths: ProxyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "_DEADLINE_S", 0.2)
    monkeypatch.setattr(succession, "_NEXT_TRY_S", 0.1)
    async with running(paths) as first:
        await until(lambda: serving(paths))
        former = first.state.pid
        assert former
    monkeypatch.setattr(module, "runs", lambda *_: False)
    async with running(paths, succeeds=False) as second:
        await until(lambda: "can't take its place" in second.state.problem)
        await until(lambda: serving(paths, times=3))  # it is tried again
        assert second.state.pid == former == holder(paths.lock)
        os.kill(former, signal.SIGKILL)
        await until(lambda: second.state.restarts == 1 and second.state.pid is not None)


async def test_what_an_agent_began_that_died_within_a_succession_is_taken_up(paths: ProxyPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(paths) as first:
        await until(lambda: serving(paths))
        former = first.state.pid
    begun = paths.start(paths.next_lock)
    await until(lambda: holder(paths.next_lock) == begun)
    monkeypatch.setattr(module, "runs", lambda *_: False)
    async with running(paths) as second:
        await until(lambda: second.state.pid == begun)
        assert holder(paths.lock) == begun != former
        await until(lambda: not Path(f"/proc/{former}").exists())


def test_a_process_runs_a_file_until_another_is_put_in_its_place(tmp_path: Path) -> None:
    binary, other = tmp_path / "sleep", tmp_path / "other"
    for path in (binary, other):
        shutil.copy("/bin/sleep", path)
    pid = start([str(binary), "60"], log_file=tmp_path / "log")
    assert runs(pid, binary)
    assert not runs(pid, other)
    other.replace(binary)
    assert not runs(pid, binary)
    reap(pid)
    assert not runs(pid, binary)
