"""Tracing as Envoy's connection managers have it: who collects spans, how many requests have them, and what is on them."""

from collections.abc import Iterable, Iterator
from typing import Any, Final, assert_never

from control.envoy.messages import Message, new, packed
from control.envoy.parts import IDENTITY, PEER, extension, seconds
from control.envoy.place import Place
from control.envoy.tracing_rules import Tracer, tracing_at
from control.envoy.world import World
from control.kinds.tracing import CustomTag, HTTPHeader, OpenTelemetryTracing, OTLPOverGRPC, OTLPOverHTTP, TraceContext, ZipkinTracing
from control.validation import durations

_TAG: Final = "envoy.type.tracing.v3.CustomTag"
_SPANS: Final = "/v1/traces"
_ZIPKIN_SPANS: Final = "/api/v2/spans"
_TELL_S: Final = 5.0
"""How long a collector may take."""
_EVERY: Final = {"value": 100.0}


def request_tracing(world: World, place: Place) -> dict[str, Any]:
    """The fields of a connection manager; none where nothing is traced."""
    tracer = world.ask(tracing_at, place).tracer
    if tracer is None:
        return {}
    fields: dict[str, Any] = {
        # Who asks for a trace gets one, and what the id of a request says was decided elsewhere stays so: chance decides of the others.
        "client_sampling": _EVERY,
        "overall_sampling": _EVERY,
        "random_sampling": {"value": tracer.percentage},
        "custom_tags": list(_tags(world, place, tracer)),
        "provider": _provider(tracer, f"{place.proxy.name}.{place.proxy.namespace}"),
    }
    if tracer.max_path_length:
        fields["max_path_tag_length"] = {"value": tracer.max_path_length}
    more: dict[str, Any] = {}
    if not tracer.sampled_by_id:
        kind = "request_id.uuid.v3.UuidRequestIdConfig"
        ids = extension("uuid", kind, use_request_id_for_trace_sampling={"value": False})
        more["request_id_extension"] = {"typed_config": ids["typed_config"]}
    return {"tracing": fields, **more}


def _provider(tracer: Tracer, producer: str) -> dict[str, Any]:
    collector, kind = tracer.collector, "envoy.config.trace.v3"
    match collector:
        case ZipkinTracing():
            config = new(f"{kind}.ZipkinConfig", **_zipkin(collector, tracer))
            return {"name": "envoy.tracers.zipkin", "typed_config": packed(config)}
        case OpenTelemetryTracing():
            told = _by_http(collector.http, tracer) if collector.http is not None else _by_grpc(collector.grpc or OTLPOverGRPC(), tracer)
            config = new(f"{kind}.OpenTelemetryConfig", service_name=producer, **told)
            return {"name": "envoy.tracers.opentelemetry", "typed_config": packed(config)}
    assert_never(collector)


def _zipkin(collector: ZipkinTracing, tracer: Tracer) -> dict[str, Any]:
    with_w3c = collector.trace_context_option is TraceContext.USE_B3_WITH_W3C_PROPAGATION
    return {
        "collector_endpoint_version": "HTTP_JSON",
        "trace_id_128bit": not collector.short_ids,
        # A span of its own for each proxy: they are not the client's half.
        "shared_span_context": {"value": False},
        "trace_context_option": "USE_B3_WITH_W3C_PROPAGATION" if with_w3c else "USE_B3",
        "collector_service": _service(tracer, collector.path or _ZIPKIN_SPANS, collector.timeout, collector.headers),
    }


def _by_http(told: OTLPOverHTTP, tracer: Tracer) -> dict[str, Any]:
    return {"http_service": _service(tracer, told.path or _SPANS, told.timeout, told.headers)}


def _by_grpc(told: OTLPOverGRPC, tracer: Tracer) -> dict[str, Any]:
    service: dict[str, Any] = {
        "envoy_grpc": {"cluster_name": tracer.cluster.name, "authority": tracer.cluster.hostname},
        "timeout": _timeout(told.timeout),
        "initial_metadata": [{"key": one.name.lower(), "value": one.value} for one in told.initial_metadata],
    }
    return {"grpc_service": service}


def _service(tracer: Tracer, path: str, timeout: str, headers: Iterable[HTTPHeader]) -> dict[str, Any]:
    uri = {
        "uri": f"http://{tracer.cluster.hostname}:{tracer.cluster.port}{path}",
        "cluster": tracer.cluster.name,
        "timeout": _timeout(timeout),
    }
    added = [{"header": {"key": one.name, "value": one.value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for one in headers]
    return {"http_uri": uri, "request_headers_to_add": added}


def _timeout(text: str) -> dict[str, int]:
    return seconds(durations.seconds(text) if text else _TELL_S)


def _tags(world: World, place: Place, tracer: Tracer) -> Iterator[Message]:
    """In the order of their names; who asks for one of ours gets his."""
    found = {**(_own_tags(world, place) if tracer.istio_tags else {}), **{name: _tag(tag) for name, tag in tracer.tags.items()}}
    for name, fields in sorted(found.items()):
        yield new(_TAG, tag=name, **fields)


def _own_tags(world: World, place: Place) -> dict[str, dict[str, Any]]:
    """Those that Istio has on every span: which proxy made it; and between whom, as far as certificates say."""
    literals = {
        "istio.canonical_service": place.proxy.name,
        "istio.canonical_revision": "latest",
        "istio.namespace": place.proxy.namespace,
        "istio.mesh_id": world.settings.trust_domain,
        "istio.cluster_id": world.settings.cluster,
    }
    formats = {
        "istio.source_principal": f"%FILTER_STATE({PEER}:PLAIN)%",
        "istio.destination_principal": f"%METADATA(UPSTREAM_HOST:{IDENTITY}:identity)%",
    }
    return {name: {"literal": {"value": value}} for name, value in literals.items()} | {
        name: {"value": value} for name, value in formats.items()
    }


def _tag(tag: CustomTag) -> dict[str, Any]:
    if tag.literal is not None:
        return {"literal": {"value": tag.literal.value}}
    if tag.header is not None:
        return {"request_header": {"name": tag.header.name, "default_value": tag.header.default_value}}
    return {"value": tag.formatter.value if tag.formatter is not None else ""}
