"""The mesh of two pods that most tests here use."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodeagent.ztunnel.proxy.mesh import Mesh, mesh


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Mesh]:
    with mesh(tmp_path) as made:
        yield made
