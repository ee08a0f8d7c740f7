"""Who gets a line of what happens at a place: what Telemetry says there, and what the mesh configuration says where none does.

`telemetry.py` says which objects hold.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from control.envoy.asked import asked_service
from control.envoy.built import Problem
from control.envoy.mesh_options import mesh_options
from control.envoy.naming import ClusterRef
from control.envoy.place import Place
from control.envoy.telemetry import Part, other_side, telemetry_at
from control.envoy.world import World
from control.kinds import ObjectKey, Telemetry
from control.kinds.mesh_config import ExtensionProvider, LogEncoding, MeshOptions
from control.kinds.telemetry import AccessLogging, WorkloadMode
from control.validation import log_formats

BUILT_IN: Final = "envoy"
"""The provider that is always there: lines as the mesh configuration has them."""
STANDARD_OUTPUT: Final = "/dev/stdout"


class Output(Struct, frozen=True):
    """Lines of one provider. `text`: their format, `labels`: an object's; neither: Istio's, as `encoding` says.

    `expression`: what is written, in CEL; empty: all.
    """

    path: str
    text: str = ""
    labels: dict[str, str] | None = None
    encoding: LogEncoding = LogEncoding.TEXT
    omit_empty: bool = False
    expression: str = ""


class Told(Struct, frozen=True):
    """A collector that is told of what happens, as its provider says."""

    provider: ExtensionProvider
    cluster: ClusterRef
    expression: str = ""


class Logging(Struct, frozen=True):
    """All outputs at a place, and the objects that say so."""

    outputs: tuple[Output, ...] = ()
    told: tuple[Told, ...] = ()
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()


class _State(Struct, frozen=True):
    """Of one provider."""

    on: bool = True
    expression: str = ""
    by: ObjectKey | None = None


def logging_at(world: World, place: Place) -> Logging:
    """What is to be written at a place."""
    options = world.ask(mesh_options)
    holding = world.ask(telemetry_at, place, Part.LOGGING)
    states = _merged(options, holding, world.ask(other_side, place))
    found = [
        (state, _output(options, name, state.expression) or _told(world, options, name, state.expression)) for name, state in states.items()
    ]
    vain = [(state.by, name) for (name, state), (_, one) in zip(states.items(), found, strict=True) if one is None and state.by is not None]
    return Logging(
        outputs=tuple(one for state, one in found if state.on and isinstance(one, Output)),
        told=tuple(one for state, one in found if state.on and isinstance(one, Told)),
        sources=tuple(one.key for one in holding),
        problems=tuple(Problem(by, f"there is no provider {name[:80]!r} of access logs that can be used here") for by, name in vain),
    )


def logging_clusters(world: World, place: Place) -> tuple[ClusterRef, ...]:
    """The clusters of who is told."""
    return tuple(one.cluster for one in world.ask(logging_at, place).told)


def _merged(options: MeshOptions, holding: Iterable[Telemetry], elsewhere: WorkloadMode) -> dict[str, _State]:
    """Providers by their names, as the last word on each has it."""
    default = options.default_providers.access_logging or ((BUILT_IN,) if options.access_log_file else ())
    states = {name: _State() for name in default}
    for item in holding:
        rules = [rule for rule in item.spec.access_logging if rule.match.mode is not elsewhere]
        named = [one.name for rule in rules for one in rule.providers]
        if named:
            states = {name: states.get(name, _State(by=item.key)) for name in named}
        for rule in rules:
            for name in [one.name for one in rule.providers] or list(states):
                states[name] = _changed(rule, states.get(name, _State()), item.key)
    return states


def _changed(rule: AccessLogging, before: _State, by: ObjectKey) -> _State:
    return _State(not rule.disabled, rule.filter.expression if rule.filter is not None else before.expression, by)


def _output(options: MeshOptions, name: str, expression: str) -> Output | None:
    if name == BUILT_IN and options.provider(name) is None:
        path = options.access_log_file or STANDARD_OUTPUT
        labels = log_formats.fields(options.access_log_format) if _is_object(options) else None
        text = "" if labels is not None else options.access_log_format
        return Output(path, text, labels, options.access_log_encoding, expression=expression)
    provider = options.provider(name)
    file = provider.envoy_file_access_log if provider is not None else None
    if file is None:
        return None
    text = file.log_format.text if file.log_format is not None else ""
    labels = (file.log_format.labels or None) if file.log_format is not None else None
    return Output(file.path or STANDARD_OUTPUT, text, labels, omit_empty=file.omit_empty_values, expression=expression)


def _told(world: World, options: MeshOptions, name: str, expression: str) -> Told | None:
    """None for what is no collector, or is not there; all of them speak gRPC."""
    provider = options.provider(name)
    if provider is None:
        return None
    collector = provider.envoy_http_als or provider.envoy_tcp_als or provider.envoy_otel_als
    cluster = asked_service(world, collector.service, collector.port, grpc=True) if collector is not None else None
    return Told(provider, cluster, expression) if cluster is not None else None


def _is_object(options: MeshOptions) -> bool:
    return options.access_log_encoding is LogEncoding.JSON and bool(options.access_log_format)
