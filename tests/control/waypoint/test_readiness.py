"""control/waypoint/readiness.py: what Envoy says of itself, and whether it is ready by that."""

from pathlib import Path

import pytest

from control.waypoint.readiness import is_ready, said_ready


@pytest.mark.parametrize(
    ("stats", "ready"),
    [
        ("listener_manager.lds.update_success: 1\nserver.state: 0\n", True),
        ("listener_manager.lds.update_success: 0\nserver.state: 0\n", False),
        ("listener_manager.lds.update_success: 1\nserver.state: 2\n", False),
        ("server.state: 0\n", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_ready_is_who_has_its_configuration(stats: str, ready: bool) -> None:
    assert said_ready(stats) == ready


async def test_without_an_envoy_nothing_is_ready(tmp_path: Path) -> None:
    assert not await is_ready(tmp_path / "admin.sock")
