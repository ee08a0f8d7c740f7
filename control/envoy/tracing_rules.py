"""Whether requests at a place are traced, how many of them, and who is told: what Telemetry says there, and the mesh configuration.

`telemetry.py` says which objects hold. As Istio has it: without a provider nothing is traced; gateways are the clients of what they call,
waypoints are servers.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from control.envoy.asked import asked_service
from control.envoy.built import Problem
from control.envoy.mesh_options import mesh_options
from control.envoy.naming import ClusterRef
from control.envoy.place import Place
from control.envoy.telemetry import Part, other_side, telemetry_at
from control.envoy.world import World
from control.kinds import ObjectKey, Telemetry
from control.kinds.mesh_config import ExtensionProvider, MeshOptions
from control.kinds.telemetry import Tracing, WorkloadMode
from control.kinds.tracing import CustomTag, OpenTelemetryTracing, ProxyTracing, ZipkinTracing
from control.validation.tracing_checks import host_and_port

USUAL_PERCENTAGE: Final = 1.0
"""Of requests, where nobody says."""
Collector = OpenTelemetryTracing | ZipkinTracing


class Tracer(Struct, frozen=True):
    """Who is told of what."""

    collector: Collector
    cluster: ClusterRef
    percentage: float
    tags: dict[str, CustomTag]
    istio_tags: bool
    max_path_length: int
    sampled_by_id: bool
    """Whether the request's id keeps what was decided."""


class TracingRules(Struct, frozen=True):
    """`tracer` None: nothing is traced."""

    tracer: Tracer | None = None
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


class _State(Struct, frozen=True):
    provider: str = ""
    by: ObjectKey | None = None
    """Who named it; None: the mesh configuration."""
    disabled: bool = False
    percentage: float | None = None
    tags: dict[str, CustomTag] = {}
    istio_tags: bool = True
    sampled_by_id: bool = True


def tracing_at(world: World, place: Place) -> TracingRules:
    """What holds there."""
    options, holding = world.ask(mesh_options), world.ask(telemetry_at, place, Part.TRACING)
    sources = tuple(one.key for one in holding)
    defaults = options.default_providers.tracing
    if not holding and not defaults:
        return TracingRules(_older_form(world, options))
    state = _merged(holding, _State(provider=defaults[0] if defaults else ""), world.ask(other_side, place))
    if state.disabled or not state.provider:
        return TracingRules(None, sources)
    found = _collector(options.provider(state.provider))
    if isinstance(found, str):
        return TracingRules(None, sources, _told(state.by, f"provider {state.provider[:80]!r} {found}"))
    cluster = asked_service(world, found.service, found.port, grpc=isinstance(found, OpenTelemetryTracing) and found.http is None)
    if cluster is None:
        return TracingRules(None, sources, _told(state.by, f"provider {state.provider[:80]!r}: {_missing(found)}"))
    return TracingRules(_tracer(found, cluster, state, options.default_config.tracing), sources)


def tracing_clusters(world: World, place: Place) -> tuple[ClusterRef, ...]:
    """The cluster of who is told."""
    tracer = world.ask(tracing_at, place).tracer
    return (tracer.cluster,) if tracer is not None else ()


def _merged(holding: Iterable[Telemetry], state: _State, other_side: WorkloadMode) -> _State:
    for item in holding:
        for entry in item.spec.tracing:
            if entry.match.mode is not other_side:
                state = _changed(state, entry, item.key)
    return state


def _changed(state: _State, entry: Tracing, by: ObjectKey) -> _State:
    said = {
        "disabled": entry.disable_span_reporting,
        "percentage": entry.random_sampling_percentage,
        "tags": entry.custom_tags or None,
        "istio_tags": entry.enable_istio_tags,
        "sampled_by_id": entry.use_request_id_for_trace_sampling,
    }
    if entry.providers:
        state = msgspec.structs.replace(state, provider=entry.providers[0].name, by=by)
    return msgspec.structs.replace(state, **{name: value for name, value in said.items() if value is not None})


def _collector(provider: ExtensionProvider | None) -> Collector | str:
    """Whom a provider stands for, or what is wrong with it."""
    if provider is None:
        return "is not in the mesh configuration"
    found = provider.opentelemetry or provider.zipkin
    if found is None:
        return "is none of spans that can be used here: opentelemetry, zipkin"
    if isinstance(found, OpenTelemetryTracing) and (found.dynatrace_sampler is not None or found.resource_detectors is not None):
        return "asks for samplers or resource detectors, which are not used here"
    return found


def _missing(collector: Collector) -> str:
    grpc = isinstance(collector, OpenTelemetryTracing) and collector.http is None
    speaking = " that says it speaks gRPC (its name begins with grpc, or appProtocol)" if grpc else ""
    return f"there is no service {collector.service[:253]!r} of the mesh with a port {collector.port}{speaking}"


def _told(by: ObjectKey | None, what: str) -> tuple[Problem, ...]:
    return (Problem(by, what),) if by is not None else ()


def _tracer(collector: Collector, cluster: ClusterRef, state: _State, usual: ProxyTracing) -> Tracer:
    percentage = usual.sampling if state.percentage is None else state.percentage
    return Tracer(
        collector=collector,
        cluster=cluster,
        percentage=USUAL_PERCENTAGE if percentage is None else percentage,
        tags=state.tags or usual.custom_tags,
        istio_tags=state.istio_tags,
        max_path_length=collector.max_tag_length or usual.max_path_tag_length,
        sampled_by_id=state.sampled_by_id,
    )


def _older_form(world: World, options: MeshOptions) -> Tracer | None:
    """What `defaultConfig` asks for where nobody names a provider."""
    usual = options.default_config.tracing
    if not options.enable_tracing or usual.zipkin is None or not usual.zipkin.address:
        return None
    host, number = host_and_port(usual.zipkin.address)
    # Documents say `zipkin.istio-system:9411`, which a pod's resolver completes.
    names = (host, f"{host}.svc.{world.settings.domain}")
    cluster = next((found for name in names if (found := asked_service(world, name, number)) is not None), None)
    if cluster is None:
        return None
    state = _State(istio_tags=usual.enable_istio_tags)
    return _tracer(ZipkinTracing(host, number), cluster, state, usual)
