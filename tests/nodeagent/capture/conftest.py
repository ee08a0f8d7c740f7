"""The namespaces of a capture test, and each way to capture."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.bpf.steering import Steering
from nodeagent.capture.base import Capture
from nodeagent.capture.ebpf import EbpfCapture
from nodeagent.capture.nftables import NftablesCapture
from tests.nodeagent.pods import Pair, pair


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpffs of the test's own: what is pinned there ends with it."""
    mount_point = tmp_path / "bpf"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(mount_point)], check=True, timeout=10)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True, timeout=10)


@pytest.fixture(params=["nftables", "ebpf"])
def capture(request: pytest.FixtureRequest, bpffs: Path) -> Capture:
    return NftablesCapture() if request.param == "nftables" else EbpfCapture(Steering(bpffs / "nodemesh"))
