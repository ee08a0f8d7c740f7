"""Checks of Telemetry."""

import re
from collections.abc import Iterator
from typing import Final

from control.kinds.telemetry import AccessLogging, Metrics, MetricsOverride, TagOperation, Telemetry
from control.validation.core_checks import Path, attempt
from control.validation.finding import Remark, warning
from control.validation.log_filters import check_filter
from control.validation.policy_checks import selector_remarks
from control.validation.tracing_checks import tracing_remarks

PROMETHEUS: Final = "prometheus"
_TAG: Final = re.compile("[a-z][a-z0-9_]{0,63}")
_MAX_RULES: Final = 64


def telemetry_remarks(item: Telemetry) -> Iterator[Remark]:
    spec = item.spec
    yield from selector_remarks(spec.selector)
    if spec.selector is not None:
        if item.targets:
            yield Remark(("spec", "selector"), "has both a selector and targetRefs", "keep one of them")
        yield warning(("spec", "selector"), "chooses gateways by their labels, and no waypoints", "name Services or Gateways by targetRefs")
    if len(spec.access_logging) > _MAX_RULES:
        yield Remark(("spec", "accessLogging"), f"more than {_MAX_RULES} entries")
    for index, rule in enumerate(spec.access_logging):
        yield from _logging_remarks(rule, ("spec", "accessLogging", index))
    for index, metrics in enumerate(spec.metrics):
        yield from _metrics_remarks(metrics, ("spec", "metrics", index))
    for index, tracing in enumerate(spec.tracing):
        yield from tracing_remarks(tracing, ("spec", "tracing", index))


def _logging_remarks(rule: AccessLogging, path: Path) -> Iterator[Remark]:
    for at, provider in enumerate(rule.providers):
        if not provider.name:
            yield Remark((*path, "providers", at, "name"), "an empty name")
    if rule.filter is not None and rule.filter.expression:
        yield from attempt(check_filter, rule.filter.expression, (*path, "filter", "expression"))


def _metrics_remarks(metrics: Metrics, path: Path) -> Iterator[Remark]:
    for at, provider in enumerate(metrics.providers):
        if provider.name != PROMETHEUS:
            yield Remark((*path, "providers", at, "name"), f"metrics are {PROMETHEUS}'s alone here")
    if metrics.reporting_interval:
        yield warning((*path, "reportingInterval"), "changes nothing: connections that last are told of every few seconds")
    if len(metrics.overrides) > _MAX_RULES:
        yield Remark((*path, "overrides"), f"more than {_MAX_RULES} entries")
    for index, override in enumerate(metrics.overrides):
        yield from _override_remarks(override, (*path, "overrides", index))


def _override_remarks(override: MetricsOverride, path: Path) -> Iterator[Remark]:
    if override.match.custom_metric:
        yield Remark((*path, "match", "customMetric"), "there are Istio's standard metrics alone")
    for name, tag in override.tag_overrides.items():
        if not _TAG.fullmatch(name):
            yield Remark((*path, "tagOverrides"), f"{name[:80]!r} is no label's name")
        elif tag.operation is not TagOperation.REMOVE:
            yield Remark((*path, "tagOverrides", name), "a label can be removed, and not be given another value", "operation: REMOVE")
