"""VirtualServices as requests see them: a real Envoy with what the controller makes of them."""

import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.control.envoy.echo import upstream
from tests.control.envoy.routed import Routed, echo_pods, echo_service, routed, until
from tests.control.envoy.test_waypoint import Served

ADDRESSES = {"v1": "10.0.0.1", "v2": "10.0.0.2", "v3": "10.0.0.3"}
SUBSETS = """
    apiVersion: networking.istio.io/v1
    kind: DestinationRule
    metadata: {name: echo, namespace: shop}
    spec:
      host: echo
      subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]
"""
ROUTES = {
    "plain": "",
    "canary": """
      - route:
        - {destination: {host: echo, subset: v1}, weight: 75}
        - {destination: {host: echo, subset: v2}, weight: 25}
        - {destination: {host: echo, subset: v3}, weight: 0}
    """,
    "matches": """
      - {name: exact, match: [{uri: {exact: /exact}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /pre}, ignoreUriCase: true}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {regex: '/r[0-9]+'}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{headers: {x-user: {exact: ann}, x-tier: {}}}], route: [{destination: {host: echo, subset: v2}}]}
      - match: [{headers: {cookie: {regex: '^(.*?;)?(user=jason)(;.*)?$'}}}]
        route: [{destination: {host: echo, subset: v2}}]
      - {match: [{method: {exact: PUT}}, {method: {prefix: DEL}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{authority: {prefix: special}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{queryParams: {v: {exact: "2"}}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /without}, withoutHeaders: {x-legacy: {}}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /unlike}, withoutHeaders: {x-kind: {exact: bot}}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /port}, port: 81}], route: [{destination: {host: echo, subset: v2}}]}
      - match: [{uri: {prefix: /labels}, gateways: [mesh], sourceLabels: {app: page, tier: gold}}]
        route: [{destination: {host: echo, subset: v2}}]
      - match: [{uri: {prefix: /labels}, sourceLabels: {app: page}, sourceNamespace: team}]
        route: [{destination: {host: echo, subset: v3}}]
      - {match: [{uri: {prefix: /nobody}, sourceLabels: {app: till}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /untied}, sourceLabels: {app: nobody}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /from}, sourceNamespace: team}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /almost}, gateways: [mesh], sourceNamespace: tea}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /stranger}, sourceNamespace: page}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /gate}, gateways: [edge]}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /gate}, gateways: [mesh]}], route: [{destination: {host: echo, subset: v3}}]}
      - {match: [{scheme: {exact: http}, uri: {prefix: /scheme}}], route: [{destination: {host: echo, subset: v2}}]}
      - route: [{destination: {host: echo, subset: v1}}]
    """,
    "only": "- {match: [{uri: {prefix: /only}}], route: [{destination: {host: echo}}]}",
    "redirect": """
      - {match: [{uri: {prefix: /a}}], redirect: {uri: /new, authority: other.example.com, redirectCode: 302}}
      - {match: [{uri: {prefix: /b}}], redirect: {scheme: https, port: 8443}}
      - {match: [{uri: {prefix: /c}}], redirect: {scheme: https, port: 443}}
    """,
    "direct": """
      - {match: [{uri: {exact: /text}}], directResponse: {status: 418, body: {string: "short and stout"}}}
      - match: [{uri: {exact: /bytes}}]
        directResponse: {status: 200, body: {bytes: "aGVsbG8="}}
        headers: {response: {add: {x-own: here}}}
      - {match: [{uri: {exact: /long}}], directResponse: {status: 200, body: {string: "%s"}}}
      - {match: [{uri: {exact: /none}}], directResponse: {status: 503}}
    """
    % ("x" * 9000),
    "rewrite": """
      - {match: [{uri: {prefix: /old}}], rewrite: {uri: /new, authority: inner.example.com}, route: [{destination: {host: echo}}]}
      - match: [{uri: {prefix: /v}}]
        rewrite: {uriRegexRewrite: {match: '^/v([0-9]+)/(.*)$', rewrite: '/\\2/\\1'}}
        route: [{destination: {host: echo}}]
    """,
    "headers": """
      - headers:
          request: {set: {x-set: new}, add: {x-added: "from %REQ(x-given)% 100%%"}, remove: [x-secret]}
          response: {set: {x-old: changed}, add: {x-more: "1"}}
        route:
        - destination: {host: echo}
          headers: {request: {set: {x-dest: "yes"}, add: {host: renamed.example.com}}, response: {remove: [date]}}
    """,
    "mirror": """
      - match: [{uri: {prefix: /half}}]
        route: [{destination: {host: echo, subset: v1}}]
        mirrors: [{destination: {host: echo, subset: v3}, percentage: {value: 50}}]
      - route: [{destination: {host: echo, subset: v1}}]
        mirror: {host: echo, subset: v2}
    """,
    "slow": "- {timeout: 250ms, route: [{destination: {host: echo}}]}",
    "patient": "- {route: [{destination: {host: echo}}]}",
    "retries": """
      - match: [{uri: {prefix: /off}}]
        retries: {attempts: 0}
        route: [{destination: {host: echo, subset: v1}}]
      - match: [{uri: {prefix: /three}}]
        retries: {attempts: 3, retryOn: "503", backoff: 5ms}
        route: [{destination: {host: echo, subset: v1}}]
      - match: [{uri: {prefix: /reset}}]
        retries: {attempts: 3, retryOn: reset}
        route: [{destination: {host: echo, subset: v1}}]
      - match: [{uri: {prefix: /try}}]
        retries: {attempts: 2, perTryTimeout: 200ms, retryOn: "gateway-error,reset"}
        timeout: 5s
        route: [{destination: {host: echo, subset: v1}}]
      - route: [{destination: {host: echo, subset: v1}}]
    """,
    "fault": """
      - match: [{uri: {prefix: /abort}, headers: {x-chaos: {exact: "yes"}}}]
        fault: {abort: {httpStatus: 555, percentage: {value: 100}}}
        route: [{destination: {host: echo}}]
      - match: [{uri: {prefix: /half}}]
        fault: {abort: {httpStatus: 500, percentage: {value: 50}}}
        route: [{destination: {host: echo}}]
      - match: [{uri: {prefix: /grpc}}]
        fault: {abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}
        route: [{destination: {host: echo}}]
      - match: [{uri: {prefix: /delay}}]
        fault: {delay: {fixedDelay: 300ms, percentage: {value: 100}}}
        route: [{destination: {host: echo}}]
      - match: [{uri: {prefix: /unstated}}]
        fault: {abort: {httpStatus: 500}}
        route: [{destination: {host: echo}}]
      - route: [{destination: {host: echo}}]
    """,
    "cors": """
      - corsPolicy:
          allowOrigins: [{exact: "https://good.example.com"}, {regex: "https://[a-z]+[.]team[.]example"}]
          allowMethods: [GET, PUT]
          allowHeaders: [x-token]
          exposeHeaders: [x-more]
          maxAge: 1h
          allowCredentials: true
        route: [{destination: {host: echo}}]
    """,
    "missing": """
      - {match: [{uri: {prefix: /service}}], route: [{destination: {host: nobody}}]}
      - {match: [{uri: {prefix: /subset}}], route: [{destination: {host: echo, subset: v9}}]}
      - {match: [{uri: {prefix: /port}}], route: [{destination: {host: echo, port: {number: 99}}}]}
      - {match: [{uri: {prefix: /part}}], route: [{destination: {host: nobody}, weight: 50}, {destination: {host: echo}, weight: 50}]}
      - route: [{destination: {host: echo}}]
    """,
    "delegate": """
      - match: [{uri: {prefix: /team}, headers: {x-root: {}}}]
        timeout: 5s
        headers: {request: {add: {x-by: root}}}
        delegate: {name: team}
      - {match: [{uri: {prefix: /absent}}], delegate: {name: nobody}}
      - route: [{destination: {host: echo, subset: v1}}]
    """,
}
TEAM = """
    apiVersion: networking.istio.io/v1
    kind: VirtualService
    metadata: {name: team, namespace: shop}
    spec:
      http:
      - {match: [{uri: {prefix: /team/a}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{uri: {prefix: /elsewhere}}], route: [{destination: {host: echo, subset: v2}}]}
      - {match: [{method: {exact: PUT}}], route: [{destination: {host: echo, subset: v3}}]}
"""


