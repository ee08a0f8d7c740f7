"""The controller that the tests of this folder share: one for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.world import World, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(World(tmp_path)) as world:
        yield world
