"""control/envoy/listeners/workloads.py: workloads that are dialled themselves, and which of their ports wait for the first bytes."""

from pathlib import Path

from control.envoy.built import LISTENER, ROUTES
from tests.control.envoy.test_waypoint import GATEWAY, Served, pod, service
from tests.control.envoy.validation import validate

FOR_ALL = GATEWAY.replace("namespace: shop}", "namespace: shop, labels: {istio.io/waypoint-for: all}}")
DB = "[{name: tcp-db, port: 82, targetPort: 8282}, {name: web, port: 80, targetPort: 8080}, {name: db, port: 3306, targetPort: 9000}]"


def bound(name: str, app: str, address: str) -> str:
    return pod(name, app, address).replace("version: v1,", "version: v1, istio.io/use-waypoint: waypoint,")


def ways(served: Served) -> dict[str, list[tuple[str, str]]]:
    """Of each destination that is no service: the pattern of authorities, and the listener that takes those."""
    hosts = [one for one in served.of(ROUTES)["connect_terminate"].virtual_hosts if "Pod" in one.name]
    return {
        str(one.domains[0]): [
            (route.match.headers[0].string_match.safe_regex.regex if route.match.headers else "", route.route.cluster)
            for route in one.routes
        ]
        for one in hosts
    }


def test_ports_that_say_that_they_are_tcp_wait_for_nobody(tmp_path: Path) -> None:
    served = Served()
    served.write("base.yaml", FOR_ALL)
    served.write("a.yaml", service("cart", "10.96.0.1", DB), bound("cart-1", "cart", "10.0.0.1"), bound("idle-1", "idle", "10.0.0.2"))
    assert ways(served) == {
        "10.0.0.1": [(".*:(8282|9000)", "main_internal"), ("", "main_internal_sniffing")],
        "10.0.0.2": [("", "main_internal_sniffing")],
    }
    chains = {one.name for one in served.of(LISTENER)["main_internal"].filter_chains}
    assert "direct-tcp|spiffe://cluster.local/ns/shop/sa/cart" in chains
    assert not {one for one in chains if "sa/idle" in one or one.startswith("direct-http")}
    validate(tmp_path, served.view)
    other = service("other", "10.96.0.2", "[{name: web, port: 1, targetPort: 8282}]").replace("app: other", "app: cart")
    served.write("b.yaml", other)
    assert ways(served)["10.0.0.1"][0] == (".*:(9000)", "main_internal"), "another service says nothing of that port"
