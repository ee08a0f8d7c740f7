"""The namespaces of a capture test."""

import socket
from collections.abc import Iterator

import pytest

from tests.nodeagent.pods import Pair, pair


@pytest.fixture
def network() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)
