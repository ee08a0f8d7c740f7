"""Times and sizes in words."""

import pytest

from nodeagent.cli.words import ago, duration, plural, size, until


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3601, "1 h"),
        (90061, "1 d 1 h"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_ago_and_until() -> None:
    assert ago(None, 10) == "never"
    assert ago(5, 10) == "5 s ago"
    assert until(None, 10) == "-"
    assert until(15, 10) == "in 5 s"
    assert until(5, 10) == "5 s ago"


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_size(count: int, words: str) -> None:
    assert size(count) == words


def test_plural() -> None:
    assert [plural(0, "service"), plural(1, "policy"), plural(2, "policy")] == ["0 services", "1 policy", "2 policies"]
