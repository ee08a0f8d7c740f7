"""Checks of what a route does itself: redirects, answers of its own, rewritten paths and hosts."""

import base64
import binascii
from collections.abc import Iterator
from typing import Final

from control.kinds.routing import HTTPDirectResponse, HTTPRedirect, HTTPRoute
from control.validation import http_text
from control.validation.core_checks import Path, attempt, attempt_port
from control.validation.finding import Remark
from control.validation.regex import regex, substitution

REDIRECT_CODES: Final = (301, 302, 303, 307, 308)
DERIVED_PORTS: Final = ("", "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")
MAX_BODY_BYTES: Final = 1 << 16


def redirect_remarks(redirect: HTTPRedirect, path: Path) -> Iterator[Remark]:
    if redirect.redirect_code not in {0, *REDIRECT_CODES}:
        hint = ", ".join(str(code) for code in REDIRECT_CODES)
        yield Remark((*path, "redirectCode"), f"{redirect.redirect_code} is no redirect that Envoy can give", f"one of {hint}")
    if not (redirect.uri or redirect.authority or redirect.scheme or redirect.port or redirect.derive_port):
        yield Remark(path, "redirects to where the request came from, for ever", "say uri, authority, scheme or port")
    if redirect.port and redirect.derive_port:
        yield Remark((*path, "derivePort"), "port and derivePort at once", "keep one of them")
    if redirect.derive_port not in DERIVED_PORTS:
        yield Remark((*path, "derivePort"), f"{redirect.derive_port[:40]!r} is unknown", "FROM_PROTOCOL_DEFAULT or FROM_REQUEST_PORT")
    if redirect.port:
        yield from attempt_port(redirect.port, (*path, "port"))
    if redirect.scheme not in {"", "http", "https"}:
        yield Remark((*path, "scheme"), f"{redirect.scheme[:40]!r} is neither http nor https")
    if redirect.authority:
        yield from attempt(http_text.authority, redirect.authority, (*path, "authority"))
    if redirect.uri:
        yield from attempt(http_text.path, redirect.uri, (*path, "uri"))


def direct_response_remarks(response: HTTPDirectResponse, path: Path) -> Iterator[Remark]:
    if not 200 <= response.status <= 599:
        yield Remark((*path, "status"), f"{response.status} is no status to answer with: 200 to 599")
    body = response.body
    if body is None:
        return
    if (body.string is None) == (body.bytes is None):
        yield Remark((*path, "body"), "needs string or bytes, and one of them only")
    try:
        size = len(body.string.encode()) if body.string is not None else len(base64.b64decode(body.bytes or "", validate=True))
    except (binascii.Error, ValueError):
        yield Remark((*path, "body", "bytes"), "is no base64")
        return
    if size > MAX_BODY_BYTES:
        yield Remark((*path, "body"), f"a body of {size} bytes: at most {MAX_BODY_BYTES}")


def rewrite_remarks(route: HTTPRoute, path: Path) -> Iterator[Remark]:
    rewrite = route.rewrite
    if rewrite is None:
        return
    if not (rewrite.uri or rewrite.authority or rewrite.uri_regex_rewrite):
        yield Remark(path, "rewrites nothing", "say uri, uriRegexRewrite or authority")
    if rewrite.uri and rewrite.uri_regex_rewrite:
        yield Remark((*path, "uri"), "uri and uriRegexRewrite at once", "keep one of them")
    if rewrite.uri:
        yield from attempt(http_text.path, rewrite.uri, (*path, "uri"))
        if not rewrite.uri.startswith("/"):
            yield Remark((*path, "uri"), f"{rewrite.uri[:80]!r} is no path: it does not begin with /")
    if rewrite.authority:
        yield from attempt(http_text.authority, rewrite.authority, (*path, "authority"))
    if (by := rewrite.uri_regex_rewrite) is not None:
        here: Path = (*path, "uriRegexRewrite")
        wrong = [*attempt(regex, by.match, (*here, "match"))]
        yield from wrong
        if not wrong:
            yield from attempt(lambda text: substitution(by.match, text), by.rewrite, (*here, "rewrite"))
        yield from attempt(http_text.path, by.rewrite, (*here, "rewrite"))
