"""control/envoy/patches: which patches are taken, and why others are not."""

import re
from base64 import b64encode
from contextlib import suppress
from importlib import resources
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from hypothesis import given, settings
from hypothesis import strategies as st

from control.envoy.external import _EXTERNAL
from control.envoy.limits.counting import NAME as LIMITS
from control.envoy.listeners.callers import LUA as CALLERS
from control.envoy.messages import message_class, pool
from control.envoy.naming import DIRECT, DIRECT_PLAIN, INTERNAL, ORIGINATE, SNIFFING, TERMINATE
from control.envoy.parts import SDS_CLUSTER
from control.envoy.patches.allowed import _PACKAGES, _REFUSED, _REFUSED_MESSAGES, OWN_CLUSTERS, SECURING, TYPES, PatchError, opened
from control.envoy.patches.lua import PRELUDE
from control.envoy.patches.reading import _MESSAGES, ReadPatch, read_patch
from control.envoy.rbac.filters import HTTP_RBAC, SEATS
from control.envoy.rbac.matchers import JWT_FILTER
from control.kinds.envoy_filter import ApplyTo, ConfigPatch, Operation
from control.validation.document import read_documents
from control.waypoint.bootstrap import ADS_CLUSTER
from tests.control.envoy.patches.envoy_filters import MANAGER, envoy_filter, http_filter, inserted, lua, patch, typed
from tests.control.envoy.patches.envoy_filters import TYPES as PREFIX


def read(written: dict[str, Any]) -> ReadPatch:
    return read_patch(msgspec.convert(written, ConfigPatch))


def cluster(name: str = "extra", address: str = "192.0.2.1", **fields: Any) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": address, "port_value": 8081}}}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return patch("CLUSTER", "ADD", {"name": name, "type": "STRICT_DNS", "connect_timeout": "1s", "load_assignment": assignment, **fields})


def manager(operation: str = "MERGE", **fields: Any) -> dict[str, Any]:
    value = {"name": MANAGER, "typed_config": typed("filters.network.http_connection_manager.v3.HttpConnectionManager", **fields)}
    return patch("NETWORK_FILTER", operation, value, listener={"filterChain": {"filter": {"name": MANAGER}}})


def route(operation: str = "MERGE", **fields: Any) -> dict[str, Any]:
    return patch("HTTP_ROUTE", operation, fields)


