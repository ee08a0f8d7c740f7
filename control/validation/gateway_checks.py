"""Checks of the Gateway API's Gateway: what its listeners can't serve, and what is asked of clients in vain."""

from collections.abc import Iterator
from typing import Final

from control.kinds import Gateway
from control.kinds.gateway import FrontendValidation, GatewayListener, GatewaySpec, LabelSelector, ListenerTLS, ObjectReference
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.finding import Remark, warning
from meshapi import wire

_TRAFFIC: Final = ("service", "workload", "all", "none")
_ORIGINS: Final = ("All", "Same", "Selector")
_ENCRYPTED: Final = frozenset({"HTTPS", "TLS"})
_TLS_MODES: Final = ("Terminate", "Passthrough")
_CLIENT_MODES: Final = ("AllowValidOnly", "AllowInsecureFallback")
TERMINATE_MODE: Final = "gateway.istio.io/tls-terminate-mode"
"""Istio's option for what the Gateway API had no fields for: what is asked of clients."""
_TERMINATE_MODES: Final = ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL")
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")


def gateway_remarks(gateway: Gateway) -> Iterator[Remark]:
    # It is the name of a service account, too.
    yield from attempt(values.label_name, gateway.metadata.name, ("metadata", "name"))
    stated = gateway.metadata.labels.get(wire.LABEL_WAYPOINT_FOR, "service")
    if stated not in _TRAFFIC:
        hint = f"one of {', '.join(_TRAFFIC)}"
        yield warning(("metadata", "labels", wire.LABEL_WAYPOINT_FOR), f"{stated[:40]!r} is no traffic: the waypoint takes none", hint)
    yield from _client_remarks(gateway.spec)
    for index, listener in enumerate(gateway.spec.listeners):
        path: Path = ("spec", "listeners", index)
        yield from attempt_port(listener.port, (*path, "port"))
        yield from _listener_remarks(listener, path)
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


def _client_remarks(spec: GatewaySpec) -> Iterator[Remark]:
    """What the listeners together ask of clients, and the Gateway shows to servers."""
    if spec.tls is None:
        return
    path: Path = ("spec", "tls")
    if spec.tls.backend is not None:
        yield Remark((*path, "backend"), "is not supported", "a DestinationRule says how servers are called")
    if spec.tls.frontend is not None:
        asked = spec.tls.frontend
        yield from _validation_remarks(asked.default.validation, (*path, "frontend", "default", "validation"))
        for index, one in enumerate(asked.per_port):
            yield from attempt_port(one.port, (*path, "frontend", "perPort", index, "port"))
            yield from _validation_remarks(one.tls.validation, (*path, "frontend", "perPort", index, "tls", "validation"))


def _validation_remarks(validation: FrontendValidation | None, path: Path) -> Iterator[Remark]:
    if validation is None:
        return
    if validation.mode not in _CLIENT_MODES:
        yield Remark((*path, "mode"), f"{validation.mode[:40]!r} is none of {', '.join(_CLIENT_MODES)}")
    if not validation.ca_certificate_refs:
        yield Remark((*path, "caCertificateRefs"), "is empty: no client could be verified", "name a ConfigMap with ca.crt")
    for index, one in enumerate(validation.ca_certificate_refs):
        yield from _reference_remarks(one, (*path, "caCertificateRefs", index))


def _listener_remarks(listener: GatewayListener, path: Path) -> Iterator[Remark]:
    if listener.hostname:
        yield from attempt(values.host, listener.hostname, (*path, "hostname"))
    if listener.tls is not None:
        yield from _tls_remarks(listener.tls, listener.protocol, (*path, "tls"))
    elif listener.protocol in _ENCRYPTED:
        yield Remark(path, f"{listener.protocol} needs tls", "say tls.certificateRefs, or tls.mode Passthrough")


def _tls_remarks(tls: ListenerTLS, protocol: str, path: Path) -> Iterator[Remark]:
    if protocol not in _ENCRYPTED:
        yield Remark(path, f"how TLS is spoken can't be said of {protocol[:40]}", "use HTTPS or TLS")
        return
    if tls.mode not in _TLS_MODES:
        yield Remark((*path, "mode"), f"{tls.mode[:40]!r} is none of {', '.join(_TLS_MODES)}")
    if tls.mode == "Passthrough" and (tls.certificate_refs or tls.frontend_validation):
        yield Remark(path, "what passes through is encrypted and verified by the server, not here")
    if tls.mode == "Terminate" and not tls.certificate_refs and tls.options.get(TERMINATE_MODE) != "ISTIO_MUTUAL":
        yield Remark((*path, "certificateRefs"), "needs a certificate", "name a Secret of type kubernetes.io/tls")
    yield from _validation_remarks(tls.frontend_validation, (*path, "frontendValidation"))
    for index, one in enumerate(tls.certificate_refs):
        yield from _reference_remarks(one, (*path, "certificateRefs", index))
    yield from _option_remarks(tls.options, (*path, "options"))


def _reference_remarks(reference: ObjectReference, path: Path) -> Iterator[Remark]:
    yield from attempt(values.object_name, reference.name, (*path, "name"))
    if reference.namespace:
        yield from attempt(values.label_name, reference.namespace, (*path, "namespace"))


def _option_remarks(options: dict[str, str], path: Path) -> Iterator[Remark]:
    """Of Istio's, one that is not understood is refused: it could be meant to keep clients out."""
    for name, text in options.items():
        if name == TERMINATE_MODE:
            if text not in _TERMINATE_MODES:
                yield Remark((*path, name), f"{text[:40]!r} is none of {', '.join(_TERMINATE_MODES)}")
        elif name.startswith("gateway.istio.io/"):
            yield Remark((*path, name), f"{name[:80]!r} is no option that is understood")
        else:
            yield warning((*path, name), f"{name[:80]!r} is no option of this mesh: it does nothing")


def _selector_remarks(selector: LabelSelector, path: Path) -> Iterator[Remark]:
    yield from label_remarks(selector.match_labels, (*path, "matchLabels"))
    for index, one in enumerate(selector.match_expressions):
        if one.operator not in _OPERATORS:
            yield Remark((*path, "matchExpressions", index, "operator"), f"{one.operator[:40]!r} is none of {', '.join(_OPERATORS)}")
