"""Which formats of access logs Envoy is given: operators that it has, and none that shows what is not the request's.

One operator that Envoy does not know would have it refuse the whole listener, and with that every later change of its policies.
"""

import re
from typing import Final

import msgspec

PLAIN: Final = frozenset(
    (
        "ACCESS_LOG_TYPE",
        "BYTES_RECEIVED",
        "BYTES_SENT",
        "CONNECTION_ID",
        "CONNECTION_TERMINATION_DETAILS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT",
        "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        "DOWNSTREAM_WIRE_BYTES_SENT",
        "DURATION",
        "FILTER_CHAIN_NAME",
        "GRPC_STATUS",
        "GRPC_STATUS_NUMBER",
        "HOSTNAME",
        "PROTOCOL",
        "REQUEST_DURATION",
        "REQUEST_HEADERS_BYTES",
        "REQUEST_TX_DURATION",
        "REQUESTED_SERVER_NAME",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_DURATION",
        "RESPONSE_FLAGS",
        "RESPONSE_FLAGS_LONG",
        "RESPONSE_HEADERS_BYTES",
        "RESPONSE_TRAILERS_BYTES",
        "RESPONSE_TX_DURATION",
        "ROUTE_NAME",
        "START_TIME",
        "STREAM_ID",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_CLUSTER_RAW",
        "UPSTREAM_CONNECTION_ID",
        "UPSTREAM_HOST",
        "UPSTREAM_LOCAL_ADDRESS",
        "UPSTREAM_LOCAL_PORT",
        "UPSTREAM_PROTOCOL",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REMOTE_PORT",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        "UPSTREAM_WIRE_BYTES_RECEIVED",
        "UPSTREAM_WIRE_BYTES_SENT",
        "VIRTUAL_CLUSTER_NAME",
    )
)
"""Operators that take nothing."""
_NAME: Final = r"[A-Za-z0-9:][A-Za-z0-9_.:-]*"
_ARGUMENTS: Final = {
    **dict.fromkeys(("REQ", "RESP", "TRAILER"), re.compile(rf"{_NAME}(\?{_NAME})?")),
    "DYNAMIC_METADATA": re.compile(rf"{_NAME}(:[A-Za-z0-9_.-]+)*"),
    "FILTER_STATE": re.compile(r"[A-Za-z0-9_.-]+:PLAIN"),
    "START_TIME": re.compile(r"[A-Za-z0-9%:./+ -]+"),
}
"""What the others take. `ENVIRONMENT` is not among them: the process beside Envoy may have been told a token by its environment."""
_OPERATOR: Final = re.compile(r"%%|%([A-Z_]+)(\([^()]*\))?(:[1-9][0-9]{0,4})?%")
_CUT: Final = frozenset(("REQ", "RESP", "TRAILER", "DYNAMIC_METADATA", "FILTER_STATE"))
MAX_CHARACTERS: Final = 4096


def check_text(text: str) -> None:
    """Raises ValueError for a line's format that Envoy would not take, or should not be given."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a format has at most {MAX_CHARACTERS} characters")
    at = 0
    while (start := text.find("%", at)) >= 0:
        found = _OPERATOR.match(text, start)
        if found is None:
            raise ValueError(f"{text[start : start + 40]!r} is no operator of an access log")
        if found[1]:
            _check_operator(found[0], found[1], found[2], cut=found[3] is not None)
        at = found.end()


def fields(text: str) -> dict[str, str]:
    """A format of JSON: an object of texts. Raises ValueError for what is none, or holds what `check_text` refuses."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a format has at most {MAX_CHARACTERS} characters")
    try:
        found = msgspec.json.decode(text, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise ValueError(f"a format of JSON is an object of texts: {error}") from error
    for value in found.values():
        check_text(value)
    return found


def _check_operator(written: str, name: str, arguments: str | None, *, cut: bool) -> None:
    if arguments is None and name in PLAIN and not cut:
        return
    pattern = _ARGUMENTS.get(name)
    if arguments is None or pattern is None or pattern.fullmatch(arguments[1:-1]) is None or (cut and name not in _CUT):
        raise ValueError(f"{written[:60]} is no operator that access logs have here")
