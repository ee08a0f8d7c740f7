"""Checks of the Gateway API's Gateway."""

from collections.abc import Iterator
from typing import Final

from control.kinds import Gateway
from control.kinds.gateway import LabelSelector
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.finding import Remark, warning
from meshapi import wire

_TRAFFIC: Final = ("service", "workload", "all", "none")
_ORIGINS: Final = ("All", "Same", "Selector")
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")


def gateway_remarks(gateway: Gateway) -> Iterator[Remark]:
    # It is the name of a service account, too.
    yield from attempt(values.label_name, gateway.metadata.name, ("metadata", "name"))
    stated = gateway.metadata.labels.get(wire.LABEL_WAYPOINT_FOR, "service")
    if stated not in _TRAFFIC:
        hint = f"one of {', '.join(_TRAFFIC)}"
        yield warning(("metadata", "labels", wire.LABEL_WAYPOINT_FOR), f"{stated[:40]!r} is no traffic: the waypoint takes none", hint)
    for index, listener in enumerate(gateway.spec.listeners):
        path: Path = ("spec", "listeners", index)
        yield from attempt_port(listener.port, (*path, "port"))
        namespaces = listener.allowed_routes.namespaces
        at: Path = (*path, "allowedRoutes", "namespaces")
        if namespaces.origin not in _ORIGINS:
            yield Remark((*at, "from"), f"{namespaces.origin[:40]!r} is none of {', '.join(_ORIGINS)}")
        elif namespaces.origin == "Selector" and namespaces.selector is None:
            yield Remark(at, "from: Selector needs a selector", "say which namespaces by selector.matchLabels")
        if namespaces.selector is not None:
            yield from _selector_remarks(namespaces.selector, (*at, "selector"))
    for place, addresses in (("spec", gateway.spec.addresses), ("status", gateway.status.addresses)):
        for index, address in enumerate(addresses):
            if address.type == "IPAddress" and address.value and any(attempt(values.serving_address, address.value, ())):
                yield warning((place, "addresses", index), f"{address.value[:80]!r} is no address to serve at: it is not used")


def _selector_remarks(selector: LabelSelector, path: Path) -> Iterator[Remark]:
    yield from label_remarks(selector.match_labels, (*path, "matchLabels"))
    for index, one in enumerate(selector.match_expressions):
        if one.operator not in _OPERATORS:
            yield Remark((*path, "matchExpressions", index, "operator"), f"{one.operator[:40]!r} is none of {', '.join(_OPERATORS)}")
