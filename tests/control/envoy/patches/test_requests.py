"""EnvoyFilters as requests see them: a real Envoy with what the controller makes of them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from control.envoy.patches.lua import GONE
from tests.control.envoy.echo import upstream
from tests.control.envoy.patches.envoy_filters import envoy_filter, http_filter, inserted, lua, patch
from tests.control.envoy.routed import Routed, echo_pods, echo_service, routed
from tests.control.envoy.test_waypoint import Served

ADDRESSES = {"v1": "10.0.0.1"}
SCRIPT = """
function envoy_on_request(handle)
  if handle:headers():get("x-stop") then
    handle:respond({[":status"] = "418"}, "stopped by a script")
  end
  handle:headers():add("x-seen", "by lua at " .. tostring(os.time() > 0))
end
function envoy_on_response(handle)
  handle:headers():add("x-lua", "yes")
end
"""
PROBE = """
local function there(name) return _G[name] ~= nil end
function envoy_on_request(handle)
  local found = {}
  for _, name in ipairs({NAMES}) do if there(name) then found[#found + 1] = name end end
  for _, name in ipairs({"execute", "getenv", "exit", "remove", "rename", "tmpname", "setlocale"}) do
    if os[name] ~= nil then found[#found + 1] = "os." .. name end
  end
  for _, one in ipairs({handle, handle:headers(), handle:streamInfo(), ""}) do
    if getmetatable(one) ~= nil then found[#found + 1] = "the metatable of " .. tostring(one) end
  end
  local own = setmetatable({}, {__index = {kept = true}})
  if not (own.kept and getmetatable(own).__index.kept) then found[#found + 1] = "not even its own" end
  if ("").dump ~= nil then found[#found + 1] = "string.dump" end
  handle:headers():replace("x-found", "[" .. table.concat(found, " ") .. "]")
end
""".replace("NAMES", ", ".join(f'"{name}"' for name in GONE))
LIMIT = http_filter(
    "envoy.filters.http.local_ratelimit",
    "local_ratelimit.v3.LocalRateLimit",
    stat_prefix="limit",
    token_bucket={"max_tokens": 2, "tokens_per_fill": 1, "fill_interval": "3600s"},
    filter_enabled={"default_value": {"numerator": 100}},
    filter_enforced={"default_value": {"numerator": 100}},
)
REROUTED = """
    kind: VirtualService
    apiVersion: networking.istio.io/v1
    metadata: {name: rerouted, namespace: shop}
    spec: {hosts: [rerouted], http: [{match: [{uri: {exact: /open}}], route: [{destination: {host: rerouted}}]}]}
---
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: puts, namespace: shop}
    spec: {targetRefs: [{kind: Service, group: "", name: rerouted}], rules: [{to: [{operation: {methods: [PUT]}}]}]}
"""
REROUTING = """
function envoy_on_request(handle)
  if handle:headers():get(":path") == "/hidden" then
    handle:headers():replace(":path", "/open")
    handle:clearRouteCache()
  end
end
"""
DENIED = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: no-one, namespace: shop}
    spec:
      targetRefs: [{kind: Service, group: "", name: guarded}]
      action: DENY
      rules: [{to: [{operation: {paths: ["/secret"]}}]}]
"""
ASKING = """
function envoy_on_request(handle)
  local headers = handle:httpCall("acl", {[":method"] = "GET", [":path"] = "/acl", [":authority"] = "acl.example"}, "", 5000)
  if headers[":status"] ~= "200" then
    handle:respond({[":status"] = "403"}, "the list says no")
  end
end
"""
HEALTH = {"name": "health", "match": {"path": "/health"}, "direct_response": {"status": 204}}
MARKED = {"response_headers_to_add": [{"header": {"key": "x-host", "value": "marked"}}]}
MUTATED = {"request_mutations": [{"append": {"header": {"key": "x-added", "value": "%REQ(:path)%"}}}, {"remove": "x-gone"}]}


def acl(port: int) -> str:
    """The example of Istio's documents: a script that asks another host, and the cluster of that host."""
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "acl.example", "port_value": port}}}}
    assignment = {"cluster_name": "acl", "endpoints": [{"lb_endpoints": [endpoint]}]}
    cluster = {"name": "acl", "type": "STRICT_DNS", "connect_timeout": "5s", "load_assignment": assignment}
    return envoy_filter("acl", inserted(lua(ASKING)), patch("CLUSTER", "ADD", cluster), services=("asking",))


