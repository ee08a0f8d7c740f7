"""Istio's matches of texts as Envoy's."""

from typing import Any

from control.envoy.messages import Message, new
from control.kinds.routing import StringMatch


def string_matcher(match: StringMatch) -> Message:
    """For a match that says exact, prefix or regex."""
    if match.exact is not None:
        return new("envoy.type.matcher.v3.StringMatcher", exact=match.exact)
    if match.prefix is not None:
        return new("envoy.type.matcher.v3.StringMatcher", prefix=match.prefix)
    return new("envoy.type.matcher.v3.StringMatcher", safe_regex={"regex": match.regex or ""})


def header_matcher(name: str, match: StringMatch) -> Message:
    """A header that must be there like this, or at all."""
    how: dict[str, Any] = {"present_match": True} if match.presence else {"string_match": string_matcher(match)}
    return new("envoy.config.route.v3.HeaderMatcher", name=name, **how)


def header_without(name: str, match: StringMatch) -> Message:
    """A header that must not be there like this, or not at all."""
    matcher = header_matcher(name, match)
    matcher.invert_match = True
    if not match.presence:
        # One that is missing is not like this either.
        matcher.treat_missing_header_as_empty = True
    return matcher


def parameter_matcher(name: str, match: StringMatch) -> Message:
    """A parameter of the query."""
    how: dict[str, Any] = {"present_match": True} if match.presence else {"string_match": string_matcher(match)}
    return new("envoy.config.route.v3.QueryParameterMatcher", name=name, **how)
