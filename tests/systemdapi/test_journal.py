"""Entries on a real socket, read by a parser of the protocol that is no code of ours."""

import io
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from systemdapi import journal
from systemdapi.journal import Journal, JournalHandler, entry, field_name, is_journal


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "journal"))
        made.settimeout(10)
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


def parsed(datagram: bytes) -> dict[str, bytes]:
    """As the journal reads it: a line feed behind the name says that a length follows."""
    found = {}
    while datagram:
        name, delimiter, rest = (match := re.match(rb"([A-Z][A-Z0-9_]*)([=\n])", datagram)) and (*match.groups(), datagram[match.end() :])
        if delimiter == b"=":
            value, _, datagram = rest.partition(b"\n")
        else:
            size = int.from_bytes(rest[:8], "little")
            value, datagram = rest[8 : 8 + size], rest[8 + size :]
            assert datagram[:1] == b"\n"
            datagram = datagram[1:]
        found[name.decode()] = value
    return found


@given(st.dictionaries(st.text(max_size=80), st.text(max_size=200) | st.integers(), max_size=5))
def test_whatever_is_said_is_read_as_it_was_said(fields: dict[str, str | int]) -> None:
    expected = {field_name(name): str(value).encode("utf-8", "backslashreplace") for name, value in fields.items()}
    assert parsed(entry(fields)) == expected


@given(st.text())
def test_names_are_what_the_journal_allows(text: str) -> None:
    assert re.fullmatch("[A-Z][A-Z0-9_]{0,63}", field_name(text))


def test_names_of_the_access_log() -> None:
    assert [field_name(name) for name in ("src.workload", "dst.hbone_addr", "_PID")] == ["SRC_WORKLOAD", "DST_HBONE_ADDR", "PID"]


def test_no_value_makes_an_entry_too_large() -> None:
    assert len(entry({"MESSAGE": "x" * 1_000_000})) < 40_000


def test_a_log_record_is_an_entry_and_a_crash_is_whole_in_it(listening: socket.socket, own: Journal) -> None:
    logger = logging.Logger("nodeagent.test")  # noqa: LOG001 - of this test alone
    logger.addHandler(JournalHandler(own, "nodeagent", io.StringIO()))
    try:
        int("two\nlines")
    except ValueError:
        logger.exception("it failed")
    fields = parsed(listening.recv(1 << 16))
    assert fields["MESSAGE"].startswith(b"it failed\nTraceback")
    assert fields["MESSAGE"].endswith(rb"'two\nlines'")
    said = {name: fields[name] for name in ("PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER", "CODE_FUNC")}
    assert said == {
        "PRIORITY": b"3",
        "SYSLOG_IDENTIFIER": b"nodeagent",
        "LOGGER": b"nodeagent.test",
        "CODE_FUNC": b"test_a_log_record_is_an_entry_and_a_crash_is_whole_in_it",
    }


@pytest.mark.parametrize(
    ("level", "expected"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)]
)
def test_levels_are_priorities(level: int, expected: int) -> None:
    assert journal.priority(level) == expected


def test_without_a_journal_nothing_is_lost_and_nothing_raised(own: Journal) -> None:
    fallback = io.StringIO()
    logger = logging.Logger("test")  # noqa: LOG001 - of this test alone
    logger.addHandler(JournalHandler(own, "nodeagent", fallback))
    logger.error("said all the same")
    assert fallback.getvalue() == "said all the same\n"


def test_a_journal_that_takes_nothing_holds_nobody_up_for_long(
    listening: socket.socket, own: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    own._socket.settimeout(0.01)

    def flood() -> None:
        for _ in range(10_000):
            own.send({"MESSAGE": "x" * 1000})

    with pytest.raises(TimeoutError):
        flood()


def test_the_stream_of_the_journal_is_known_by_its_number(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(file, {})
    assert not is_journal(file, {"JOURNAL_STREAM": "1:1"})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


def test_logging_is_set_up_for_the_journal_only_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    before = root.level
    try:
        journal.log_to(sys.__stderr__ or sys.stderr, program="nodeagent", level="INFO")
        assert [type(handler) for handler in root.handlers] == [logging.StreamHandler]
        root.handlers.clear()
        status = os.fstat(2)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        with open(2, "w", closefd=False) as stream:
            journal.log_to(stream, program="nodeagent", level="INFO")
        assert [type(handler) for handler in root.handlers] == [JournalHandler]
        root.handlers[0].close()
    finally:
        root.setLevel(before)
