"""What HTTP and Envoy take as names and values of headers; each function raises ValueError with what is wrong."""

import re
from typing import Final

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z", re.ASCII)
_AUTHORITY: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]{1,253})(:[0-9]{1,5})?\Z", re.ASCII)
_COMMAND: Final = re.compile(r"%%|%([A-Z_0-9]+)(?:\(([^()%\s]{0,256})\))?(?::[0-9]{1,5})?%", re.ASCII)
_SUBSTITUTED: Final = frozenset(
    {
        "BYTES_RECEIVED", "BYTES_SENT", "DOWNSTREAM_LOCAL_ADDRESS", "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_LOCAL_URI_SAN", "DOWNSTREAM_PEER_URI_SAN", "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT", "DOWNSTREAM_TLS_CIPHER", "DOWNSTREAM_TLS_VERSION", "HOSTNAME", "PROTOCOL", "REQ",
        "REQUESTED_SERVER_NAME", "RESP", "RESPONSE_CODE", "RESPONSE_FLAGS", "ROUTE_NAME", "START_TIME", "STREAM_ID",
        "UPSTREAM_CLUSTER", "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS", "VIRTUAL_CLUSTER_NAME",
    }
)  # fmt: skip
"""What a value may have Envoy fill in: nothing of its environment, its files or its connections' keys."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
_OWN: Final = frozenset({"transfer-encoding", "content-length", "connection", "upgrade", "keep-alive", "te"})


def header_name(text: str) -> str:
    """A header's name."""
    if not _TOKEN.match(text):
        raise ValueError(f"{text[:80]!r} is no name of a header")
    return text


def own_header_name(text: str) -> str:
    """A header that a route may set: not those that say how a message is framed, nor the pseudo-headers beside `:authority`."""
    if text == ":authority":
        return text
    if text.lower() in _OWN:
        raise ValueError(f"the header {text} says how a message is sent: it is not a route's to change")
    return header_name(text)


def header_value(text: str) -> str:
    """A value that Envoy sends: `%COMMAND%` stands for what it fills in, `%%` for a percent sign."""
    if any(ord(one) < 32 or ord(one) == 127 for one in text):
        raise ValueError(f"{text[:80]!r} holds a control character")
    if len(text) > 16384:
        raise ValueError("a value of a header is at most 16384 characters")
    rest = _COMMAND.sub(lambda found: "" if found[0] == "%%" or found[1] in _SUBSTITUTED else found[0].replace("%", "\0"), text)
    if "\0" in rest:
        raise ValueError(f"{text[:80]!r}: what stands between the % is nothing that a header may be filled with")
    if "%" in rest:
        raise ValueError(f"{text[:80]!r}: a percent sign is written %%")
    return text


def plain_value(text: str) -> str:
    """A value without control characters that is taken as it is."""
    if not text or any(ord(one) < 32 or ord(one) == 127 for one in text) or len(text) > 16384:
        raise ValueError(f"{text[:80]!r} is empty, too long or holds a control character")
    return text


def authority(text: str) -> str:
    """A host name or address, perhaps with a port."""
    if not _AUTHORITY.match(text):
        raise ValueError(f"{text[:80]!r} is no host name")
    return text


def path(text: str) -> str:
    """A path that a request is sent on with."""
    if any(ord(one) <= 32 or ord(one) == 127 for one in text) or "#" in text:
        raise ValueError(f"{text[:80]!r} is no path: it holds a space, a # or a control character")
    return text


def label(text: str) -> str:
    """A name of the author's own, which stands in logs and figures."""
    if len(text) > 256 or not text.isprintable():
        raise ValueError(f"{text[:80]!r} is longer than 256 characters or not printable")
    return text
