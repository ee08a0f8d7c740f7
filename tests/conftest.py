"""What tests of all folders share: the API server, started by the first test that asks for it, and how examples are drawn."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.kube.cluster import Cluster

# How long an example takes says more of what else the machine does than of what is tested.
settings.register_profile("nodemesh", deadline=None)
settings.load_profile("nodemesh")


@pytest.fixture(scope="session")
def kube() -> Iterator[Cluster]:
    """One for the whole run, with Istio's and Gateway API's kinds; each test makes namespaces of its own in it."""
    cluster = Cluster()
    try:
        cluster.start()
        cluster.install_crds()
        yield cluster
    finally:
        cluster.stop()
