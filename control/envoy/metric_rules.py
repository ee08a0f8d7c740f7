"""Which metrics there are of a place's traffic, and which labels they have not: what Telemetry says there."""

from typing import Final

from msgspec import Struct

from control.envoy.place import Place
from control.envoy.reports import MetricRule, rules_text
from control.envoy.telemetry import Part, other_side, telemetry_at
from control.envoy.world import World
from control.kinds import ObjectKey
from control.kinds.telemetry import Metric, MetricsOverride, TagOperation

_OF_REQUESTS: Final = frozenset((Metric.REQUEST_COUNT, Metric.REQUEST_DURATION, Metric.REQUEST_SIZE, Metric.RESPONSE_SIZE))
_OF_CONNECTIONS: Final = frozenset(
    (Metric.TCP_OPENED_CONNECTIONS, Metric.TCP_CLOSED_CONNECTIONS, Metric.TCP_SENT_BYTES, Metric.TCP_RECEIVED_BYTES)
)


class MetricRules(Struct, frozen=True):
    """As reports carry them; empty: Istio's metrics with all of their labels. `of_requests`, `of_connections`: whether there are any."""

    text: str = ""
    of_requests: bool = True
    of_connections: bool = True
    sources: tuple[ObjectKey, ...] = ()


def metrics_at(world: World, place: Place) -> MetricRules:
    """What holds there; a narrower object changes what it names, of a metric or of all."""
    rules: dict[Metric, MetricRule] = {metric: MetricRule() for metric in Metric if metric != Metric.ALL_METRICS}
    holding, elsewhere = world.ask(telemetry_at, place, Part.METRICS), world.ask(other_side, place)
    overrides = (override for one in holding for metrics in one.spec.metrics for override in metrics.overrides)
    for override in overrides:
        match = override.match
        if match.mode is not elsewhere:
            named = rules if match.metric is Metric.ALL_METRICS else (match.metric,)
            rules |= {metric: _changed(rules[metric], override) for metric in named}
    there = {metric for metric, rule in rules.items() if not rule.disabled}
    of_requests, of_connections = bool(there & _OF_REQUESTS), bool(there & _OF_CONNECTIONS)
    return MetricRules(rules_text(rules), of_requests, of_connections, tuple(one.key for one in holding))


def _changed(rule: MetricRule, override: MetricsOverride) -> MetricRule:
    disabled = rule.disabled if override.disabled is None else override.disabled
    removed = {name for name, tag in override.tag_overrides.items() if tag.operation is TagOperation.REMOVE}
    return MetricRule(disabled, rule.removed | removed)
