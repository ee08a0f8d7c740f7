"""eBPF objects of a test's own making, and what of them is in the kernel."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from nodeagent.bpf import libbpf, steering
from nodeagent.bpf.library import library

SOURCES = Path(steering.__file__).parent / "src"
COMPILE = Path(steering.__file__).parents[2] / "tools/bpf.sh"
_BY_ID = {"prog_id": "bpf_prog_get_fd_by_id", "map_id": "bpf_map_get_fd_by_id", "link_id": "bpf_link_get_fd_by_id"}


def compiled(directory: Path, name: str, source: str) -> Path:
    """A program of these words."""
    written = directory / f"{name}.bpf.c"
    written.write_text(source)
    made = directory / f"{name}.bpf.o"
    subprocess.run([COMPILE, written, made], check=True, timeout=60)
    return made


def variant(directory: Path, name: str, of: str, *changes: tuple[str, str]) -> Path:
    """The object `of` of the product, as another version might have it."""
    sources = directory / name
    sources.mkdir()
    for source in SOURCES.iterdir():
        text = source.read_text()
        for old, new in changes:
            text = text.replace(old, new)
        (sources / source.name).write_text(text)
    made = directory / f"{name}.bpf.o"
    subprocess.run([COMPILE, sources / Path(of).with_suffix(".c").name, made], check=True, timeout=60)
    return made


def ids(root: Path) -> dict[str, set[int]]:
    """The kernel's numbers of what is pinned, and of the programs that links run."""
    found: dict[str, set[int]] = {kind: set() for kind in _BY_ID}
    for pin in (path for path in root.rglob("*") if path.is_file()):
        with libbpf.pinned(pin) as descriptor:
            for kind, number in re.findall(
                r"^(\w+_id):\s+(\d+)", Path(f"/proc/self/fdinfo/{descriptor.fileno()}").read_text(), re.MULTILINE
            ):
                if kind in found:
                    found[kind].add(int(number))
    return found


def eventually_gone(found: dict[str, set[int]]) -> None:
    """Waits until none of them is in the kernel: it frees maps and programs after a grace period."""
    eventually(lambda: not [(kind, number) for kind, numbers in found.items() for number in numbers if _exists(kind, number)])


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _exists(kind: str, number: int) -> bool:
    fd = getattr(library(), _BY_ID[kind])(number)
    if fd < 0:
        return False
    os.close(fd)
    return True
