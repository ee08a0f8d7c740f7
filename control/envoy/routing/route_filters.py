"""What a route tells the filters that every request passes: faults to inject, and which origins browsers may call from."""

from typing import Any, Final

from control.envoy.messages import Message, new, packed
from control.envoy.parts import seconds
from control.envoy.routing.string_matches import string_matcher
from control.kinds.routing import CORSPolicy, FaultAbort, FaultDelay, HTTPFault, HTTPRoute
from control.validation.durations import seconds as duration
from control.validation.http_filter_checks import GRPC_CODES

CORS: Final = "envoy.filters.http.cors"
FAULT: Final = "envoy.filters.http.fault"
_PARTS_OF_A_PERCENT: Final = 10_000


def filter_settings(route: HTTPRoute) -> dict[str, Message]:
    """The `typed_per_filter_config` of a route."""
    found: dict[str, Message] = {}
    if route.fault is not None:
        found[FAULT] = packed(_fault(route.fault))
    if route.cors_policy is not None:
        found[CORS] = packed(_cors(route.cors_policy))
    return found


def fraction(percent: float) -> dict[str, Any]:
    """A percentage, down to a ten-thousandth of one."""
    return {"numerator": round(percent * _PARTS_OF_A_PERCENT), "denominator": "MILLION"}


def _fault(fault: HTTPFault) -> Message:
    fields: dict[str, Any] = {}
    if fault.delay is not None:
        fields["delay"] = {"fixed_delay": seconds(duration(fault.delay.fixed_delay)), "percentage": fraction(_share(fault.delay))}
    if fault.abort is not None:
        how: dict[str, Any] = {"http_status": fault.abort.http_status}
        if fault.abort.http_status is None:
            how = {"grpc_status": GRPC_CODES.index(fault.abort.grpc_status)}
        fields["abort"] = {**how, "percentage": fraction(_share(fault.abort))}
    return new("envoy.extensions.filters.http.fault.v3.HTTPFault", **fields)


def _share(part: FaultDelay | FaultAbort) -> float:
    """The percentage of requests; none where none is stated, as Istio defines it."""
    return part.percentage.value if part.percentage is not None else 0.0


def _cors(cors: CORSPolicy) -> Message:
    fields: dict[str, Any] = {
        "allow_origin_string_match": [string_matcher(one) for one in cors.allow_origins],
        "allow_methods": ",".join(cors.allow_methods),
        "allow_headers": ",".join(cors.allow_headers),
        "expose_headers": ",".join(cors.expose_headers),
        "forward_not_matching_preflights": {"value": cors.unmatched_preflights != "IGNORE"},
        "filter_enabled": {"default_value": {"numerator": 100}},
    }
    if cors.allow_credentials is not None:
        fields["allow_credentials"] = {"value": cors.allow_credentials}
    if cors.max_age:
        fields["max_age"] = str(int(duration(cors.max_age)))
    return new("envoy.extensions.filters.http.cors.v3.CorsPolicy", **fields)