TAKEN = {
    "lua": inserted(lua("x = 1")),
    "lua of former documents": inserted(http_filter("l", "lua.v3.Lua", inlineCode="x = 1")),
    "a TypedStruct": inserted(
        {
            "name": "limit",
            "typed_config": {
                "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
                "type_url": f"{PREFIX}.filters.http.local_ratelimit.v3.LocalRateLimit",
                "value": {"stat_prefix": "limit"},
            },
        },
        sub_filter="",
    ),
    "a cluster": cluster(address="ratelimit.example", http2_protocol_options={}),
    "a cluster with TLS": cluster(
        transport_socket={
            "name": "envoy.transport_sockets.tls",
            "typed_config": typed(
                "transport_sockets.tls.v3.UpstreamTlsContext",
                sni="a.example",
                common_tls_context={"validation_context": {"trusted_ca": {"filename": "/etc/ssl/certs/ca-certificates.crt"}}},
            ),
        }
    ),
    "idle timeout": manager(common_http_protocol_options={"idle_timeout": "30s"}),
    "rate limit actions": patch(
        "VIRTUAL_HOST",
        "MERGE",
        {"rate_limits": [{"actions": [{"request_headers": {"header_name": ":path", "descriptor_key": "PATH"}}]}]},
    ),
    "a route's limit": route(
        typed_per_filter_config={
            "envoy.filters.http.local_ratelimit": typed("filters.http.local_ratelimit.v3.LocalRateLimit", stat_prefix="a")
        }
    ),
    "removal": patch("CLUSTER", "REMOVE", cluster={"service": "a.shop.svc.cluster.local"}),
}
REFUSED = {
    "too much": (inserted(lua("-" * 70_000)), "more than 64 KiB"),
    "no value": (patch("HTTP_ROUTE", "ADD"), "no value"),
    "an unknown field": (route(nothing=1), 'no field named "nothing"'),
    "an unknown type": (inserted(http_filter("x", "nothing.v3.Nothing")), "nothing.v3.Nothing"),
    "a wrong value": (cluster(connect_timeout="soon"), "is no Cluster"),
    "bootstrap": (patch("BOOTSTRAP", "MERGE", {"node": {}}), "how an Envoy starts"),
    "extension config": (patch("EXTENSION_CONFIG", "ADD", {"name": "x"}), "WasmPlugin"),
    "a listener": (patch("LISTENER", "ADD", {"name": "x"}), "can't be patched by ADD"),
    "a chain": (patch("FILTER_CHAIN", "ADD", {"name": "x"}), "can't be patched by ADD"),
    "a waypoint's listener": (
        patch("LISTENER", "MERGE", {"tcp_backlog_size": 1}, context="WAYPOINT", waypoint={}),
        "those of all its services",
    ),
    "two matches": (patch("CLUSTER", "MERGE", {"name": "x"}, cluster={}, listener={}), "several"),
    "a file": (inserted(http_filter("l", "lua.v3.Lua", default_source_code={"filename": "/etc/passwd"})), "files"),
    "the environment": (
        inserted(http_filter("l", "lua.v3.Lua", default_source_code={"environment_variable": "NODEMESH_WAYPOINT_TOKEN"})),
        "environment",
    ),
    "a file in a TypedStruct": (
        inserted(
            {
                "name": "l",
                "typed_config": {
                    "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
                    "type_url": f"{PREFIX}.filters.http.lua.v3.Lua",
                    "value": {"default_source_code": {"filename": "/etc/passwd"}},
                },
            }
        ),
        "files",
    ),
    "an answer with a file": (route(direct_response={"status": 200, "body": {"filename": "/etc/passwd"}}), "files"),
    "an operator for files": (
        route(response_headers_to_add=[{"header": {"key": "x", "value": "%FILE_CONTENT(/etc/passwd)%"}}]),
        "FILE_CONTENT",
    ),
    "an operator for the environment": (
        route(response_headers_to_add=[{"header": {"key": "x", "value": "%ENVIRONMENT(HOME)%"}}]),
        "ENVIRONMENT",
    ),
    "an operator for the environment in a format of bytes": (
        manager(local_reply_config={"body_format": {"text_format_source": {"inline_bytes": b64encode(b"%ENVIRONMENT(HOME)%").decode()}}}),
        "ENVIRONMENT",
    ),
    "an operator for the environment in a header of bytes": (
        route(response_headers_to_add=[{"header": {"key": "x", "raw_value": b64encode(b"%ENVIRONMENT(HOME)%").decode()}}]),
        "ENVIRONMENT",
    ),
    "the counts of RateLimits": (
        inserted(http_filter("l", "ratelimit.v3.RateLimit", domain="nodemesh.io/shop/cart", rate_limit_service={})),
        "RateLimits",
    ),
    "the metrics of RateLimits": (
        inserted(http_filter("l", "local_ratelimit.v3.LocalRateLimit", stat_prefix="rate_limit.pay.cart")),
        "counted of RateLimits",
    ),
    "a socket of the host": (
        cluster(load_assignment={"endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/x"}}}}]}]}),
        "sockets",
    ),
    "an internal listener": (
        cluster(
            load_assignment={
                "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "main_internal"}}}}]}
                ]
            }
        ),
        "own listeners",
    ),
    "loopback": (cluster(address="127.0.0.1"), "loopback"),
    "loopback of version 6": (cluster(address="::1"), "loopback"),
    "loopback within version 6": (cluster(address="::ffff:127.0.0.1"), "embedded"),
    "localhost": (cluster(address="localhost"), "own name"),
    "a name below localhost": (cluster(address="a.localhost"), "own name"),
    "a cloud's metadata": (cluster(address="169.254.169.254"), "metadata"),
    "an address in one number": (cluster(address="2130706433"), "is no host name"),
    "an address in short": (cluster(address="127.1"), "is no host name"),
    "an address in hexadecimal": (cluster(address="0x7f.0.0.1"), "is no host name"),
    "the process beside": (route("ADD", match={"prefix": "/"}, route={"cluster": "sds-grpc"}), "own path"),
    "the process beside, by weight": (
        route(route={"weighted_clusters": {"clusters": [{"name": "sds-grpc", "weight": 1}]}}),
        "own path",
    ),
    "the process beside, by mirror": (
        route(route={"cluster": "a", "request_mirror_policies": [{"cluster": "xds-grpc"}]}),
        "own path",
    ),
    "the process beside, by gRPC": (
        inserted(http_filter("e", "ext_authz.v3.ExtAuthz", grpc_service={"envoy_grpc": {"cluster_name": "sds-grpc"}})),
        "own path",
    ),
    "Google's client": (
        inserted(http_filter("e", "ext_authz.v3.ExtAuthz", grpc_service={"google_grpc": {"target_uri": "unix:/x", "stat_prefix": "x"}})),
        "envoy_grpc",
    ),
    "a cluster of the caller's choice": (route(route={"cluster_header": "x-to"}), "would choose"),
    "a tunnel": (route(route={"cluster": "a", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}), "connect_config"),
    "the name of a cluster of the mesh": (cluster(name="inbound-vip|80|http|a.shop.svc.cluster.local"), "no name"),
    "the name of a cluster of the path": (cluster(name="connect_originate"), "own path"),
    "where the connection was to": (cluster(type="ORIGINAL_DST"), "is LOGICAL_DNS"),
    "endpoints from elsewhere": (cluster(eds_cluster_config={"eds_config": {"path": "/etc/x"}}), "in place"),
    "a kept secret": (
        cluster(
            transport_socket={
                "name": "tls",
                "typed_config": typed(
                    "transport_sockets.tls.v3.UpstreamTlsContext",
                    common_tls_context={"tls_certificate_sds_secret_configs": [{"name": "default"}]},
                ),
            }
        ),
        "secrets",
    ),
    "keys into a file": (
        cluster(
            transport_socket={
                "name": "tls",
                "typed_config": typed(
                    "transport_sockets.tls.v3.UpstreamTlsContext", common_tls_context={"key_log": {"path": "/tmp/x"}}
                ),
            }
        ),
        "files",
    ),
    "another transport": (
        patch("CLUSTER", "MERGE", {"transport_socket": {"name": "raw"}}),
        "transport_socket of a Cluster is not changed",
    ),
    "other endpoints": (patch("CLUSTER", "MERGE", {"load_assignment": {"cluster_name": "x"}}), "not changed"),
    "who a host must prove to be": (
        patch(
            "CLUSTER",
            "MERGE",
            {
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                        "upstreams.http.v3.HttpProtocolOptions", upstream_http_protocol_options={"auto_sni": False}
                    )
                }
            },
        ),
        "not changed",
    ),
    "filters in one": (manager(http_filters=[lua("")]), "http_filters"),
    "paths as they come": (manager(normalize_path=False), "normalize_path"),
    "an upgrade around": (manager(upgrade_configs=[{"upgrade_type": "websocket", "filters": [lua("")]}]), "same filters"),
    "hops at a waypoint": (manager(xff_num_trusted_hops=5), "GATEWAY"),
    "two lengths": (manager(http_protocol_options={"allow_chunked_length": True}), "two lengths"),
    "a script ahead of what secures": (inserted(lua(""), "INSERT_FIRST", ""), "ahead of what secures"),
    "a script in front": (inserted(lua(""), sub_filter=""), "ahead of what secures"),
    "a script ahead of policies": (inserted(lua(""), sub_filter=HTTP_RBAC), "ahead of what secures"),
    "a script between": (patch("HTTP_FILTER", "ADD", lua(""), "AUTHN"), "ahead of what secures"),
    "headers ahead of what secures": (
        inserted(
            http_filter(
                "l",
                "local_ratelimit.v3.LocalRateLimit",
                stat_prefix="x",
                request_headers_to_add_when_not_enforced=[{"header": {"key": "x", "value": "y"}}],
            ),
            sub_filter="",
        ),
        "adds no headers",
    ),
    "a script in a Struct": (
        route(
            typed_per_filter_config={
                "lua": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"source_code": {"inline_string": "os.exit()"}}}
            }
        ),
        "google.protobuf.Struct is not among",
    ),
    "a script in a wrapping": (
        route(
            typed_per_filter_config={
                "lua": {
                    "@type": "type.googleapis.com/google.protobuf.Any",
                    "value": typed("filters.http.lua.v3.LuaPerRoute", source_code={"inline_string": "os.exit()"}),
                }
            }
        ),
        "google.protobuf.Any is not among",
    ),
    "a route without policies": (
        route(typed_per_filter_config={HTTP_RBAC: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}}),
        "what secures",
    ),
    "a route without a look at callers": (
        route(typed_per_filter_config={CALLERS: typed("filters.http.lua.v3.LuaPerRoute", disabled=True)}),
        "what secures",
    ),
    "another identity": (
        inserted(
            http_filter(
                "s",
                "set_filter_state.v3.Config",
                on_request_headers=[{"object_key": "io.istio.peer_principal", "format_string": {"text_format": "spiffe://x"}}],
            )
        ),
        "SetFilterState|set_filter_state",
    ),
    "a shared library": (inserted(http_filter("d", "dynamic_modules.v3.DynamicModuleFilter", filter_name="x")), "not among"),
    "a module": (inserted(http_filter("w", "wasm.v3.Wasm")), "not among"),
    "the host's own rights": (inserted(http_filter("a", "aws_request_signing.v3.AwsRequestSigning")), "not among"),
    "any host": (inserted(http_filter("d", "dynamic_forward_proxy.v3.FilterConfig")), "not among"),
    "a log into a file": (
        inserted(
            http_filter(
                "r",
                "grpc_json_transcoder.v3.GrpcJsonTranscoder",
                proto_descriptor="/etc/passwd",
                services=["a"],
            )
        ),
        "name no file",
    ),
    "keys from anywhere": (
        inserted(
            http_filter(
                "j",
                "jwt_authn.v3.JwtAuthentication",
                providers={"a": {"remote_jwks": {"http_uri": {"uri": "http://a", "cluster": "a", "timeout": "1s"}}}},
            )
        ),
        "allowed hosts",
    ),
    "a second router": (inserted(http_filter("r", "router.v3.Router")), "no HTTP filter that can be added"),
    "no name": (inserted({"typed_config": typed("filters.http.buffer.v3.Buffer")}), "has a name"),
    "no configuration": (inserted({"name": "x"}), "typed_config"),
    "nothing named": (patch("HTTP_FILTER", "REMOVE"), "needs the name"),
    "a connection's end": (
        patch("NETWORK_FILTER", "INSERT_FIRST", {"name": "e", "typed_config": typed("filters.network.echo.v3.Echo")}),
        "not among",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken(case: str) -> None:
    read(TAKEN[case])


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    written, words = REFUSED[case]
    with pytest.raises(PatchError, match=words):
        read(written)


def test_scripts_are_confined_wherever_they_stand() -> None:
    sources = {"a": {"inline_string": "y = 2"}, "b": {"inline_bytes": "eiA9IDM="}}
    found = opened(read(inserted(http_filter("l", "lua.v3.Lua", inline_code="x = 1", source_codes=sources))).message.typed_config)
    assert found.inline_code == PRELUDE + "x = 1"
    assert {key: found.source_codes[key].inline_string for key in "ab"} == {"a": PRELUDE + "y = 2", "b": PRELUDE + "z = 3"}
    of_route = typed("filters.http.lua.v3.LuaPerRoute", source_code={"inline_string": "x = 1"})
    within = read(route(typed_per_filter_config={"lua": of_route})).message.typed_per_filter_config["lua"]
    assert opened(within).source_code.inline_string == PRELUDE + "x = 1"
    wrapped = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": of_route}
    inner = opened(opened(read(route(typed_per_filter_config={"lua": wrapped})).message.typed_per_filter_config["lua"]).config)
    assert inner.source_code.inline_string == PRELUDE + "x = 1"
    assert "\n" not in PRELUDE, "Envoy names lines as they are written"
    with pytest.raises(PatchError, match="a text"):
        read(inserted(http_filter("l", "lua.v3.Lua", default_source_code={"inline_bytes": "G0xKAv8="})))


def test_names_are_those_of_the_mesh() -> None:
    assert {JWT_FILTER, HTTP_RBAC, *SEATS.values(), _EXTERNAL, CALLERS, LIMITS} == SECURING
    assert {ADS_CLUSTER, SDS_CLUSTER, ORIGINATE, TERMINATE, INTERNAL, SNIFFING, DIRECT, DIRECT_PLAIN} == OWN_CLUSTERS
    for name in TYPES:
        message_class(name)


def test_an_object_is_taken_whole_or_not_at_all() -> None:
    text = envoy_filter("two", inserted(lua("")), route(nothing=1))
    (document,) = read_documents(text, "filters.yaml", "istio-system")
    assert document.object is None
    assert [one.what for one in document.findings if re.search("nothing", one.what)]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (patch("HTTP_FILTER", "ADD", lua(""), context="SIDECAR_INBOUND"), "never matches: there are no sidecars"),
        (patch("HTTP_FILTER", "ADD", lua(""), proxy={"proxyVersion": "^1.20.*"}), "never matches"),
        (patch("HTTP_FILTER", "ADD", lua(""), proxy={"metadata": {"CLUSTER_ID": "x"}}), "never matches"),
    ],
)
def test_what_never_matches_is_said(written: dict[str, Any], words: str) -> None:
    (document,) = read_documents(envoy_filter("one", written), "filters.yaml", "istio-system")
    assert document.object is not None
    assert any(words in one.what for one in document.findings)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
