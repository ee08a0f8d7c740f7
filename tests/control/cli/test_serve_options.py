"""`meshctl serve`: what a source needs, and what is said where that is not there."""

import subprocess
import sys
from pathlib import Path

import pytest

WRONG = [
    ([], 2, "--config is needed with --source directory"),
    (["--source=kubernetes", "--config=x"], 2, "--config is needed with --source directory, and only there"),
    (["--source=kubernetes", "--agent-account=agent"], 2, "--agent-account is namespace/name"),
    (["--source=kubernetes"], 1, "this is no pod"),
    (["--source=kubernetes", "--kubeconfig=none-such"], 1, "none-such"),
]


@pytest.mark.parametrize(("options", "code", "why"), WRONG)
def test_what_is_missing_is_said_in_a_line(tmp_path: Path, options: list[str], code: int, why: str) -> None:
    meshctl = Path(sys.executable).parent / "meshctl"
    ended = subprocess.run(
        [meshctl, "serve", f"--state={tmp_path / 'state'}", *options], check=False, capture_output=True, text=True, timeout=60, env={}
    )
    assert ended.returncode == code, ended.stderr
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr
