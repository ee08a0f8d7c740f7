"""A kernel of Debian's, as its package has it: fetched, unpacked, never installed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from demo.shell import CommandError, run

FETCH_S = 300.0


@dataclass(frozen=True)
class Kernel:
    """`release` as uname(1) has it; `modules` is the directory of its modules, with their index."""

    release: str
    image: Path
    modules: Path


def fetch(flavour: str, cache: Path) -> Kernel:
    """The newest kernel of a flavour (`cloud-amd64`) that this machine's package sources have; kept in `cache`.

    Raises CommandError if there is none.
    """
    package = _newest(f"linux-image-{flavour}")
    directory = cache / package
    if not (directory / "unpacked").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        subprocess.run(["apt-get", "-q", "download", package], cwd=directory, check=True, timeout=FETCH_S, capture_output=True)
        [archive] = directory.glob("*.deb")
        run(["dpkg-deb", "-x", str(archive), str(directory)], timeout_s=FETCH_S)
        archive.unlink()
        [release] = [path.name for path in (directory / "lib/modules").iterdir()]
        run(["depmod", "-b", str(directory), release], timeout_s=FETCH_S)
        (directory / "unpacked").touch()
    [image] = (directory / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    return Kernel(release, image, directory / "lib/modules" / release)


def _newest(meta_package: str) -> str:
    try:
        said = run(["apt-cache", "depends", meta_package])
    except CommandError:
        run(["apt-get", "update"], timeout_s=FETCH_S)
        said = run(["apt-cache", "depends", meta_package])
    [package] = [line.split()[-1] for line in said.splitlines() if line.strip().startswith("Depends: linux-image-")]
    return package