FIELDS = st.sampled_from(["name", "@type", "typed_config", "route", "match", "value", "type_url", "domains", "routes", "x"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
    max_leaves=12,
)
KINDS = st.sampled_from(
    [f"type.googleapis.com/{name}" for name in sorted(TYPES)] + ["type.googleapis.com/udpa.type.v1.TypedStruct", "x", ""]
)


@given(
    apply_to=st.sampled_from(ApplyTo),
    operation=st.sampled_from(Operation),
    value=st.dictionaries(st.sampled_from(["name", "typed_config", "routes", "match", "route", "type"]), JSON, max_size=4),
    kind=KINDS,
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_written_is_taken_or_refused(apply_to: ApplyTo, operation: Operation, value: dict[str, Any], kind: str) -> None:
    if isinstance(value.get("typed_config"), dict):
        value["typed_config"]["@type"] = kind
    written = {"applyTo": apply_to.value, "patch": {"operation": operation.value, "value": value}}
    # Anything else that is raised fails here.
    with suppress(PatchError):
        read(written)


def test_nothing_that_may_be_reached_names_what_is_the_hosts() -> None:
    """Whatever Envoy's next version has: a field for a file, or a program, below what patches may hold is to be looked at."""
    files = FileDescriptorSet.FromString(resources.files("control.envoy").joinpath("envoy.binpb").read_bytes()).file
    known = (f"{file.package}.{message.name}" for file in files for message in file.message_type)
    waiting = [*TYPES, *_MESSAGES.values(), *(name for name in known if name.startswith(_PACKAGES))]
    seen: set[str] = set()
    suspicious: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in _REFUSED_MESSAGES:
            continue
        seen.add(name)
        for field in pool().FindMessageTypeByName(name).fields:
            if (name, field.name) in _REFUSED:
                continue
            if field.message_type is not None:
                waiting.append(field.message_type.full_name)
            elif field.cpp_type == field.CPPTYPE_STRING and re.search(
                r"file|(?<!re)dir|sock|command|exec|librar|module|pipe|env_", field.name
            ):
                suspicious.add(f"{name}.{field.name}")
    assert len(seen) > 300
    assert suspicious == set()
