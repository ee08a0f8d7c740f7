"""The Gateway API's routes as requests see them: a real Envoy with what the controller makes of them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.control.envoy.echo import upstream
from tests.control.envoy.routed import Routed, echo_pods, echo_service, routed
from tests.control.envoy.test_waypoint import Served

ADDRESSES = {"v1": "10.0.0.1", "v2": "10.0.0.2"}
HERE = "backendRefs: [{name: echo, port: 80}]"
PREFIX = "matches: [{path: {value: %s}}]"


def change(path: str, modifier: str, kind: str = "ReplacePrefixMatch") -> str:
    field = f"{kind[0].lower()}{kind[1:]}"
    rewrite = f"{{type: URLRewrite, urlRewrite: {{path: {{type: {kind}, {field}: {modifier}}}}}}}"
    return f"{{{PREFIX % path}, filters: [{rewrite}], {HERE}}}"


RULES = {
    "rewrite": ", ".join(
        (change("/a", "/x"), change("/gone", "/"), change("/full", "/whole", "ReplaceFullPath"), change("/", "/root")),
    ),
    "redirect": f"{{{PREFIX % '/old'}, filters: [{{type: RequestRedirect, requestRedirect: {{statusCode: 303, hostname: new.example, "
    "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}",
    "headers": "{filters: [{type: RequestHeaderModifier, "
    "requestHeaderModifier: {set: [{name: x-set, value: 100%REQ(x)%}], remove: [x-gone]}}, "
    f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-more, value: '1'}}]}}}}], {HERE}}}",
    "shares": "{backendRefs: [{name: echo, port: 80, weight: 1}, {name: nobody, port: 80, weight: 1}]}",
    "kinds": "{backendRefs: [{kind: Bucket, group: x.example, name: b, port: 80}]}",
}


def attached(name: str, rules: str) -> str:
    return f"""
    kind: HTTPRoute
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {{name: {name}, namespace: shop}}
    spec: {{parentRefs: [{{group: "", kind: Service, name: {name}}}], rules: [{rules}]}}
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with ExitStack() as stack:
        servers = {address: stack.enter_context(upstream(name)) for name, address in ADDRESSES.items()}
        served = Served()
        served.write("base2.yaml", echo_pods(ADDRESSES), *(echo_service(name, n) for n, name in enumerate(("echo", *RULES))))
        served.write("routes.yaml", *(attached(name, rules) for name, rules in RULES.items()))
        yield stack.enter_context(routed(tmp_path_factory.mktemp("api"), served, servers))


@pytest.mark.parametrize(
    ("path", "arrives"),
    [
        ("/a", "/x"), ("/a/", "/x/"), ("/a/b?c=d", "/x/b?c=d"), ("/gone", "/"), ("/gone/b", "/b"), ("/full/b", "/whole"),
        ("/ab", "/root/ab"), ("/", "/root/"),
    ],
)  # fmt: skip
def test_paths_that_change(shop: Routed, path: str, arrives: str) -> None:
    assert shop.ask("rewrite", path).echo["path"] == arrives


def test_a_redirect_keeps_what_follows_the_prefix(shop: Routed) -> None:
    answer = shop.ask("redirect", "/old/page")
    assert (answer.status, answer.headers["location"]) == (303, "http://new.example/new/page")
    assert shop.ask("redirect", "/older").status == 404


def test_headers_are_taken_as_they_are(shop: Routed) -> None:
    answer = shop.ask("headers", x_gone="a")
    assert answer.echo["headers"]["x-set"] == "100%REQ(x)%"
    assert "x-gone" not in answer.echo["headers"]
    assert answer.headers["x-more"] == "1"


def test_shares_of_backends_that_are_not_there_fail(shop: Routed) -> None:
    found = shop.counted("shares", 40)
    assert 5 <= found["500"] <= 35, found
    assert found.keys() <= {"v1", "v2", "500"}
    assert shop.ask("kinds").status == 500
