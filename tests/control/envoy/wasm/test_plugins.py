"""control/envoy/wasm: WasmPlugins as messages, and with real modules in a real Envoy."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from control.envoy.built import CLUSTER, LISTENER
from control.envoy.patches.allowed import opened
from control.envoy.patches.closed import closed
from control.kinds import ObjectKey
from control.kinds.metadata import Kind
from control.model.settings import MeshSettings
from control.validation.document import read_documents
from demo.cluster import eventually
from tests.control.envoy.echo import upstream
from tests.control.envoy.patches.envoy_filters import envoy_filter, inserted, lua
from tests.control.envoy.routed import Routed, echo_pods, echo_service, routed
from tests.control.envoy.test_waypoint import CLUSTER_NAME, Served, pod, service
from tests.control.envoy.validation import validate
from tests.control.envoy.wasm.modules import MARKS, REACHES, TRAPS, write

ADDRESSES = {"v1": "10.0.0.1"}
SHA = "0" * 64
HTTPS = "https://modules.example/a.wasm"
DENIED = """
    kind: AuthorizationPolicy
    apiVersion: security.istio.io/v1
    metadata: {name: no-one, namespace: shop}
    spec:
      targetRefs: [{kind: Service, group: "", name: cart}]
      action: DENY
      rules: [{to: [{operation: {paths: ["/secret"]}}]}]
