"""`meshctl waypoint run`: what is wrong is told in a line."""

import subprocess
import sys
from pathlib import Path

import pytest

from control.waypoint.bootstrap import bootstrap
from control.waypoint.settings import Controllers, Settings

MESHCTL = Path(sys.executable).parent / "meshctl"


def run(directory: Path, *options: str, roots: str = "roots") -> subprocess.CompletedProcess[str]:
    (directory / "roots.pem").write_text(roots)
    places = [f"--roots={directory / 'roots.pem'}", f"--state={directory / 'state'}", f"--run-dir={directory / 'run'}"]
    command = [str(MESHCTL), "waypoint", "run", "--controller=127.0.0.1", "--metrics-listen=", *places, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_without_a_proof_it_ends_and_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "--gateway=shop/gate")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("meshctl waypoint run: there is no certificate of spiffe://cluster.local/ns/shop/sa/gate that is still good")


@pytest.mark.parametrize("option", ["--gateway=gate", "--gateway=shop/", "--gateway=shop/a/b", "--gateway=shop/%2e", "--address=nowhere"])
def test_what_nobody_can_mean(tmp_path: Path, option: str) -> None:
    gateway = () if option.startswith("--gateway") else ("--gateway=shop/gate",)
    assert run(tmp_path, option, *gateway).returncode == 2


def test_directories_that_others_may_look_into(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o755)
    done = run(tmp_path, "--gateway=shop/gate", "--token=nmj1.a.b")
    assert done.returncode == 1
    assert "keys live there" in done.stderr


def test_what_envoy_starts_with_holds_no_secret(tmp_path: Path) -> None:
    settings = Settings("shop", "gate", Controllers(("a",)), b"roots", tmp_path, tmp_path, Path("/envoy"), token="nmj1.canary.canary")
    assert b"canary" not in bootstrap(settings, 1024).SerializeToString()
    assert "canary" not in repr(settings)
