"""Documents as older guides wrote them, through `meshctl convert`: what comes out is read without a remark, and decides as the old did."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from control.analysis.run import analyze
from control.cli.main import main
from control.envoy.built import CLUSTER
from control.envoy.guarding import authorization_of
from control.envoy.place import Place
from control.kinds import Kind, PeerAuthentication
from control.validation.document import read_documents
from control.validation.finding import Severity
from tests.control.envoy.echo import upstream
from tests.control.envoy.rbac.reference import Request
from tests.control.envoy.rbac.test_filters import http_filters, let_in, listener
from tests.control.envoy.real_envoy import running
from tests.control.envoy.routed import Routed, routed
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service
from tests.control.envoy.validation import validate

EXAMPLES = Path(__file__).parent / "examples"
SERVICES = ("page", "details", "reviews")
SHOP = "\n---\n".join(service(name, f"10.96.0.{index + 1}") for index, name in enumerate(SERVICES))
PAGE = "spiffe://cluster.local/ns/shop/sa/page"
OTHER = "spiffe://cluster.local/ns/shop/sa/other"
AUDITOR = "spiffe://cluster.local/ns/audit/sa/any"
TESTS: dict[str, list[tuple[str, Request, bool]]] = {
    "roles": [
        ("page", Request(), True),
        ("page", Request(method="HEAD", path="/any", peer=OTHER), True),
        ("page", Request(method="POST"), False),
        ("details", Request(path="/books/1", peer=PAGE), True),
        ("details", Request(path="/1/cover", peer=PAGE), True),
        ("details", Request(path="/books", peer=PAGE), False),
        ("details", Request(path="/books/1", peer=AUDITOR), True),
        ("details", Request(path="/books/1", peer=OTHER), False),
        ("details", Request(path="/books/1"), False),
        ("details", Request(method="POST", path="/books/1", peer=PAGE), False),
        ("reviews", Request(path="/books/1", peer=PAGE), True),
        ("reviews", Request(method="POST", issuer="a", subject="b", groups=("reviewers",), headers=(("x-version", "v2"),)), True),
        ("reviews", Request(method="POST", issuer="a", subject="b", groups=("readers",), headers=(("x-version", "v2"),)), False),
        ("reviews", Request(method="POST", issuer="a", subject="b", groups=("reviewers",), headers=(("x-version", "v3"),)), False),
        ("reviews", Request(method="POST", headers=(("x-version", "v1"),)), False),
    ],
    "authentication": [
        ("page", Request(), False),
        ("page", Request(path="/health"), True),
        ("page", Request(path="/health/more"), False),
        ("page", Request(path="/open/door"), True),
        ("page", Request(issuer="https://accounts.example", subject="ann"), True),
        ("details", Request(), True),
    ],
}


def converted(name: str) -> str:
    """What the command prints for an example together with the services that it is about."""
    with TemporaryDirectory() as directory:
        services = Path(directory) / "services.yaml"
        services.write_text(SHOP)
        result = CliRunner().invoke(main, ["convert", str(EXAMPLES / f"{name}.yaml"), str(services)])
    assert result.exit_code == 0, result.stderr
    return str(result.stdout)


def served(name: str) -> Served:
    found = Served()
    found.write("converted.yaml", converted(name))
    return found


@pytest.mark.parametrize("name", [one.stem for one in sorted(EXAMPLES.iterdir())])
def test_what_comes_out_is_of_today(tmp_path: Path, name: str) -> None:
    text = converted(name)
    documents = read_documents(text, "converted.yaml", "istio-system")
    assert [finding for one in documents for finding in one.findings if finding.severity is Severity.ERROR] == []
    assert not any("former form" in finding.what for one in documents for finding in one.findings)
    assert not any("v1alpha1" in one["apiVersion"] or "v1alpha3" in one["apiVersion"] for one in yaml.safe_load_all(text))
    (tmp_path / "once.yaml").write_text(text)
    assert CliRunner().invoke(main, ["convert", str(tmp_path / "once.yaml")]).stdout == text


@pytest.mark.parametrize("name", [one.stem for one in sorted(EXAMPLES.iterdir())])
def test_envoy_takes_it_and_nothing_is_amiss(tmp_path: Path, name: str) -> None:
    found = served(name)
    validate(tmp_path, found.view)
    assert [one for one in analyze(found.config.mesh) if one.code in {"IST0106", "IST0109"}] == []


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    listeners: list[dict[str, Any]] = []
    for name in TESTS:
        found = served(name)
        for at in SERVICES:
            policies = found.world.ask(authorization_of, Place(WAYPOINT, f"shop/{at}.shop.svc.cluster.local", 80))
            listeners.append(listener(f"{name} {at}", http_filters(policies)))
    with running(tmp_path_factory.mktemp("envoy"), listeners) as envoy:
        yield envoy.ports


@pytest.mark.parametrize("name", TESTS)
def test_who_was_let_in_is_and_nobody_else(ports: dict[str, int], name: str) -> None:
    for at, request, expected in TESTS[name]:
        assert let_in(ports[f"{name} {at}"], request) is expected, (at, request)


def test_modes_of_mutual_tls() -> None:
    found = served("authentication").config.mesh
    modes = {one.metadata.name: one.spec for one in (found.store.get(key) for key in found.records) if isinstance(one, PeerAuthentication)}
    assert modes["default"].mtls.mode == "STRICT"
    assert {str(port): mode.mode for port, mode in modes["details"].port_level_mtls.items()} == {"8080": "PERMISSIVE"}
    assert any(key.kind is Kind.REQUEST_AUTHENTICATION for key in found.records)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    found = served("routing")
    pods = [pod(name, "reviews", address, mesh="none").replace("version: v1", f"version: {name}") for name, address in PODS.items()]
    found.write("pods.yaml", *pods)
    with upstream("v1") as v1, upstream("v2") as v2:
        servers = {PODS["v1"]: v1, PODS["v2"]: v2}
        with routed(tmp_path_factory.mktemp("routing"), found, servers) as made:
            yield made


PODS = {"v1": "10.0.0.1", "v2": "10.0.0.2"}


def test_requests_go_where_they_went(shop: Routed) -> None:
    assert {shop.ask("reviews").upstream for _ in range(10)} == {"v1"}
    tester = shop.ask("reviews", end_user="jason")
    assert (tester.upstream, tester.echo["headers"]["x-tester"]) == ("v2", "yes")
    assert shop.ask("reviews", x_broken="yes").status == 555
    assert "x-old" not in shop.ask("reviews").headers
    assert shop.ask("reviews", origin="https://books.example").headers["access-control-allow-origin"] == "https://books.example"
    assert shop.upstreams["v2"].seen["/"] == 1, "nothing was mirrored"
    (cluster,) = (one for name, one in shop.served.of(CLUSTER).items() if "http/v1|reviews" in name)
    assert cluster.outlier_detection.consecutive_gateway_failure.value == 7