---
    kind: RequestAuthentication
    apiVersion: security.istio.io/v1
    metadata: {name: r, namespace: shop}
    spec: {targetRefs: [{kind: Service, group: "", name: cart}], jwtRules: [{issuer: a, jwksUri: https://a.example/keys}]}
"""


def plugin(name: str, url: str, *services: str, namespace: str = "shop", **spec: Any) -> str:
    if services:
        spec["targetRefs"] = [{"kind": "Service", "group": "", "name": one} for one in services]
    meta = {"name": name, "namespace": namespace}
    manifest = {"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "metadata": meta, "spec": {"url": url, **spec}}
    return json.dumps(manifest)


def shop(*texts: str) -> Served:
    served = Served(settings=MeshSettings(wasm_sources=frozenset({"modules.example", "/opt/modules"})))
    served.write("services.yaml", service("cart", "10.96.0.1"), service("web", "10.96.0.2"), pod("cart-1", "cart", "10.0.0.1"))
    served.write("plugins.yaml", *texts)
    assert not [one.findings for one in served.config.mesh.records.values() if one.rejected]
    assert not served.view.failed
    return served


def row(served: Served, name: str = CLUSTER_NAME) -> dict[str, Any]:
    """The HTTP filters of a chain by the ends of their names."""
    (chain,) = (one for one in served.of(LISTENER)["main_internal"].filter_chains if one.name == name)
    filters = opened(chain.filters[-1].typed_config).http_filters
    return {one.name.rpartition("/")[2].removeprefix("envoy.filters.http."): opened(one.typed_config) for one in filters}


def test_a_module_that_is_fetched(tmp_path: Path) -> None:
    served = shop(
        plugin("a", HTTPS, "cart", sha256=SHA, pluginConfig={"x": 1}, pluginName="root", vmConfig={"env": [{"name": "A", "value": "b"}]})
    )
    config = row(served)["shop.a"].config
    remote = config.vm_config.code.remote
    assert (remote.http_uri.uri, remote.http_uri.cluster, remote.sha256) == (HTTPS, "keys|443|tls|modules.example", SHA)
    assert (config.root_id, opened(config.configuration).value) == ("root", '{"x":1}')
    assert dict(config.vm_config.environment_variables.key_values) == {"A": "b"}
    assert not config.vm_config.environment_variables.host_env_keys
    assert config.failure_policy == 2
    assert "proxy_call_foreign_function" not in config.capability_restriction_config.allowed_capabilities
    assert "proxy_grpc_stream" not in config.capability_restriction_config.allowed_capabilities
    assert "keys|443|tls|modules.example" in served.of(CLUSTER)
    assert "shop.a" not in row(served, CLUSTER_NAME.replace("cart", "web"))
    validate(tmp_path, served.view)


def test_where_plugins_stand() -> None:
    plugins = [
        plugin(phase.lower().replace("_", "-"), HTTPS, "cart", sha256=SHA, phase=phase)
        for phase in ("AUTHN", "AUTHZ", "STATS", "UNSPECIFIED_PHASE")
    ]
    found = list(row(shop(DENIED, *plugins, envoy_filter("lua", inserted(lua(""))))))
    judged = ["rbac.log", "rbac.deny", "rbac.allow"]
    plugged = ["shop.authn", "jwt_authn", "shop.authz", *judged, "fault", "shop.stats", "grpc_stats", "shop.unspecified-phase"]
    assert found == ["cors", *plugged, "lua", "router"]
    ordered = [plugin(name, HTTPS, sha256=SHA, priority=priority) for name, priority in (("low", 1), ("high", 9), ("none", 0))]
    assert [one for one in row(shop(*ordered)) if "shop" in one] == ["shop.high", "shop.low", "shop.none"]


@pytest.mark.parametrize(
    ("match", "there"),
    [
        ([{"mode": "SERVER"}], True),
        ([{"mode": "CLIENT"}], False),
        ([{"mode": "CLIENT_AND_SERVER", "ports": [{"number": 80}]}], True),
        ([{"ports": [{"number": 81}]}], False),
        ([{"ports": [{"number": 81}]}, {"ports": [{"number": 80}]}], True),
    ],
)
def test_what_it_matches(match: list[dict[str, Any]], there: bool) -> None:
    assert ("shop.a" in row(shop(plugin("a", HTTPS, "cart", sha256=SHA, match=match)))) is there


def test_whose_plugins_hold() -> None:
    assert "istio-system.a" in row(shop(plugin("a", HTTPS, namespace="istio-system", sha256=SHA)))
    assert "team.a" not in row(shop(plugin("a", HTTPS, namespace="team", sha256=SHA)))
    assert "shop.a" not in row(shop(plugin("a", HTTPS, sha256=SHA, selector={"matchLabels": {"x": "y"}})))


@pytest.mark.parametrize("url", ["https://elsewhere.example/a.wasm", "file:///opt/modules-2/a.wasm", "file:///etc/passwd"])
def test_a_module_from_elsewhere_fails_requests(url: str) -> None:
    served = shop(plugin("a", url, "cart", sha256=SHA))
    assert row(served)["shop.a"].abort.http_status == 503
    assert any("requests fail" in one.what for one in served.view.problems)
    assert not [name for name in served.of(CLUSTER) if "elsewhere" in name], "nobody is asked"
    missed = shop(plugin("a", url, "cart", sha256=SHA, failStrategy="FAIL_OPEN"))
    assert "shop.a" not in row(missed)
    assert any("it is missed" in one.what for one in missed.view.problems)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"url": "oci://registry.example/a:1"}, "image"),
        ({"url": "registry.example/a:1"}, "image"),
        ({"url": HTTPS}, "needs its SHA-256"),
        ({"url": HTTPS, "sha256": "x"}, "no SHA-256"),
        ({"url": "ftp://a.example/b", "sha256": SHA}, "neither of"),
        ({"url": "https://user@a.example/b", "sha256": SHA}, "no plain address"),
        ({"url": "https://127.0.0.1/b", "sha256": SHA}, "no host name"),
        ({"url": "https://localhost/b", "sha256": SHA}, "own name"),
        ({"url": "https://*.example/b", "sha256": SHA}, "no single host"),
        ({"url": "https://a.example:99999/b", "sha256": SHA}, "no address"),
        ({"url": "file:///opt/modules/../../etc/passwd"}, "no absolute path"),
        ({"url": "file://host/a"}, "no absolute path"),
        ({"url": HTTPS, "sha256": SHA, "type": "NETWORK"}, "not supported"),
        ({"url": HTTPS, "sha256": SHA, "vmConfig": {"env": [{"name": "HOME", "valueFrom": "HOST"}]}}, "environment"),
        ({"url": HTTPS, "sha256": SHA, "verificationKey": "x"}, "nobody would verify"),
        ({"url": HTTPS, "sha256": SHA, "nothing": 1}, "unknown field"),
        ({"sha256": SHA}, "url"),
    ],
)
def test_what_is_refused(spec: dict[str, Any], words: str) -> None:
    manifest = {
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": spec,
    }
    (document,) = read_documents(json.dumps(manifest), "a.yaml", "istio-system")
    assert document.object is None
    assert any(words in one.what for one in document.findings), document.findings
    assert document.closed is not None, "it fails requests where it can't be known what was there before"


def test_what_stands_in_for_one() -> None:
    served = shop(plugin("a", HTTPS, "cart", sha256=SHA))
    item = served.config.mesh.store.get(ObjectKey(Kind.WASM_PLUGIN, "shop", "a"))
    assert item is not None
    assert closed(item).spec.url == ""
    served.world.stand_in({item.key: closed(item)})
    served.view.refresh()
    assert row(served)["shop.a"].abort.http_status == 503


# ---- real modules


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Files, and a server of them on loopback."""
    directory = tmp_path_factory.mktemp("modules")
    for name, text in (("marks", MARKS), ("traps", TRAPS), ("reaches", REACHES)):
        write(directory, name, text)
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield directory, server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Envoy writes its log."""
    return tmp_path_factory.mktemp("wasm")


@pytest.fixture(scope="module")
def requests(home: Path, modules: tuple[Path, int]) -> Iterator[Routed]:
    directory, port = modules
    _, sha = write(directory, "marks", MARKS)

    def local(name: str, module: str, **spec: Any) -> str:
        return plugin(name, f"file://{directory}/{module}.wasm", name, **spec)

    def fetched(name: str, sha256: str) -> str:
        return plugin(name, f"http://modules.example:{port}/marks.wasm", name, sha256=sha256)

    plugins = (
        local("marked", "marks", pluginConfig={"a": "b"}),
        local("trapped", "traps"),
        local("missed", "traps", failStrategy="FAIL_OPEN"),
        local("confined", "reaches"),
        fetched("fetched", sha),
        fetched("forged", SHA),
    )
    names = ("marked", "trapped", "missed", "confined", "fetched", "forged")
    with ExitStack() as stack:
        servers = {address: stack.enter_context(upstream(name)) for name, address in ADDRESSES.items()}
        served = Served(settings=MeshSettings(wasm_sources=frozenset({"modules.example", str(directory)})))
        served.write("services.yaml", echo_pods(ADDRESSES), *(echo_service(name, n) for n, name in enumerate(names)))
        served.write("plugins.yaml", *plugins)
        assert not [one.findings for one in served.config.mesh.records.values() if one.rejected]
        yield stack.enter_context(routed(home, served, servers, hosts={"modules.example": "127.0.0.1"}))


def test_requests_pass_a_module(requests: Routed) -> None:
    found = requests.ask("marked").echo["headers"]
    assert (found["x-wasm"], json.loads(found["x-configured"])) == ("seen", {"a": "b"})


def test_one_that_fails_closes_or_is_missed(requests: Routed) -> None:
    assert requests.ask("trapped").status in {500, 503}
    assert requests.ask("trapped").status in {500, 503}, "and goes on failing"
    # The request at which it fails is lost; from then on it is missed.
    eventually(lambda: requests.ask("missed").status == 200, "requests without it")


def test_what_reaches_beyond_its_requests_is_not_there(requests: Routed, home: Path) -> None:
    found = requests.ask("confined").echo["headers"]
    # What Envoy answers to what a module may not ask for.
    internal_failure = chr(ord("a") + 10)
    assert (found["x-foreign"], found["x-stream"]) == (internal_failure, internal_failure)
    log = home / "envoy.log"
    for name in ("proxy_call_foreign_function", "proxy_grpc_stream"):
        eventually(lambda name=name: f"restricted proxy-wasm capability: {name}" in log.read_text(), name)


def test_a_module_that_is_fetched_runs_if_it_is_the_one_that_was_named(requests: Routed) -> None:
    eventually(lambda: requests.ask("fetched").status == 200, "its module")
    assert requests.ask("fetched").echo["headers"]["x-wasm"] == "seen"
    assert requests.ask("forged").status in {500, 503}
