"""control/waypoint/report_pipe.py: real bytes through a real pipe; what nobody takes is lost, and whoever writes does not wait."""

import asyncio
import os
import stat
from pathlib import Path

from control.waypoint.report_pipe import ReportPipe
from tests.control.world import until


def write(path: Path, *pieces: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        for piece in pieces:
            os.write(descriptor, piece)
    finally:
        os.close(descriptor)


async def test_lines_come_whole_and_in_order_however_they_are_written(tmp_path: Path) -> None:
    path, taken = tmp_path / "reports", list[str]()
    (tmp_path / "reports").write_text("left by a former one")
    async with ReportPipe(path).reading(taken.extend):
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for pieces in ((b"one\ntw", b"o\n", b"\n"), ("drei\u2028\x1c\n".encode(), b"\xff\n")):
            await asyncio.to_thread(write, path, *pieces)
        await until(lambda: len(taken) == 5)
    assert taken == ["one", "two", "", "drei\u2028\x1c", "\ufffd"]
    assert not path.exists()


async def test_who_writes_does_not_wait_for_who_takes(tmp_path: Path) -> None:
    """A loop that is busy for long: what has no room is lost, and counted; then all goes on."""
    path, taken = tmp_path / "reports", list[str]()
    line = b"x" * 999 + b"\n"
    pipe = ReportPipe(path, max_bytes=100 * 1000)
    async with pipe.reading(taken.extend):
        # In the loop's own thread, which takes nothing meanwhile: more than pipe and room together hold.
        write(path, *[line * 100] * 40)
        await until(lambda: pipe.lost + len(taken) == 4000)
        assert pipe.lost > 0
        write(path, b"after\n")
        await until(lambda: taken[-1:] == ["after"])


async def test_a_line_without_end_is_given_up(tmp_path: Path) -> None:
    path, taken = tmp_path / "reports", list[str]()
    async with ReportPipe(path, max_bytes=10_000).reading(taken.extend):
        await asyncio.to_thread(write, path, *[b"x" * 4096] * 10)

        def comes_again() -> bool:
            # What is read together with the line that is too long is lost with it.
            write(path, b"\nnext\n")
            return taken[-1:] == ["next"]

        await until(comes_again)
    assert sum(len(one) for one in taken) < 41_000
