"""What the Gateway API's routes say and Istio's have no word for: they are turned into Istio's, with these in their places.

Nobody can write them: a VirtualService is read by its own types, which know none of it.
"""

from control.kinds.routing import Destination, HTTPRedirect, HTTPRoute, RegexRewrite, StringMatch


class SeparatedPrefix(StringMatch, frozen=True):
    """A prefix of whole segments: `/a` is `/a` and `/a/b`, and not `/ab`."""


class Nowhere(Destination, frozen=True):
    """A destination that its route may not name, or that is nothing to send requests to; `why` in words, `reason` the Gateway API's."""

    why: str = ""
    reason: str = ""


class PathRedirect(HTTPRedirect, frozen=True):
    """A redirect that keeps a part of the path."""

    path: RegexRewrite | None = None


class APIRoute(HTTPRoute, frozen=True):
    """A route whose requests get 500 where its destination is not there, as the Gateway API has it."""
