"""Checks of the filters of Gateway API's routes: each is of one type, whose field is given, and one that can't be honoured is refused."""

from collections.abc import Iterator
from typing import Final

from control.kinds.gateway_routes import CORSFilter, HeaderModifier, PathModifier, RequestMirror, RequestRedirect, RouteFilter
from control.validation import http_text, values
from control.validation.core_checks import Path, attempt, attempt_port
from control.validation.finding import Remark, warning

_FIELDS: Final = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "CORS": "cors",
    "ExternalAuth": "external_auth",
    "ExtensionRef": "extension_ref",
}
_GRPC: Final = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror")
_UNSUPPORTED: Final = ("ExternalAuth", "ExtensionRef")
_CODES: Final = (301, 302, 303, 307, 308)


def filters_remarks(filters: tuple[RouteFilter, ...], path: Path, *, prefixed: bool, grpc: bool = False) -> Iterator[Remark]:
    """`prefixed`: whether every match of the rule is by a prefix of the path, which a filter may then replace."""
    seen: set[str] = set()
    for index, one in enumerate(filters):
        here: Path = (*path, index)
        if one.type not in _FIELDS or (grpc and one.type not in (*_GRPC, *_UNSUPPORTED)):
            yield Remark((*here, "type"), f"{one.type[:40]!r} is no filter of this route")
            continue
        if one.type in _UNSUPPORTED:
            yield Remark((*here, "type"), f"{one.type} is not supported")
            continue
        if one.type in seen and one.type != "RequestMirror":
            yield Remark((*here, "type"), f"{one.type} stands here twice")
        seen.add(one.type)
        yield from _form_remarks(one, here)
        yield from _content_remarks(one, here, prefixed=prefixed)
    if {"RequestRedirect", "URLRewrite"} <= seen:
        yield Remark(path, "RequestRedirect and URLRewrite at once", "keep one of them")


def _form_remarks(one: RouteFilter, path: Path) -> Iterator[Remark]:
    for kind, field in _FIELDS.items():
        if (getattr(one, field) is not None) != (kind == one.type):
            yield Remark(path, f"a filter of type {one.type} has its own field and no other")
            return


def _content_remarks(one: RouteFilter, path: Path, *, prefixed: bool) -> Iterator[Remark]:
    if one.request_header_modifier is not None:
        yield from _modifier_remarks(one.request_header_modifier, (*path, "requestHeaderModifier"))
    if one.response_header_modifier is not None:
        yield from _modifier_remarks(one.response_header_modifier, (*path, "responseHeaderModifier"))
    if one.request_mirror is not None:
        yield from _mirror_remarks(one.request_mirror, (*path, "requestMirror"))
    if one.request_redirect is not None:
        yield from _redirect_remarks(one.request_redirect, (*path, "requestRedirect"), prefixed=prefixed)
    if one.url_rewrite is not None:
        here: Path = (*path, "urlRewrite")
        if one.url_rewrite.hostname:
            yield from attempt(values.host, one.url_rewrite.hostname, (*here, "hostname"))
        yield from _path_remarks(one.url_rewrite.path, (*here, "path"), prefixed=prefixed)
    if one.cors is not None:
        yield from _cors_remarks(one.cors, (*path, "cors"))


def _modifier_remarks(modifier: HeaderModifier, path: Path) -> Iterator[Remark]:
    names: set[str] = set()
    for group, named in (("set", modifier.set), ("add", modifier.add)):
        for index, one in enumerate(named):
            here: Path = (*path, group, index)
            yield from attempt(plain_header, one.name, (*here, "name"))
            yield from attempt(http_text.plain_value, one.value, (*here, "value"))
            if one.name.lower() in names:
                yield Remark((*here, "name"), f"the header {one.name[:80]} stands here twice")
            names.add(one.name.lower())
    for index, name in enumerate(modifier.remove):
        yield from attempt(plain_header, name, (*path, "remove", index))


def plain_header(text: str) -> str:
    """A header that a filter may change: not whom a request is for, which other fields say. Raises ValueError."""
    if text.lower() == "host" or text.startswith(":"):
        raise ValueError(f"{text[:80]} is not changed as a header")
    return http_text.own_header_name(text)


