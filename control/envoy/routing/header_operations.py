"""What routes do to headers, as Envoy's; `:authority` and `host` are rewritten, not set."""

from typing import Any

from msgspec import Struct

from control.envoy.messages import Message, new
from control.kinds.routing import HeaderOperations, Headers

_AUTHORITY = frozenset({":authority", "host"})


class HeaderChanges(Struct, frozen=True):
    """The fields of a route or a weighted cluster, and the host that requests are sent on with."""

    fields: dict[str, Any] = {}
    authority: str = ""


def header_changes(headers: Headers | None) -> HeaderChanges:
    """Fields with nothing in them are left out."""
    if headers is None:
        return HeaderChanges()
    stated = {name.lower(): value for name, value in (*headers.request.add.items(), *headers.request.set.items())}
    fields = {
        "request_headers_to_add": _added(headers.request),
        "request_headers_to_remove": list(headers.request.remove),
        "response_headers_to_add": _added(headers.response),
        "response_headers_to_remove": list(headers.response.remove),
    }
    authority = stated.get(":authority") or stated.get("host") or ""
    return HeaderChanges({name: value for name, value in fields.items() if value}, authority)


def _added(operations: HeaderOperations) -> list[Message]:
    stated = [(name, value, "OVERWRITE_IF_EXISTS_OR_ADD") for name, value in sorted(operations.set.items())]
    stated += [(name, value, "APPEND_IF_EXISTS_OR_ADD") for name, value in sorted(operations.add.items())]
    return [
        new("envoy.config.core.v3.HeaderValueOption", header={"key": name, "value": value}, append_action=how)
        for name, value, how in stated
        if name.lower() not in _AUTHORITY
    ]
