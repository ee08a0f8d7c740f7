"""Ten thousand pods and a thousand services on a real API server: known within seconds, in bounded memory, and told at once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.bench.kubernetes import PODS, CrowdController, crowded, tell_agents
from tests.kube.cluster import Cluster

AGENTS = 100
"""`make bench` takes a thousand."""


@pytest.fixture(scope="module")
def crowd() -> Iterator[Cluster]:
    with crowded(PODS) as kube:
        yield kube


@pytest.mark.timeout(300)
async def test_it_is_synced_and_served(crowd: Cluster, tmp_path: Path) -> None:
    with CrowdController(crowd, tmp_path) as controller:
        told_s = await tell_agents(crowd, controller, AGENTS, changes=3)
        print(f"ready after {controller.ready_after_s:.1f} s, {controller.peak_mb:.0f} MB, told after {min(told_s):.3f} s")
        assert controller.ready_after_s < 30, "aim: 3 s on a calm machine"
        assert controller.peak_mb < 250
        assert min(told_s) < 5, "aim: 1 s on a calm machine"