def _mirror_remarks(mirror: RequestMirror, path: Path) -> Iterator[Remark]:
    backend = mirror.backend_ref
    if (backend.group, backend.kind) not in {("", "Service"), ("networking.istio.io", "ServiceEntry")}:
        yield warning((*path, "backendRef"), f"a {backend.kind[:40]} of {backend.group[:80]!r} is nothing to send requests to")
    else:
        yield from attempt(values.object_name, backend.name, (*path, "backendRef", "name"))
        yield from attempt_port(backend.port, (*path, "backendRef", "port"))
    if backend.namespace:
        yield from attempt(values.label_name, backend.namespace, (*path, "backendRef", "namespace"))
    if mirror.percent is not None and mirror.fraction is not None:
        yield Remark(path, "percent and fraction at once", "keep one of them")
    if mirror.percent is not None and not 0 <= mirror.percent <= 100:
        yield Remark((*path, "percent"), f"{mirror.percent} is no percentage: 0 to 100")
    if mirror.fraction is not None and not 0 <= mirror.fraction.numerator <= mirror.fraction.denominator > 0:
        yield Remark((*path, "fraction"), "is no part of a whole")


def _redirect_remarks(redirect: RequestRedirect, path: Path, *, prefixed: bool) -> Iterator[Remark]:
    if redirect.scheme not in {"", "http", "https"}:
        yield Remark((*path, "scheme"), f"{redirect.scheme[:40]!r} is neither http nor https")
    if redirect.hostname:
        yield from attempt(values.host, redirect.hostname, (*path, "hostname"))
    if redirect.port:
        yield from attempt_port(redirect.port, (*path, "port"))
    if redirect.status_code not in _CODES:
        yield Remark((*path, "statusCode"), f"{redirect.status_code} is no redirect", f"one of {', '.join(map(str, _CODES))}")
    yield from _path_remarks(redirect.path, (*path, "path"), prefixed=prefixed)


def _path_remarks(modifier: PathModifier | None, path: Path, *, prefixed: bool) -> Iterator[Remark]:
    if modifier is None:
        return
    full = modifier.type == "ReplaceFullPath"
    if modifier.type not in {"ReplaceFullPath", "ReplacePrefixMatch"}:
        yield Remark((*path, "type"), f"{modifier.type[:40]!r} is neither ReplaceFullPath nor ReplacePrefixMatch")
    elif (modifier.replace_full_path is not None, modifier.replace_prefix_match is not None) != (full, not full):
        yield Remark(path, f"{modifier.type} has its own field and no other")
    elif not full and not prefixed:
        yield Remark(path, "there is no prefix to replace", "match the path by PathPrefix")
    for text in filter(None, (modifier.replace_full_path, modifier.replace_prefix_match)):
        if not text.startswith("/"):
            yield Remark(path, f"{text[:80]!r} is no path: those begin with /")
        yield from attempt(http_text.path, text, path)


def _cors_remarks(cors: CORSFilter, path: Path) -> Iterator[Remark]:
    for index, origin in enumerate(cors.allow_origins):
        scheme, found, host = origin.partition("://")
        if origin != "*" and (not found or not scheme or not host or not origin.isascii() or not origin.isprintable() or " " in origin):
            yield Remark((*path, "allowOrigins", index), f"{origin[:80]!r} is no origin", "such as https://shop.example, or *")
        if origin == "*" and cors.allow_credentials:
            yield warning((*path, "allowOrigins", index), "every site may make requests with its visitors' credentials")
    for index, method in enumerate(cors.allow_methods):
        if method not in http_text.METHODS | {"*"}:
            yield Remark((*path, "allowMethods", index), f"{method[:40]!r} is no method", "in capital letters, or *")
    for group, names in (("allowHeaders", cors.allow_headers), ("exposeHeaders", cors.expose_headers)):
        for index, name in enumerate(names):
            yield from attempt(http_text.header_name, name, (*path, group, index))
    if not 0 <= cors.max_age < 1 << 31:
        yield Remark((*path, "maxAge"), f"{cors.max_age} is no number of seconds")