TWO_PORTS = "[{name: http, port: 80, targetPort: 8080}, {name: http-too, port: 81, targetPort: 8080}]"
CLIENTS = (("page-1", "page", "10.9.0.1", ""), ("page-2", "page", "10.9.0.2", ", tier: gold"), ("till", "till", "10.9.0.3", ""))
"""Name, account, address and more labels. Whoever calls in these tests proves to be `page`, also from the address of `till`."""


def client(name: str, account: str, address: str, labels: str) -> str:
    return f"""
    kind: Pod
    apiVersion: v1
    metadata: {{name: {name}, namespace: team, labels: {{app: {account}{labels}, istio.io/dataplane-mode: ambient}}}}
    spec: {{nodeName: n1, serviceAccountName: {account}}}
    status: {{phase: Running, podIP: "{address}", conditions: [{{type: Ready, status: "True"}}]}}
"""


def virtual_service(name: str, routes: str) -> str:
    head = f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\n"
    body = textwrap.indent(textwrap.dedent(routes.strip("\n")), "  ")
    return f"{head}spec:\n  hosts: [{name}]\n  http:\n{body}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(upstream(name)) for name in ADDRESSES}
        served = Served()
        served.write("echo.yaml", echo_service("echo", 0), echo_pods(ADDRESSES), SUBSETS)
        served.write("services.yaml", *(echo_service(name, index + 1, TWO_PORTS) for index, name in enumerate(ROUTES)))
        served.write("clients.yaml", *(client(*one) for one in CLIENTS))
        for name, routes in ROUTES.items():
            if routes:
                served.write(f"{name}.yaml", virtual_service(name, routes))
        served.write("team.yaml", TEAM)
        where = tmp_path_factory.mktemp("envoy")
        yield stack.enter_context(routed(where, served, {address: servers[name] for name, address in ADDRESSES.items()}))