FILTERS = (
    envoy_filter("rerouting", inserted(lua(REROUTING)), services=("rerouted",)),
    envoy_filter("health", patch("HTTP_ROUTE", "INSERT_FIRST", HEALTH), services=("routed",)),
    envoy_filter("marked", patch("VIRTUAL_HOST", "MERGE", MARKED), services=("routed",)),
    envoy_filter("hasty", patch("HTTP_ROUTE", "MERGE", {"route": {"timeout": "0.2s"}}), services=("hasty",)),
    envoy_filter("mutated", inserted(http_filter("mutate", "header_mutation.v3.HeaderMutation", mutations=MUTATED)), services=("mutated",)),
    envoy_filter("script", inserted(lua(SCRIPT)), services=("scripted", "guarded")),
    envoy_filter("probe", inserted(lua(PROBE)), services=("probed",)),
    envoy_filter("limit", inserted(LIMIT, sub_filter=""), services=("limited",)),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    with ExitStack() as stack:
        servers = {address: stack.enter_context(upstream(name)) for name, address in ADDRESSES.items()}
        served = Served()
        names = ("plain", "scripted", "guarded", "probed", "limited", "routed", "hasty", "mutated", "asking", "rerouted")
        lists = stack.enter_context(upstream("acl"))
        served.write("services.yaml", echo_pods(ADDRESSES), *(echo_service(name, n) for n, name in enumerate(names)))
        served.write("filters.yaml", DENIED, REROUTED, *FILTERS, acl(lists.port))
        assert not [one.findings for one in served.config.mesh.records.values() if one.rejected]
        yield stack.enter_context(
            routed(tmp_path_factory.mktemp("patched"), served, {**servers, "acl": lists}, hosts={"acl.example": "127.0.0.1"})
        )


def test_a_script_sees_requests_and_answers(shop: Routed) -> None:
    answer = shop.ask("scripted")
    assert (answer.status, answer.headers["x-lua"]) == (200, "yes")
    assert answer.echo["headers"]["x-seen"] == "by lua at true"
    stopped = shop.ask("scripted", x_stop="1")
    assert (stopped.status, stopped.body) == (418, b"stopped by a script")
    assert "x-lua" not in shop.ask("plain").headers, "other services are not touched"


def test_a_script_has_nothing_of_the_host(shop: Routed) -> None:
    assert shop.ask("probed").echo["headers"]["x-found"] == "[]"


def test_what_secures_comes_before_a_script(shop: Routed) -> None:
    assert shop.ask("guarded", "/secret", x_stop="1").status == 403
    assert shop.ask("guarded", "/open", x_stop="1").status == 418


def test_a_limit_counts_requests(shop: Routed) -> None:
    assert shop.counted("limited", 4) == {"v1": 2, "429": 2}


def test_routes_and_hosts_as_they_are_patched(shop: Routed) -> None:
    assert shop.ask("routed", "/health").status == 204
    assert (shop.ask("routed", "/other").status, shop.ask("routed", "/other").headers["x-host"]) == (200, "marked")
    assert shop.ask("hasty", x_wait_s="5").status == 504
    assert shop.ask("hasty").status == 200
    assert shop.ask("plain", "/health").status == 200


def test_headers_that_are_mutated(shop: Routed) -> None:
    found = shop.ask("mutated", "/there", x_gone="1").echo["headers"]
    assert (found["x-added"], "x-gone" in found) == ("/there", False)


def test_a_script_asks_another_host(shop: Routed) -> None:
    lists = shop.upstreams["acl"]
    assert shop.ask("asking").status == 200
    assert lists.asked == 1
    lists.failing = 500
    assert (shop.ask("asking").status, shop.ask("asking").body) == (403, b"the list says no")


def test_a_script_gives_no_route_to_what_nobody_has_judged(shop: Routed) -> None:
    """Policies come with the routes: a request without one meets none, and must not find one behind them."""
    assert shop.ask("rerouted", "/open", method="PUT").status == 200
    assert shop.ask("rerouted", "/open").status == 403
    assert shop.ask("rerouted", "/hidden").status == 403
    assert shop.ask("rerouted", "/hidden", method="PUT").status == 403, "without a route nobody is let in"
