"""The namespaces of a capture test, and each way to capture."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.capture.base import Capture
from tests.nodeagent import bpffs
from tests.nodeagent.capture.ways import made
from tests.nodeagent.pods import Pair, pair


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def pins(tmp_path: Path) -> Iterator[Path]:
    """A directory on a bpffs."""
    with bpffs.mounted(tmp_path) as mount_point:
        yield mount_point / "nodemesh"


@pytest.fixture(params=["ebpf", "ebpf-cgroup", "nftables", "redirect", "iptables-nft"])
def capture(request: pytest.FixtureRequest, pins: Path) -> Iterator[Capture]:
    with made(request.param, pins) as capture:
        yield capture