def test_weights_share_requests(mesh: Routed) -> None:
    counted = mesh.counted("canary", 200)
    assert set(counted) == {"v1", "v2"}
    assert 110 <= counted["v1"] <= 185, counted


def test_without_a_rule_requests_go_to_all_endpoints(mesh: Routed) -> None:
    assert set(mesh.counted("plain", 40)) == {"v1", "v2", "v3"}


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/", {}, "v1"),
        ("/exact", {}, "v2"),
        ("/exact?x=1", {}, "v2"),
        ("/exact/more", {}, "v1"),
        ("/PREfix", {}, "v2"),
        ("/r12", {}, "v2"),
        ("/r12x", {}, "v1"),
        ("/", {"x_user": "ann", "x_tier": "gold"}, "v2"),
        ("/", {"x_user": "ann"}, "v1"),
        ("/", {"x_user": "anna", "x_tier": "gold"}, "v1"),
        ("/", {"cookie": "a=b;user=jason;c=d"}, "v2"),
        ("/", {"cookie": "user=jasonx"}, "v1"),
        ("/?v=2", {}, "v2"),
        ("/?v=22", {}, "v1"),
        ("/without", {}, "v2"),
        ("/without", {"x_legacy": "1"}, "v1"),
        ("/unlike", {}, "v2"),
        ("/unlike", {"x_kind": "human"}, "v2"),
        ("/unlike", {"x_kind": "bot"}, "v1"),
        ("/port", {}, "v1"),
        ("/labels", {}, "v3"),
        ("/nobody", {}, "v1"),
        ("/untied", {}, "v1"),
        ("/from", {}, "v2"),
        ("/almost", {}, "v1"),
        ("/stranger", {}, "v1"),
        ("/gate", {}, "v3"),
        ("/scheme", {}, "v2"),
    ],
)
def test_conditions(mesh: Routed, path: str, headers: dict[str, str], expected: str) -> None:
    assert mesh.ask("matches", path, **headers).upstream == expected


def test_conditions_on_method_and_authority(mesh: Routed) -> None:
    assert mesh.ask("matches", method="PUT").upstream == "v2"
    assert mesh.ask("matches", method="DELETE").upstream == "v2"
    assert mesh.ask("matches", method="POST", body="x").upstream == "v1"
    assert mesh.ask("matches", host="special.example.com").upstream == "v2"


def test_conditions_on_port_and_on_the_clients_labels(mesh: Routed) -> None:
    assert mesh.ask("matches:81", "/port").upstream == "v2"
    for source, expected in (("127.0.0.1", "v3"), ("127.0.0.2", "v2"), ("127.0.0.3", "v1")):
        assert mesh.ask("matches", "/labels", source=source).upstream == expected
    assert mesh.ask("matches", "/nobody", source="127.0.0.3").upstream == "v1", "an address is somebody's only with his identity"


def test_what_no_route_takes_is_404(mesh: Routed) -> None:
    assert mesh.ask("only", "/only").status == 200
    assert mesh.ask("only", "/other").status == 404


def test_redirects(mesh: Routed) -> None:
    found = mesh.ask("redirect", "/a/b?q=1", host="redirect.shop")
    assert (found.status, found.headers["location"]) == (302, "http://other.example.com/new?q=1")
    assert mesh.ask("redirect", "/b", host="redirect.shop").headers["location"] == "https://redirect.shop:8443/b"
    found = mesh.ask("redirect", "/c", host="redirect.shop")
    assert (found.status, found.headers["location"]) == (301, "https://redirect.shop/c")


def test_answers_of_its_own(mesh: Routed) -> None:
    found = mesh.ask("direct", "/text")
    assert (found.status, found.body) == (418, b"short and stout")
    found = mesh.ask("direct", "/bytes")
    assert (found.body, found.headers["x-own"]) == (b"hello", "here")
    assert len(mesh.ask("direct", "/long").body) == 9000
    assert mesh.ask("direct", "/none").status == 503


