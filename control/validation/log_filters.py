"""Which expressions choose what is logged: the part of CEL that such filters are written in, with each attribute's type known.

An expression that Envoy can't compile would have it refuse the whole listener; so here is understood what gets there, or it is refused.

    or    := and ('||' and)*
    and   := not ('&&' not)*
    not   := '!' not | '(' or ')' | test
    test  := 'has' '(' attribute ')' | text '.' method '(' text ')' | text 'in' headers | operand comparison operand | what is true or false
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final


class _Type(Enum):
    TEXT = auto()
    NUMBER = auto()
    TRUTH = auto()
    DURATION = auto()


_ATTRIBUTES: Final[Mapping[str, _Type]] = {
    **dict.fromkeys(
        (
            "request.path",
            "request.url_path",
            "request.host",
            "request.scheme",
            "request.method",
            "request.protocol",
            "request.id",
            "request.useragent",
            "request.referer",
            "request.query",
            "response.code_details",
            "connection.requested_server_name",
            "connection.termination_details",
            "source.address",
            "destination.address",
            "upstream.address",
            "upstream.transport_failure_reason",
            "xds.cluster_name",
            "xds.route_name",
        ),
        _Type.TEXT,
    ),
    **dict.fromkeys(
        (
            "request.size",
            "request.total_size",
            "response.code",
            "response.flags",
            "response.grpc_status",
            "response.size",
            "response.total_size",
            "source.port",
            "destination.port",
            "upstream.port",
        ),
        _Type.NUMBER,
    ),
    "request.duration": _Type.DURATION,
    "connection.mtls": _Type.TRUTH,
}
_HEADERS: Final = ("request.headers", "response.headers", "response.trailers")
_METHODS: Final = ("startsWith", "endsWith", "contains")
_ORDER: Final = ("<", "<=", ">", ">=")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>'[^'"\\]*'|"[^"'\\]*")|(?P<number>[0-9]{1,18})|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>&&|\|\||==|!=|<=|>=|[<>!().,\[\]]))"""
)
_DURATION: Final = re.compile(r"'[0-9]{1,6}(ms|s|m|h)'")
MAX_CHARACTERS: Final = 1024
_MAX_DEPTH: Final = 20


class FilterError(ValueError):
    """What an expression has that none may have."""


def check_filter(expression: str) -> None:
    """Raises FilterError for an expression that access logs can't be chosen by here."""
    if len(expression) > MAX_CHARACTERS:
        raise FilterError(f"an expression has at most {MAX_CHARACTERS} characters")
    if not (expression.isascii() and expression.isprintable()):
        raise FilterError("an expression is one line of ASCII")
    _Reader(expression).whole()


class _Reader:
    def __init__(self, expression: str) -> None:
        self._tokens = _split(expression)
        self._at = 0
        self._depth = 0

    def whole(self) -> None:
        self._either()
        if self._next:
            raise FilterError(f"{self._next[:40]!r} is not expected there")

    # ---- and, or, not

    def _either(self) -> None:
        self._joined("||", lambda: self._joined("&&", self._negated))

    def _joined(self, sign: str, part: Callable[[], None]) -> None:
        part()
        while self._take(sign):
            part()

    def _negated(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise FilterError(f"an expression nests at most {_MAX_DEPTH} deep")
        if self._take("!"):
            self._negated()
        elif self._take("("):
            self._either()
            self._expect(")")
        else:
            self._test()
        self._depth -= 1

    # ---- tests

    def _test(self) -> None:
        if self._take("has"):
            self._field()
            return
        left = self._operand()
        if left is _Type.TEXT and (self._method() or self._contained()):
            return
        sign = self._next
        if sign not in {"==", "!=", *_ORDER}:
            if left is not _Type.TRUTH:
                raise FilterError("a value that is neither true nor false is to be compared")
            return
        self._at += 1
        right = self._operand()
        if left is not right:
            raise FilterError(f"{sign} compares a {left.name.lower()} with a {right.name.lower()}")
        if sign in _ORDER and left not in {_Type.NUMBER, _Type.DURATION}:
            raise FilterError(f"{sign} compares numbers and durations")

    def _method(self) -> bool:
        if not self._take("."):
            return False
        if self._word() not in _METHODS:
            raise FilterError(f"of texts there are {', '.join(_METHODS)}")
        self._expect("(")
        if self._operand() is not _Type.TEXT:
            raise FilterError("texts are searched for texts")
        self._expect(")")
        return True

    def _field(self) -> None:
        self._expect("(")
        name = self._name()
        if name not in _ATTRIBUTES:
            raise FilterError(f"{name[:80]!r} is no attribute that is known here")
        self._expect(")")

    def _contained(self) -> bool:
        if not self._take("in"):
            return False
        if self._name() not in _HEADERS:
            raise FilterError(f"a text may be in {', '.join(_HEADERS)}")
        return True

    def _operand(self) -> _Type:
        word = self._next
        if word == "duration":
            return self._duration()
        kind = _literal(word)
        if kind is None:
            return self._attribute()
        self._at += 1
        return kind

    def _duration(self) -> _Type:
        self._expect("duration")
        self._expect("(")
        if not _DURATION.fullmatch(self._word()):
            raise FilterError("a duration is such as duration('250ms')")
        self._expect(")")
        return _Type.DURATION

    def _attribute(self) -> _Type:
        name = self._name()
        if name in _HEADERS:
            self._expect("[")
            if self._operand() is not _Type.TEXT:
                raise FilterError("a header is named by a text")
            self._expect("]")
            return _Type.TEXT
        if name not in _ATTRIBUTES:
            raise FilterError(f"{name[:80]!r} is no attribute that is known here")
        return _ATTRIBUTES[name]

    def _name(self) -> str:
        first = self._word()
        self._expect(".")
        return f"{first}.{self._word()}"

    # ---- tokens

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _word(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1] if self._at <= len(self._tokens) else ""

    def _take(self, token: str) -> bool:
        if self._next != token:
            return False
        self._at += 1
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise FilterError(f"{token!r} is expected before {self._next[:40]!r}" if self._next else f"{token!r} is missing at the end")


def _literal(word: str) -> _Type | None:
    if word[:1] in {"'", '"'}:
        return _Type.TEXT
    if word.isdecimal():
        return _Type.NUMBER
    return _Type.TRUTH if word in {"true", "false"} else None


def _split(expression: str) -> list[str]:
    found: list[str] = []
    at, end = 0, len(expression.rstrip())
    while at < end:
        token = _TOKEN.match(expression, at)
        if token is None:
            raise FilterError(f"{expression[at : at + 40].strip()!r} is not understood")
        found.append(token[0].strip())
        at = token.end()
    return found
