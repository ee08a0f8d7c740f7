"""The victim of the attacks that need no settings of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodeagent.ztunnel.proxy.attacks.victim import Victim, victim


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Victim]:
    with victim(tmp_path) as made:
        yield made
