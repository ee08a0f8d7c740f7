"""One mesh for each module; after each test it must be as it was; what failed is shown with the ends of the logs."""

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.e2e import mesh as meshes
from tests.e2e.mesh import Mesh


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with meshes.running() as made:
        yield made


@pytest.fixture(autouse=True)
def _left_as_found(mesh: Mesh) -> Iterator[None]:
    before = _configuration(mesh), set(mesh.pods)
    yield
    mesh.release()
    assert (_configuration(mesh), set(mesh.pods)) == before
    mesh.wait(mesh.settled, "both nodes to be as before the test", timeout_s=20)


def _configuration(mesh: Mesh) -> dict[str, str]:
    return {file.name: file.read_text() for file in mesh.cluster.config.iterdir()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    given = getattr(item, "funcargs", {})
    mesh = given.get("mesh") or getattr(given.get("node"), "mesh", None)
    if report.failed and isinstance(mesh, Mesh):
        report.sections.append(("logs of the mesh", mesh.tails()))
    return report
