"""The Debian package, built from the tree, and the same under a higher version."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodemesh"


def build(directory: Path) -> Path:
    """In a directory of its own, so that others can build at the same time."""
    target = os.environ.get("CARGO_TARGET_DIR") or str(CACHE / "cargo")
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", str(directory), "."),
        CARGO_TARGET_DIR=target,
    )
    # Unpacked in a moment, on this machine: nothing is gained by making it small.
    _run("tools/deb.sh", DIST=str(directory), PYTHON=sys.executable, DEB_OPTIONS="-Znone")
    (made,) = directory.glob("*.deb")
    return made


def raised(package: Path) -> Path:
    """The same content as the next version: every file of it is another file on the machine, the proxy's program included."""
    root, made = package.with_suffix(".tree"), package.with_name(package.name.replace("_", "_9.", 1))
    _run("dpkg-deb", "--raw-extract", str(package), str(root))
    control = root / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9."))
    _run("dpkg-deb", "-Znone", "--root-owner-group", "--build", str(root), str(made))
    return made


def _run(*command: str, **environment: str) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=600, env={**os.environ, **environment})
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
