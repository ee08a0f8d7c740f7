"""The API server that tests of all folders share: started by the first test that asks for it."""

from collections.abc import Iterator

import pytest

from tests.kube.cluster import Cluster


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
