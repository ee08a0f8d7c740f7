"""State files are private, whole or not there, and set aside when damaged."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.state.files import StateDirectory, StateError, _checked


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    return state


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_is_written_is_read_and_private(directory: StateDirectory) -> None:
    former = os.umask(0)
    try:
        directory.write("a", b"one")
        directory.write("a", b"two")
    finally:
        os.umask(former)
    assert directory.read("a") == b"two"
    assert (mode(directory.path), mode(directory.path / "a")) == (0o700, 0o600)
    assert [file.name for file in directory.path.iterdir()] == ["a"]


def test_what_is_not_there_is_none(directory: StateDirectory) -> None:
    assert directory.read("a") is None
    directory.delete("a")


@pytest.mark.parametrize("damage", [b"", b"x", b"nodemesh state 1 "])
def test_a_damaged_file_is_set_aside_and_never_half_used(
    directory: StateDirectory, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    directory.write("a", b"good")
    (directory.path / "a").write_bytes(damage)
    assert directory.read("a") is None
    assert directory.read("a") is None
    assert (directory.path / "a.damaged").read_bytes() == damage
    assert "set aside" in caplog.text
    directory.write("a", b"fresh")
    assert directory.read("a") == b"fresh"


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 255))
def test_any_changed_byte_and_any_cut_is_noticed(body: bytes, position: int, flip: int) -> None:
    import hashlib

    raw = bytearray(b"nodemesh state 1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert _checked(bytes(raw)) == body
    assert _checked(bytes(raw[: position % len(raw)])) is None
    raw[position % len(raw)] ^= flip
    assert _checked(bytes(raw)) is None


def test_a_directory_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    StateDirectory(tmp_path / "state").prepare()
    assert mode(tmp_path / "state") == 0o700


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    with pytest.raises(StateError, match="belongs to user 65534"):
        StateDirectory(tmp_path / "state").prepare()


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "real")
    with pytest.raises(StateError, match="is no directory"):
        StateDirectory(tmp_path / "state").prepare()


def test_a_write_that_was_cut_short_leaves_the_old_file(directory: StateDirectory) -> None:
    directory.write("a", b"old")
    (directory.path / ".a.draft").write_bytes(b"half")
    directory.prepare()
    assert directory.read("a") == b"old"
    assert not (directory.path / ".a.draft").exists()
