"""The page about tests names only tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "testing.md"


def place(file: str) -> Path:
    """Where the page's short names are."""
    if file.startswith("proxy/"):
        return ROOT / "nodeagent" / "ztunnel" / file
    if file.startswith("l7/"):
        return ROOT / "tests" / "control" / "envoy" / file.removeprefix("l7/")
    return ROOT / file if "/" in file else ROOT / "tests" / "e2e" / file


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w./]+\.(?:py|rs))::(\w+)`", PAGE.read_text())
    assert len(named) > 80
    missing = [f"{file}::{name}" for file, name in named if not re.search(rf"\b(?:def|fn) {name}\b", read(place(file)))]
    assert missing == []


def read(file: Path) -> str:
    return file.read_text() if file.exists() else ""
