"""What the tests of eBPF need: a bpffs, a pod and a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodeagent import bpffs
from tests.nodeagent.pods import Pair, pair


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory for pins."""
    with bpffs.mounted(tmp_path) as mount_point:
        yield mount_point / "nodemesh"


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair() as made:
        yield made
