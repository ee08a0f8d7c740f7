"""A directory is followed through the kernel's own notifications: edits, renames, removals, links."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from control.source import Change, FileFindings, Reject, Remove, Synced, Upsert
from control.source.directory import DirectoryScanner, DirectorySource, read_file
from control.source.tree import Absent, Unreadable
from control.validation.yaml_text import MAX_FILE_BYTES

DEADLINE_S = 10
PROMPT_S = 1.5
"""Far below the rescan that would find a change without any notification."""


def namespace(name: str, label: str = "x") -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{a: {label}}}}}\n"


class Followed:
    """A source with what it delivered so far."""

    def __init__(self, directory: Path) -> None:
        self.batches: AsyncIterator[tuple[Change, ...]] = DirectorySource(directory, "istio-system").changes()
        self.labels: dict[str, str] = {}
        self.rejected: set[str] = set()
        self.files: set[str] = set()

    async def next(self) -> tuple[Change, ...]:
        async with asyncio.timeout(DEADLINE_S):
            batch = await anext(self.batches)
        for change in batch:
            match change:
                case Upsert(item):
                    self.labels[item.metadata.name] = item.metadata.labels["a"]
                    self.rejected.discard(item.metadata.name)
                case Reject(key):
                    self.rejected.add(key.name)
                case Remove(key):
                    self.labels.pop(key.name, None)
                    self.rejected.discard(key.name)
                case FileFindings(file, findings):
                    (self.files.add if findings else self.files.discard)(Path(file).name)
        return batch

    async def until(self, labels: dict[str, str], rejected: set[str] | None = None) -> None:
        async with asyncio.timeout(PROMPT_S):
            while self.labels != labels or self.rejected != (rejected or set()):
                await self.next()


@pytest.fixture
async def followed(tmp_path: Path) -> AsyncGenerator[Followed, None]:
    (tmp_path / "a.yaml").write_text(namespace("a"))
    source = Followed(tmp_path)
    yield source
    await source.batches.aclose()  # type: ignore[attr-defined]


async def test_first_everything_then_synced(followed: Followed, tmp_path: Path) -> None:
    (tmp_path / "ignored.txt").write_text(namespace("b"))
    (tmp_path / ".hidden.yaml").write_text(namespace("c"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.yml").write_text(namespace("d"))
    batch = await followed.next()
    assert batch[-1] == Synced()
    assert sorted(followed.labels) == ["a", "d"]


async def test_edits_in_place_renames_and_removals(followed: Followed, tmp_path: Path) -> None:
    await followed.next()
    (tmp_path / "a.yaml").write_text(namespace("a", "edited"))
    await followed.until({"a": "edited"})
    (tmp_path / "a.yaml.new").write_text(namespace("a", "renamed"))
    (tmp_path / "a.yaml.new").rename(tmp_path / "a.yaml")
    await followed.until({"a": "renamed"})
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.yaml").write_text(namespace("b"))
    await followed.until({"a": "renamed", "b": "x"})
    (tmp_path / "deep" / "er" / "b.yaml").write_text(namespace("b", "y"))
    await followed.until({"a": "renamed", "b": "y"})
    (tmp_path / "deep").rename(tmp_path.parent / f"{tmp_path.name}-away")
    await followed.until({"a": "renamed"})
    (tmp_path / "a.yaml").unlink()
    await followed.until({})


async def test_many_changes_at_once_come_together(followed: Followed, tmp_path: Path) -> None:
    await followed.next()
    for index in range(50):
        (tmp_path / f"n{index}.yaml").write_text(namespace(f"n{index}"))
    count = 0
    while len(followed.labels) < 51:
        await followed.next()
        count += 1
    assert count <= 10


async def test_a_config_maps_links_are_followed(tmp_path: Path) -> None:
    first, second = tmp_path / "..2030_1", tmp_path / "..2030_2"
    for folder, label in ((first, "one"), (second, "two")):
        folder.mkdir()
        (folder / "a.yaml").write_text(namespace("a", label))
    (tmp_path / "..data").symlink_to(first.name)
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    source = Followed(tmp_path)
    await source.next()
    assert source.labels == {"a": "one"}
    (tmp_path / "..data_tmp").symlink_to(second.name)
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    await source.until({"a": "two"})
    await source.batches.aclose()  # type: ignore[attr-defined]


async def test_broken_and_unreadable_files_keep_what_they_said(followed: Followed, tmp_path: Path) -> None:
    await followed.next()
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    await followed.until({"a": "x"}, {"a"})
    (tmp_path / "a.yaml").write_text("a: b: c")
    while followed.files != {"a.yaml"}:
        await followed.next()
    (tmp_path / "a.yaml").unlink()
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(namespace("b"))
    await followed.until({"a": "x", "b": "x"}, {"a"})
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.yaml").write_text(namespace("a", "good"))
    await followed.until({"a": "good", "b": "x"})


async def test_a_directory_that_vanishes_takes_nothing_along(tmp_path: Path) -> None:
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / "a.yaml").write_text(namespace("a"))
    source = Followed(directory)
    await source.next()
    directory.rename(tmp_path / "away")
    while not source.files:
        await source.next()
    assert source.labels == {"a": "x"}
    directory.mkdir()
    (directory / "b.yaml").write_text(namespace("b"))
    while source.labels != {"b": "x"}:
        await source.next()
    # The new directory is watched like the old one.
    (directory / "b.yaml").write_text(namespace("b", "again"))
    await source.until({"b": "again"})
    assert not source.files
    await source.batches.aclose()  # type: ignore[attr-defined]


async def test_it_is_not_in_sync_before_every_file_could_be_read(followed: Followed, tmp_path: Path) -> None:
    (tmp_path / "policies.yaml").write_bytes(b"\xff")
    assert Synced() not in await followed.next()
    assert followed.labels == {"a": "x"}
    (tmp_path / "policies.yaml").write_text(namespace("b"))
    while Synced() not in await followed.next():
        pass
    assert followed.labels == {"a": "x", "b": "x"}


async def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await anext(DirectorySource(tmp_path / "missing", "istio-system").changes())


def test_the_scanner_reads_only_what_changed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one")
    (tmp_path / "b.yaml").write_text("two")
    scanner = DirectoryScanner(tmp_path)
    assert scanner.scan() == {str(tmp_path / "a.yaml"): "one", str(tmp_path / "b.yaml"): "two"}
    assert scanner.scan() == {}
    (tmp_path / "b.yaml").unlink()
    (tmp_path / "c.yaml").symlink_to("nowhere")
    changed = scanner.scan()
    assert changed[str(tmp_path / "b.yaml")] == Absent()
    assert isinstance(changed[str(tmp_path / "c.yaml")], Unreadable)
    assert scanner.scan() == {}


def test_a_file_that_could_not_be_read_is_read_again_though_it_did_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(namespace("a"))
    scanner = DirectoryScanner(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("control.source.directory.read_file", lambda _: Unreadable("too many open files"))
        assert scanner.scan() == {str(file): Unreadable("too many open files")}
    assert scanner.unreadable
    assert scanner.scan() == {str(file): namespace("a")}
    assert not scanner.unreadable
    assert scanner.scan() == {}


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    (state,) = DirectoryScanner(tmp_path).scan().values()
    assert isinstance(state, Unreadable)
    assert isinstance(read_file(str(tmp_path / "a.yaml")), Unreadable)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_file(str(tmp_path / "a.yaml")) == "a: 1"
