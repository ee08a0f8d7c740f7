"""Checks of Telemetry."""

from collections.abc import Iterator
from typing import Final

from control.kinds.telemetry import AccessLogging, Telemetry
from control.validation.core_checks import Path, attempt
from control.validation.finding import Remark, warning
from control.validation.log_filters import check_filter
from control.validation.policy_checks import selector_remarks

_MAX_RULES: Final = 64


def telemetry_remarks(item: Telemetry) -> Iterator[Remark]:
    spec = item.spec
    yield from selector_remarks(spec.selector)
    if spec.selector is not None:
        if item.targets:
            yield Remark(("spec", "selector"), "has both a selector and targetRefs", "keep one of them")
        yield warning(("spec", "selector"), "chooses among workloads, and waypoints are none", "name Services or Gateways by targetRefs")
    if len(spec.access_logging) > _MAX_RULES:
        yield Remark(("spec", "accessLogging"), f"more than {_MAX_RULES} entries")
    for index, rule in enumerate(spec.access_logging):
        yield from _logging_remarks(rule, ("spec", "accessLogging", index))
    for name, stated in (("metrics", spec.metrics), ("tracing", spec.tracing)):
        if stated:
            yield warning(("spec", name), "has no effect here yet")


def _logging_remarks(rule: AccessLogging, path: Path) -> Iterator[Remark]:
    for at, provider in enumerate(rule.providers):
        if not provider.name:
            yield Remark((*path, "providers", at, "name"), "an empty name")
    if rule.filter is not None and rule.filter.expression:
        yield from attempt(check_filter, rule.filter.expression, (*path, "filter", "expression"))
