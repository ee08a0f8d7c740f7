"""The configuration is kept: what is read back is what was collected, and what does not decode is set aside."""

import asyncio
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshapi.discovery import Resource
from nodeagent.state.files import StateDirectory
from nodeagent.state.keeper import Keeper
from nodeagent.state.kept import FILE, Kept, encode_kept, load_kept
from tests.nodeagent.waiting import until

KEPT = Kept({"type": (Resource("n", "v", b"body", ("alias",)),)}, ("a",), ("b",), {"type": {"ns/p": "bad"}}, policies_arrived=True)


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    return state


def test_nothing_is_kept_at_first(directory: StateDirectory) -> None:
    assert load_kept(directory) == Kept()


def test_what_decodes_otherwise_is_set_aside(directory: StateDirectory) -> None:
    directory.write(FILE, b"\x01garbage")
    assert load_kept(directory) == Kept()
    assert (directory.path / f"{FILE}.damaged").exists()


@given(st.lists(st.builds(Resource, st.text(), st.text(), st.binary(), st.lists(st.text()).map(tuple))).map(tuple))
def test_round_trip(resources: tuple[Resource, ...]) -> None:
    class Memory(StateDirectory):
        def read(self, _name: str) -> bytes:
            return encode_kept(Kept({"t": resources}))

    assert load_kept(Memory(Path("/nonexistent"))) == Kept({"t": resources})


async def test_changes_are_written_together_and_at_the_end(directory: StateDirectory) -> None:
    collected: list[Kept] = []

    def collect() -> Kept:
        collected.append(KEPT)
        return KEPT

    keeper = Keeper(directory, collect, delay_s=0.01)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(keeper.run())
        for _ in range(5):
            keeper.changed(urgent=False)
        await until(lambda: load_kept(directory) == KEPT)
        assert len(collected) == 1
        directory.delete(FILE)
        keeper.changed(urgent=False)
        task.cancel()
    assert load_kept(directory) == KEPT, "what was pending is written when the agent ends"


async def test_what_is_urgent_is_written_at_once_and_gathers_while_a_write_is_under_way(directory: StateDirectory) -> None:
    writing, go_on = threading.Event(), threading.Event()
    written: list[bytes] = []
    collected: list[Kept] = []

    class Slow(StateDirectory):
        def write(self, name: str, body: bytes) -> None:
            writing.set()
            assert go_on.wait(10)
            written.append(body)
            super().write(name, body)

    def collect() -> Kept:
        collected.append(KEPT)
        return KEPT

    keeper = Keeper(Slow(directory.path), collect, delay_s=600)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(keeper.run())
        keeper.changed(urgent=False)
        await asyncio.sleep(0)
        assert not collected
        keeper.changed(urgent=True)
        await until(writing.is_set)
        for _ in range(100):
            keeper.changed(urgent=True)
        go_on.set()
        await until(lambda: len(written) == 2)
        assert load_kept(directory) == KEPT
        task.cancel()
    assert len(collected) == len(written) == 2


async def test_a_disk_that_fails_is_said_and_tried_again(directory: StateDirectory) -> None:
    (directory.path / f".{FILE}.draft").mkdir()
    keeper = Keeper(directory, lambda: KEPT, delay_s=0, retry_s=0.01)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(keeper.run())
        keeper.changed(urgent=False)
        await until(lambda: keeper.last_error is not None)
        (directory.path / f".{FILE}.draft").rmdir()
        await until(lambda: keeper.last_error is None)
        assert load_kept(directory) == KEPT
        task.cancel()
