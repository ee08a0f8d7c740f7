"""The access log on a real file: batches, rotation, a full disk, and what is kept in memory."""

import asyncio
import os
import re
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from nodeagent.telemetry.access_log import KEPT_DENIALS, KEPT_RECORDS, AccessLog
from nodeagent.telemetry.records import Record
from nodeagent.telemetry.sinks import Entries, Lines, RotatedFile, StandardOutput
from systemdapi.journal import Journal


def numbered(number: int, **fields: str) -> Record:
    return Record(float(number), {"error": str(number), **fields})


def text(line: Record) -> str:
    return str(line.fields["error"])


@asynccontextmanager
async def running(log: AccessLog) -> AsyncIterator[AccessLog]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(log.run())
        try:
            yield log
        finally:
            task.cancel()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def test_lines_reach_a_private_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with running(AccessLog(Lines(RotatedFile(path), text), text)) as log:
        for number in range(100):
            log.add([numbered(number)])
        await until(lambda: len(lines(path)) == 100)
    assert lines(path) == [str(number) for number in range(100)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_was_not_written_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for _ in range(20):
        async with running(AccessLog(Lines(RotatedFile(path), text), text)) as log:
            await asyncio.sleep(0)
            log.add(numbered(number) for number in range(50))
            await asyncio.sleep(0)
        assert lines(path) == [str(number) for number in range(50)]
        path.unlink()


def test_a_file_that_grows_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    sink = RotatedFile(path, max_bytes=10, kept_files=2)
    for number in range(1, 8):
        sink.write(f"line{number}\n".encode())
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "access.log": "line7\n",
        "access.log.1": "line6\n",
        "access.log.2": "line5\n",
    }


def test_a_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "access.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        RotatedFile(tmp_path / "access.log").write(b"x\n")


class FullDisk:
    def __init__(self) -> None:
        self.full = True
        self.tries = 0
        self.written = b""

    def write(self, lines: bytes) -> None:
        self.tries += 1
        if self.full:
            raise OSError(28, os.strerror(28))
        self.written += lines


async def test_a_full_disk_sheds_beyond_the_bound_and_comes_back() -> None:
    disk = FullDisk()
    async with running(AccessLog(Lines(disk, text), text, max_pending=10, retry_s=0.001)) as log:
        log.add(numbered(number) for number in range(25))
        await until(lambda: disk.tries > 2)
        assert log.lost == 15
        disk.full = False
        await until(lambda: disk.written)
        log.add([numbered(99)])
        await until(lambda: disk.written.endswith(b"99\n"))
    assert disk.written.decode().split() == [*(str(number) for number in range(10)), "99"]


async def test_memory_keeps_the_last_lines_and_the_denials_apart() -> None:
    log = AccessLog(None, text)
    log.add(numbered(number, flag="UAEX") for number in range(KEPT_DENIALS + 1))
    log.add(numbered(number) for number in range(KEPT_RECORDS + 5))
    records, position = log.recent(2)
    assert [text(line) for line in records] == [str(KEPT_RECORDS + 3), str(KEPT_RECORDS + 4)]
    assert position == KEPT_DENIALS + 1 + KEPT_RECORDS + 5
    assert len(log.recent(10 * KEPT_RECORDS)[0]) == KEPT_RECORDS
    assert [text(line) for line in log.denials()] == [str(number) for number in range(1, KEPT_DENIALS + 1)]


async def test_following_sees_each_line_once() -> None:
    log = AccessLog(None, text)
    log.add([numbered(0)])
    _, position = log.recent(10)
    seen: list[str] = []

    async def follow() -> None:
        at = position
        while len(seen) < 30:
            records, at = await log.after(at)
            seen.extend(text(line) for line in records)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(follow())
        for number in range(1, 31, 3):
            log.add(numbered(one) for one in range(number, number + 3))
            await asyncio.sleep(0)
    assert seen == [str(number) for number in range(1, 31)]


def test_standard_output_takes_lines_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    StandardOutput().write(b"one\ntwo\n")
    assert capfdbinary.readouterr().out == b"one\ntwo\n"


class Ending(Journal):
    """Takes so many entries, and then none."""

    def __init__(self, path: Path, left: int) -> None:
        super().__init__(path)
        self.left = left

    def send(self, fields: Mapping[str, str | int]) -> None:
        if not self.left:
            raise ConnectionRefusedError
        super().send(fields)
        self.left -= 1


def test_the_journal_gets_the_fields_and_each_record_once(tmp_path: Path) -> None:
    records = [numbered(number, **{"src.workload": "shop", "dst.workload": "api"}) for number in range(3)]
    journal = Ending(tmp_path / "journal", 1)
    sink = Entries(journal, "nodeagent")
    with closing(journal), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "journal"))
        listening.settimeout(10)
        with pytest.raises(ConnectionRefusedError):
            sink.write(records)
        journal.left = 9
        sink.write([*records, numbered(3)])
        heard = [listening.recv(1 << 16).decode() for _ in range(4)]
        assert journal.left == 6
    assert [re.findall(r"^ERROR=(.*)$", entry, re.MULTILINE) for entry in heard] == [["0"], ["1"], ["2"], ["3"]]
    first = heard[0].splitlines()
    assert {"SYSLOG_IDENTIFIER=nodeagent", "LOGGER=access", "PRIORITY=4", "SRC_WORKLOAD=shop", "DST_WORKLOAD=api"} <= set(first)
    assert 'MESSAGE=connection failed: error=0 src.workload="shop" dst.workload="api"' in first
