"""Mixer's expressions, as far as quotas have them: what a dimension counts apart by, and the conditions of rules.

An attribute becomes a key or a condition of RateLimit; one of the destination is known once the service is; anything else is not
understood.
"""

import re
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from control.convert.targets import ConversionError, KnownService, Manifest

_INDEXED: Final = re.compile(r'(request\.headers|request\.auth\.claims|destination\.labels|source\.labels)\["([^"\[\]]+)"\]\Z')
_NAME: Final = re.compile(r"[a-z]+(\.[a-z_]+)+\Z")
_COMPARED: Final = re.compile(r'(.+?)\s*(==|!=)\s*"([^"]*)"\Z', re.DOTALL)
_MATCHED: Final = re.compile(r'match\(\s*(.+?)\s*,\s*"([^"]*)"\s*\)\s*(?:(==|!=)\s*(true|false))?\Z', re.DOTALL)
_KEYS: Final = {
    "source.principal": "source.principal",
    "source.user": "source.principal",
    "source.namespace": "source.namespace",
    "source.ip": "remote.ip",
    "request.path": "request.path",
    "request.url_path": "request.path",
}
_OF_SERVICES: Final = frozenset({"destination.service", "destination.service.name", "destination.service.host"})


class Attribute(Struct, frozen=True):
    """One that requests have: `key` is what RateLimit calls it; empty where it has no word for it."""

    key: str


class OfDestination(Struct, frozen=True):
    """The service, by its `name`, its `host`, or its `app` label."""

    by: str


Term = Attribute | OfDestination


class Dimension(Struct, frozen=True):
    """What a dimension is made of, in the order in which it is tried; `missing`: the literals that stand for what is not there."""

    terms: tuple[Term, ...]
    missing: tuple[str, ...]

    @property
    def first(self) -> Term | None:
        return self.terms[0] if self.terms else None


def dimension(expression: object) -> Dimension:
    """Raises ConversionError."""
    if not isinstance(expression, str):
        raise ConversionError("a dimension is no expression")
    found = [one.strip() for one in _split(expression, "|")]
    literals = tuple(one.strip('"') for one in found if one.startswith('"'))
    return Dimension(tuple(_term(one) for one in found if not one.startswith('"')), literals)


def conditions(expression: str, service: KnownService, domain: str) -> list[Manifest] | None:
    """`match` of a rule as conditions of RateLimit; None if it is not for this service. Raises ConversionError."""
    found: list[Manifest] = []
    for part in _split(expression, "&&"):
        name, text, wanted = _comparison(part.strip())
        term = _term(name)
        if isinstance(term, OfDestination):
            if (text == value_of(term, service, domain)) is not wanted:
                return None
        else:
            found.append(condition(term, text, wanted=wanted))
    return found


def condition(term: Term, text: str, *, wanted: bool) -> Manifest:
    """That an attribute has a value, or has not; `text` may have a * at one end."""
    if isinstance(term, OfDestination) or not term.key:
        raise ConversionError(f"a condition on what has no word in a RateLimit: it asks for {text[:80]!r}")
    if not text or "*" in text[1:-1] or text == "*":
        raise ConversionError(f"{text[:80]!r} can't be said in a RateLimit")
    return {"key": term.key, "values" if wanted else "notValues": [text]}


def value_of(term: OfDestination, service: KnownService, domain: str) -> str:
    """What an attribute of the destination is for a service."""
    if term.by == "app":
        if "app" not in service.selector:
            raise ConversionError(f"the label app of service {service.name} of namespace {service.namespace} is needed: give its manifest")
        return service.selector["app"]
    return service.name if term.by == "name" else f"{service.name}.{service.namespace}.svc.{domain}"


def _term(text: str) -> Term:
    indexed = _INDEXED.match(text)
    if indexed is not None:
        base, name = indexed.groups()
        if base == "destination.labels":
            return OfDestination("app") if name == "app" else Attribute("")
        return Attribute("" if base == "source.labels" else f"{base}[{name.lower() if base == 'request.headers' else name}]")
    if text in _OF_SERVICES:
        return OfDestination("name" if text.endswith(".name") else "host")
    if _NAME.match(text) is None:
        raise ConversionError(f"the expression {text[:120]!r} is not understood")
    return Attribute(_KEYS.get(text, ""))


def _comparison(text: str) -> tuple[str, str, bool]:
    """What is compared, with what, and whether it is to be so."""
    if (matched := _MATCHED.match(text)) is not None:
        name, value, operator, truth = matched.groups()
        return name, value, operator is None or (operator == "==") == (truth == "true")
    if (compared := _COMPARED.match(text)) is not None:
        name, operator, value = compared.groups()
        if value.startswith("*") or value.endswith("*"):
            raise ConversionError(f"{value[:80]!r} would be a pattern in a RateLimit")
        return name, value, operator == "=="
    raise ConversionError(f"the condition {text[:120]!r} is not understood")


def _split(text: str, separator: str) -> Iterator[str]:
    """At separators outside of quotes; `||` is none of `|`."""
    quoted, start, at = False, 0, 0
    while at < len(text):
        if text[at] == '"':
            quoted = not quoted
        if not quoted and text.startswith("||", at):
            raise ConversionError(f"{text[:120]!r}: conditions of which one suffices are not understood")
        if not quoted and text.startswith(separator, at):
            yield text[start:at]
            at += len(separator)
            start = at
            continue
        at += 1
    if quoted:
        raise ConversionError(f"{text[:120]!r}: a quote is missing")
    yield text[start:]
