"""`python -m demo --l7`: a chapter of it as people run it, and nothing is left of it, also when it is interrupted."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from demo.bookshop.chapters.accounts import counted
from demo.bookshop.shop import RULES, STANDING
from demo.bookshop.story import CHAPTERS
from demo.cluster import eventually

SOURCE = Path(__file__).parents[3]
PATIENCE_S = 180


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one, beside other tests, too: the controller's socket is below it, and has but a hundred characters for its path."""
    with tempfile.TemporaryDirectory(prefix="nm-") as made:
        yield Path(made)


@contextmanager
def telling(tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The demo in a session of its own, and the file that it writes to."""
    said = tmp_path / "said"
    (tmp_path / "tmp").mkdir()
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", "--l7", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=SOURCE,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "TMPDIR": str(tmp_path / "tmp")},
            start_new_session=True,
        )
    try:
        yield process, said
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def namespaces(session: int) -> set[str]:
    """Names of network namespaces that processes of a session are in."""
    there = {number: file.name for file in Path("/run/netns").iterdir() if (number := inode(file))}
    found = {inode(Path(f"/proc/{pid}/ns/net")) for pid in members(session)}
    return {there[number] for number in found if number in there}


def inode(file: Path) -> int:
    """0 where it has gone meanwhile."""
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return 0


def members(session: int) -> list[int]:
    """Processes of a session that have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def nothing_left(process: subprocess.Popen[bytes], seen: set[str], tmp_path: Path) -> None:
    assert not list((tmp_path / "tmp").iterdir())
    assert not seen & {file.name for file in Path("/run/netns").iterdir()}
    assert not members(process.pid)


def test_a_chapter_of_each_kind(tmp_path: Path) -> None:
    with telling(tmp_path, "--only=header", "--only=paths", "--only=metrics", "--only=describe") as (process, said):
        seen: set[str] = set()
        eventually(
            lambda: seen.update(namespaces(process.pid)) or process.poll() is not None, "its end", timeout_s=PATIENCE_S, interval_s=0.5
        )
    text = said.read_text()
    assert process.returncode == 0, text
    assert len(re.findall("^   held: ", text, re.MULTILINE)) == 9, text
    assert (RULES / "by-header.yaml").read_text() in text.replace("   | ", "")
    assert "\x1b[" not in text, "no colours in a file"
    assert seen
    nothing_left(process, seen, tmp_path)


def test_interrupted(tmp_path: Path) -> None:
    with telling(tmp_path, "--only=timeout") as (process, said):
        begun = "kubectl apply -f timeout.yaml"
        eventually(lambda: begun in said.read_text() or process.poll() is not None, "a rule to be in force", timeout_s=PATIENCE_S)
        seen = namespaces(process.pid)
        # As a terminal does it: all processes of the session get the signal.
        os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE_S)
    assert process.returncode == 130, said.read_text()
    assert "interrupted; everything is cleaned up" in said.read_text()
    assert len(seen) > 5
    nothing_left(process, seen, tmp_path)


def test_every_manifest_is_shown_by_some_chapter() -> None:
    sources = "".join(file.read_text() for file in (SOURCE / "demo/bookshop/chapters").glob("*.py"))
    for file in RULES.glob("*.yaml"):
        assert file.stem in STANDING or f'"{file.stem}"' in sources, file.name


def test_names_of_chapters_are_words() -> None:
    assert all(re.fullmatch("[a-z-]+", name) for name in CHAPTERS)


@pytest.mark.parametrize("code", ["200", "0"])
def test_reading_metrics(code: str) -> None:
    sample = f'istio_requests_total{{reporter="waypoint",destination_service_name="a",response_code="{code}",x="\\"{{}}"}} 3\n'
    text = f"# TYPE istio_requests_total counter\n{sample}{sample}istio_request_bytes_count{{}} 7\n"
    assert counted(text) == ({("a", 200): 6} if code == "200" else {})
