"""Where pins live: recognised, and never on a mount that would end with the agent."""

import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.bpf.bpffs import ensure, is_mounted
from tests.nodeagent import bpffs

MOUNT = "30 23 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700"
OTHER = "31 30 0:28 / /sys/fs/bpf rw - tmpfs tmpfs rw"
ELSEWHERE = "32 23 0:27 / /run/bpf rw - bpf bpf rw"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([MOUNT], True), ([ELSEWHERE, MOUNT], True), ([MOUNT, OTHER], False), ([OTHER, MOUNT], True), ([ELSEWHERE], False), ([], False)],
)
def test_the_last_mount_at_the_place_counts(lines: list[str], *, expected: bool) -> None:
    assert is_mounted("\n".join(lines), Path("/sys/fs/bpf")) == expected


def test_what_is_there_is_taken(tmp_path: Path) -> None:
    with bpffs.mounted(tmp_path) as mount_point:
        before = Path("/proc/self/mountinfo").read_text().count(str(mount_point))
        ensure(mount_point)
        assert Path("/proc/self/mountinfo").read_text().count(str(mount_point)) == before == 1


def test_one_is_mounted_where_mounts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodeagent.bpf.bpffs._of_the_host", lambda: True)
    ensure(tmp_path)
    try:
        assert is_mounted(Path("/proc/self/mountinfo").read_text(), tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


def test_where_mounts_end_with_the_agent_none_is_made(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nodeagent.bpf.bpffs import ensure\n"
        "try: ensure(Path(sys.argv[1]))\nexcept OSError as error: print(error)\nelse: print('mounted')"
    )
    said = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    assert f"bpffs {tmp_path}" in said
    assert "would end with it" in said
