"""Which of the Gateway API's routes hold at a waypoint, in which order, and what they may name: read from what is served."""

import pytest

from control.envoy.messages import message_class
from control.envoy.place import Place
from control.envoy.routes import http_routes
from tests.control.envoy.routing.test_rules import virtual_service
from tests.control.envoy.test_waypoint import WAYPOINT, Served, pod, service

CART = "shop/cart.shop.svc.cluster.local"
ROUTES = "envoy.config.route.v3.RouteConfiguration"


def api_route(
    name: str, rules: str, namespace: str = "shop", kind: str = "HTTPRoute", parent: str = "", made: str = "2030-01-01T00:00:00Z"
) -> str:
    reference = parent or "{group: '', kind: Service, name: cart, namespace: shop}"
    return f"""
    kind: {kind}
    apiVersion: gateway.networking.k8s.io/v1
    metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{made}"}}
    spec: {{parentRefs: [{reference}], rules: [{rules}]}}
"""


def to(name: str, more: str = "") -> str:
    return f"{{backendRefs: [{{name: {name}, port: 80}}]{more}}}"


def at(path: str, name: str, kind: str = "PathPrefix") -> str:
    return to(name, f", matches: [{{path: {{type: {kind}, value: {path}}}}}]")


def served(*texts: str) -> Served:
    found = Served()
    found.write("cart.yaml", service("cart", "10.96.0.1"), *(service(one, f"10.96.0.{at}") for at, one in enumerate("abc", start=2)))
    found.write("pods.yaml", pod("cart-1", "cart", "10.0.0.1"))
    found.write("routes.yaml", *texts)
    return found


def table(found: Served):
    made = http_routes(found.world, Place(WAYPOINT, CART, 80))
    assert made is not None
    return made


def routes(found: Served) -> list:
    return list(message_class(ROUTES).FromString(table(found).routes.resource.body).virtual_hosts[0].routes)


def leads_to(found: Served) -> list[str]:
    return [str(one.route.cluster).rpartition("|")[2].partition(".")[0] for one in routes(found)]


def problems(found: Served) -> list[str]:
    return [f"{one.object.name} {one.what}" for one in table(found).routes.problems]


def test_the_most_exact_condition_comes_first() -> None:
    found = served(
        api_route("old", ", ".join((at("/", "a"), at("/long/er", "b"))), made="2029-01-01T00:00:00Z"),
        api_route("new", ", ".join((at("/long", "c"), at("/long/er", "c"), at("/x", "c", "Exact")))),
    )
    assert leads_to(found) == ["c", "b", "c", "c", "a"], "exact, then by length; of two alike the older route's"
    kinds = [one.match.WhichOneof("path_specifier") for one in routes(found)]
    assert kinds == ["path", *["path_separated_prefix"] * 3, "prefix"]


def test_headers_and_methods_count_after_paths() -> None:
    rules = ", ".join(
        (
            to("a", ", matches: [{path: {value: /p}}]"),
            to("b", ", matches: [{path: {value: /p}, headers: [{name: x, value: y}]}]"),
            to("c", ", matches: [{path: {value: /p}, method: GET}]"),
        )
    )
    assert leads_to(served(api_route("r", rules))) == ["c", "b", "a"]


def test_what_is_not_met_by_any_route_is_not_served() -> None:
    assert leads_to(served(api_route("r", at("/only", "a")))) == ["a"]


def test_routes_of_other_ports_and_namespaces_do_not_hold() -> None:
    elsewhere = "{group: '', kind: Service, name: cart, namespace: shop, port: 81}"
    assert leads_to(served(api_route("r", to("a"), parent=elsewhere))) == ["cart"]
    found = served(api_route("r", to("a"), namespace="other"))
    assert leads_to(found) == ["cart"]
    assert problems(found) == ["r is left out at Service shop/cart: routes there are its own namespace's"]


def test_a_virtual_service_comes_before_them() -> None:
    found = served(virtual_service("v", "hosts: [cart], http: [{route: [{destination: {host: b}}]}]"), api_route("r", to("a")))
    assert leads_to(found) == ["b"]
    assert problems(found) == ["r has no effect on cart.shop.svc.cluster.local: VirtualService shop/v names it more exactly, or is older"]


GRANT = """
    kind: ReferenceGrant
    apiVersion: gateway.networking.k8s.io/v1beta1
    metadata: {name: g, namespace: %s}
    spec: {from: [{group: gateway.networking.k8s.io, kind: %s, namespace: shop}], to: [{group: "", kind: Service%s}]}
"""


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("", False),
        (GRANT % ("other", "HTTPRoute", ""), True),
        (GRANT % ("other", "HTTPRoute", ", name: far"), True),
        (GRANT % ("other", "HTTPRoute", ", name: near"), False),
        (GRANT % ("other", "GRPCRoute", ""), False),
        (GRANT % ("shop", "HTTPRoute", ""), False),
    ],
)
def test_backends_of_other_namespaces_need_a_grant(grant: str, expected: bool) -> None:
    far = service("far", "10.96.1.1", label="none").replace("namespace: shop", "namespace: other")
    found = served(far, grant, api_route("r", "{backendRefs: [{name: far, namespace: other, port: 80}]}"))
    (route,) = routes(found)
    assert str(route.route.cluster).startswith("inbound-vip|80|http|far.other.") == expected
    assert bool(problems(found)) != expected
    assert route.route.cluster_not_found_response_code == 2, "500"


def test_no_backend_is_500() -> None:
    (route,) = routes(served(api_route("r", "{backendRefs: [{name: a, port: 80, weight: 0}]}")))
    assert route.direct_response.status == 500


def test_calls_of_grpc() -> None:
    rules = ", ".join(
        (
            to("a", ", matches: [{method: {service: shop.Cart}}]"),
            to("b", ", matches: [{method: {service: shop.Cart, method: Add}}]"),
            to("c", ", matches: [{method: {method: Any}}]"),
        )
    )
    found = served(api_route("r", rules, kind="GRPCRoute"))
    assert leads_to(found) == ["b", "a", "c"]
    assert [one.match.path or one.match.prefix or one.match.safe_regex.regex for one in routes(found)] == [
        "/shop.Cart/Add", "/shop.Cart/", "/(?:[^/]+)/(?:Any)",
    ]  # fmt: skip


def test_a_route_that_goes_leaves_the_service_as_it_was() -> None:
    found = served(api_route("r", to("a")))
    assert leads_to(found) == ["a"]
    found.write("routes.yaml", "")
    assert leads_to(found) == ["cart"]