def test_rewrites(mesh: Routed) -> None:
    echo = mesh.ask("rewrite", "/old/page?q=1").echo
    assert (echo["path"], echo["headers"]["host"]) == ("/new/page?q=1", "inner.example.com")
    assert mesh.ask("rewrite", "/v12/page?q=1").echo["path"] == "/page/12?q=1"


def test_header_operations(mesh: Routed) -> None:
    found = mesh.ask("headers", x_set="old", x_given="me", x_secret="s", x_dest="no")
    sent = found.echo["headers"]
    assert (sent["x-set"], sent["x-added"], sent["x-dest"], sent["host"]) == ("new", "from me 100%", "yes", "renamed.example.com")
    assert "x-secret" not in sent
    assert (found.headers["x-old"], found.headers["x-more"]) == ("changed", "1")


def test_mirrors(mesh: Routed) -> None:
    seen = {name: one.seen for name, one in mesh.upstreams.items()}
    for _ in range(10):
        assert mesh.ask("mirror", "/mirrored").upstream == "v1"
    until(lambda: seen["v2"]["/mirrored"] == 10)
    for _ in range(60):
        mesh.ask("mirror", "/half")
    until(lambda: seen["v3"]["/half"] >= 12)
    assert seen["v3"]["/half"] <= 48
    assert seen["v2"]["/half"] == 0


def test_timeouts(mesh: Routed) -> None:
    assert mesh.ask("slow", x_wait_s="2").status == 504
    assert mesh.ask("slow").status == 200
    assert mesh.ask("patient", x_wait_s="0.6").status == 200


def test_retries(mesh: Routed) -> None:
    assert mesh.ask("retries", "/default", x_id="a", x_fail="2").status == 200, "twice again, when 503 was answered"
    assert mesh.ask("retries", "/default", x_id="b", x_fail="3").status == 503
    assert mesh.ask("retries", "/off", x_id="c", x_fail="1").status == 503
    assert mesh.ask("retries", "/three", x_id="d", x_fail="3").status == 200
    assert mesh.ask("retries", "/reset", x_id="e", x_fail="1").status == 503, "503 is none of the conditions"
    assert mesh.ask("retries", "/try", x_wait_s="1").status == 504
    assert mesh.upstreams["v1"].seen["/try"] == 3


def test_faults(mesh: Routed) -> None:
    assert mesh.ask("fault", "/abort", x_chaos="yes").status == 555
    assert mesh.ask("fault", "/abort").status == 200
    assert 15 <= mesh.counted("fault", 60, "/half")["500"] <= 45
    assert mesh.ask("fault", "/grpc", content_type="application/grpc").headers["grpc-status"] == "14"
    began_s = time.monotonic()
    assert mesh.ask("fault", "/delay").status == 200
    assert time.monotonic() - began_s >= 0.29  # Envoy counts in milliseconds
    assert mesh.counted("fault", 20, "/unstated").keys() == {"v1", "v2", "v3"}, "no percentage: none"


def test_cors(mesh: Routed) -> None:
    def preflight(origin: str) -> dict[str, str]:
        found = mesh.ask("cors", method="OPTIONS", origin=origin, access_control_request_method="PUT")
        return {key: value for key, value in found.headers.items() if key.startswith("access-control-")}

    allowed = preflight("https://good.example.com")
    assert allowed == {
        "access-control-allow-origin": "https://good.example.com",
        "access-control-allow-methods": "GET,PUT",
        "access-control-allow-headers": "x-token",
        "access-control-max-age": "3600",
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "x-more",
    }
    assert preflight("https://a.team.example")["access-control-allow-origin"] == "https://a.team.example"
    assert preflight("https://bad.example.com") == {}
    assert mesh.ask("cors", origin="https://good.example.com").headers["access-control-expose-headers"] == "x-more"


def test_destinations_that_are_not_there_get_503_and_spoil_no_others(mesh: Routed) -> None:
    for path in ("/service", "/subset", "/port"):
        assert mesh.ask("missing", path).status == 503, path
    counted = mesh.counted("missing", 40, "/part")
    assert set(counted) >= {"503", "v1"}
    assert mesh.ask("missing", "/").status == 200


def test_delegates(mesh: Routed) -> None:
    found = mesh.ask("delegate", "/team/a", x_root="1")
    assert (found.upstream, found.echo["headers"]["x-by"]) == ("v2", "root")
    assert mesh.ask("delegate", "/team/a").upstream == "v1", "the root's conditions hold for its delegates"
    assert mesh.ask("delegate", "/team/b", method="PUT", x_root="1").upstream == "v3"
    assert mesh.ask("delegate", "/elsewhere", x_root="1").upstream == "v1", "a delegate takes nothing beyond them"
    assert mesh.ask("delegate", "/absent").upstream == "v1"
