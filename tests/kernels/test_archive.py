"""The archive, unpacked by busybox, which is no code of ours."""

import os
import subprocess
from pathlib import Path

from tests.kernels.archive import Entry, blocks


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    source = tmp_path / "tool"
    source.write_bytes(b"\x7fELF" + bytes(1001))
    source.chmod(0o750)
    os.utime(source, (1_600_000_000, 1_600_000_000))
    entries = {
        "/usr/bin/tool": Entry(source=source),
        "/bin": Entry(target="usr/bin"),
        "/init": Entry(content=b"#!/bin/sh\n"),
        "/empty": Entry(),
    }
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(
        ["busybox", "cpio", "-i", "-d", "-m"], cwd=root, input=b"".join(blocks(entries)), check=True, timeout=10, capture_output=True
    )
    assert (root / "bin/tool").read_bytes() == source.read_bytes()
    assert (root / "usr/bin/tool").stat().st_mode == source.stat().st_mode
    assert (root / "usr/bin/tool").stat().st_mtime == 1_600_000_000
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "init").read_bytes() == b"#!/bin/sh\n"
    assert (root / "init").stat().st_mode & 0o111
    assert (root / "empty").is_dir()
