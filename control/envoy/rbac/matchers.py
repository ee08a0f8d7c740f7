"""The patterns of policies as Envoy's matchers. What is matched is what Envoy forwards: nothing is decoded or folded that it does not."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any as Message
from typing import Final, TypeVar

from control.envoy.messages import new
from meshapi.authorization import IPNetwork

T = TypeVar("T")
STRING: Final = "envoy.type.matcher.v3.StringMatcher"
JWT_FILTER: Final = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD: Final = "payload"
"""Where the token filter leaves the claims of a token that it verified."""
_SPECIAL: Final = frozenset("\\.+*?()|[]{}^$")


def string(text: str, *, ahead: str = "") -> Message:
    """`*` is any value but an empty one, `*suffix`, `prefix*`, else literal; `ahead` stands before each value that is matched."""
    if text == "*":
        return regex(f"{escape(ahead)}.+")
    if text.startswith("*"):
        # The part before is some text; with something ahead it must not reach into that.
        return regex(f"{escape(ahead)}.*{escape(text[1:])}") if ahead else new(STRING, suffix=text[1:])
    return new(STRING, prefix=ahead + text[:-1]) if text.endswith("*") else new(STRING, exact=ahead + text)


def regex(pattern: str) -> Message:
    """Matches the whole value; RE2, a dot stands for a line feed too."""
    return new(STRING, safe_regex={"regex": f"(?s){pattern}"})


def escape(text: str) -> str:
    """As RE2 takes literally."""
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in text)


def pattern(text: str) -> str:
    """A policy's pattern as a regular expression for a part of a value."""
    if text == "*":
        return ".+"
    if text.startswith("*"):
        return f".*{escape(text[1:])}"
    return f"{escape(text[:-1])}.*" if text.endswith("*") else escape(text)


def host(text: str) -> Message:
    """Whatever the case; without a port in it, it stands for each port of the host."""
    port = "" if ":" in text.rpartition("]")[2] and not text.endswith("*") else "(:[0-9]+)?"
    return regex(f"(?i){pattern(text)}{port}")


def header(name: str, text: str, *, each: bool) -> Message:
    """A header's value; of several headers of one name, any. `each`: also any of the values of a list, between its commas."""
    if text == "*":
        return new("envoy.config.route.v3.HeaderMatcher", name=name, present_match=True)
    value = regex(f"(.*,)?\\s*{pattern(text)}\\s*(,.*)?") if each else string(text)
    return new("envoy.config.route.v3.HeaderMatcher", name=name, string_match=value)


def cidr(network: IPNetwork) -> Message:
    return new("envoy.config.core.v3.CidrRange", address_prefix=str(network.network_address), prefix_len={"value": network.prefixlen})


def claim(path: Sequence[str], value: Message) -> Message:
    """A claim of the verified token, by its name or the names that lead to it: the text itself, or one of a list of texts."""
    return new(
        "envoy.type.matcher.v3.MetadataMatcher",
        filter=JWT_FILTER,
        path=[{"key": key} for key in (JWT_PAYLOAD, *path)],
        value={"or_match": {"value_matchers": [{"string_match": value}, {"list_match": {"one_of": {"string_match": value}}}]}},
    )


def request_principal(text: str) -> list[tuple[Message, Message]]:
    """Issuer and subject that together are `issuer/subject` as the pattern says: pairs, of which any will do.

    Both may contain a slash, so a text with several has as many readings.
    """
    some = regex(".+")
    if text == "*":
        return [(some, some)]
    if text.startswith("*"):
        ending = text[1:]
        pairs = [(some, new(STRING, suffix=ending)) if ending else (some, some)]
        return pairs + [(string(f"*{issuer}") if issuer else some, new(STRING, exact=subject)) for issuer, subject in _readings(ending)]
    if text.endswith("*"):
        beginning = text[:-1]
        within = [(issuer, new(STRING, prefix=subject) if subject else some) for issuer, subject in _readings(beginning) if issuer]
        return [(new(STRING, prefix=beginning), some), *((new(STRING, exact=issuer), subject) for issuer, subject in within)]
    return [(new(STRING, exact=issuer), new(STRING, exact=subject)) for issuer, subject in _readings(text) if issuer and subject]


def _readings(text: str) -> Iterable[tuple[str, str]]:
    return ((text[:at], text[at + 1 :]) for at, letter in enumerate(text) if letter == "/")


class Logic:
    """`and`, `or`, `not` of one of Envoy's two trees: permissions or principals."""

    def __init__(self, name: str, *, every: str, some: str, none: str, members: str) -> None:
        self._name, self._every, self._some, self._none, self._members = name, every, some, none, members

    def of(self, **fields: object) -> Message:
        return new(self._name, **fields)

    def anything(self) -> Message:
        return self.of(any=True)

    def nothing(self) -> Message:
        return self.none_of([self.anything()])

    def all_of(self, members: Sequence[Message]) -> Message:
        """All of them; with none, anything."""
        if not members:
            return self.anything()
        return members[0] if len(members) == 1 else self.of(**{self._every: {self._members: members}})

    def any_of(self, members: Sequence[Message]) -> Message:
        """One of them; with none, nothing."""
        if not members:
            return self.nothing()
        return members[0] if len(members) == 1 else self.of(**{self._some: {self._members: members}})

    def none_of(self, members: Sequence[Message]) -> Message:
        return self.of(**{self._none: self.any_of(members)})

    def listed(self, values: Sequence[T], unwanted: Sequence[T], one: Callable[[T], Message]) -> list[Message]:
        """What a field and its `not` field ask for: at most one of each."""
        found = [self.any_of([one(value) for value in values])] if values else []
        return [*found, self.none_of([one(value) for value in unwanted])] if unwanted else found


PERMISSION: Final = Logic("envoy.config.rbac.v3.Permission", every="and_rules", some="or_rules", none="not_rule", members="rules")
PRINCIPAL: Final = Logic("envoy.config.rbac.v3.Principal", every="and_ids", some="or_ids", none="not_id", members="ids")
