"""Configuration files in the form of Envoy's reference rate limit server: a domain, and nested descriptors with limits.

An entry of a question is met by the descriptor with its key and value, else by one whose value ends in `*` and begins alike, else by one
without value, which tells its values apart. The limit is that of the descriptor that the last entry comes to.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from control.ratelimit.limits import MAX_REQUESTS, Entry, Limit, Rule, Unit, Unlimited
from control.validation.yaml_text import YAMLError, read_document, split_documents

_MAX_FILES: Final = 1000


class _Replaced(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class _RateLimit(Struct, frozen=True, forbid_unknown_fields=True):
    unit: str = ""
    requests_per_unit: int = 0
    unlimited: bool = False
    name: str = ""
    replaces: tuple[_Replaced, ...] = ()


class _Descriptor(Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    value: str | int = ""
    rate_limit: _RateLimit | None = None
    shadow_mode: bool = False
    descriptors: "tuple[_Descriptor, ...]" = ()
    # How finely the reference server names its metrics; ours have no names of callers' values.
    detailed_metric: bool = False
    value_to_metric: bool = False


class _Root(Struct, frozen=True, forbid_unknown_fields=True):
    domain: str
    descriptors: tuple[_Descriptor, ...] = ()


class Node(Struct, frozen=True):
    """A descriptor: its rule, and those below it by key and value; `any_value` by key, `beginnings` by key and how the value begins."""

    rule: Rule | None = None
    exact: Mapping[Entry, "Node"] = {}
    beginnings: tuple[tuple[Entry, "Node"], ...] = ()
    any_value: Mapping[str, "Node"] = {}

    def below(self, entry: Entry) -> "Node | None":
        """What an entry comes to."""
        found = self.exact.get(entry)
        if found is not None:
            return found
        key, value = entry
        wide = (node for (wanted, start), node in self.beginnings if wanted == key and value.startswith(start))
        return next(wide, None) or self.any_value.get(key)


class ConfigurationError(ValueError):
    """Files that can't be followed; says which, where and why."""


Domains = Mapping[str, Node]


def domains(texts: Mapping[str, str]) -> Domains:
    """What all files together say, by domain; raises ConfigurationError if one of them is wrong."""
    if len(texts) > _MAX_FILES:
        raise ConfigurationError(f"more than {_MAX_FILES} files")
    found: dict[str, Node] = {}
    for file in sorted(texts):
        root = _root(file, texts[file])
        if not root.domain:
            raise ConfigurationError(f"{file}: an empty domain")
        if root.domain in found:
            raise ConfigurationError(f"{file}: another file has the domain {root.domain[:80]!r} already")
        found[root.domain] = _node(None, root.descriptors, f"{file}: {root.domain[:80]}")
    return found


def rule_for(found: Domains, domain: str, entries: Iterable[Entry]) -> Rule | None:
    """The rule for a descriptor; None if there is none for it."""
    node = found.get(domain)
    for entry in entries:
        node = node.below(entry) if node is not None else None
    return node.rule if node is not None else None


def _root(file: str, text: str) -> _Root:
    documents = [part for part in split_documents(text) if part[1].strip()]
    if len(documents) != 1:
        raise ConfigurationError(f"{file}: one document is expected, with a domain")
    line, part = documents[0]
    try:
        node = read_document(part, line)
        return msgspec.convert(node.plain() if node is not None else {}, _Root)
    except YAMLError as error:
        raise ConfigurationError(f"{file}:{error.line}: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _node(rule: Rule | None, descriptors: Iterable[_Descriptor], place: str) -> Node:
    exact: dict[Entry, Node] = {}
    beginnings: dict[Entry, Node] = {}
    any_value: dict[str, Node] = {}
    for one in descriptors:
        value = str(one.value)
        where = f"{place}.{one.key[:80]}{f'_{value[:80]}' if value else ''}"
        if not one.key:
            raise ConfigurationError(f"{place}: a descriptor without key")
        made = _node(_rule(one, where), one.descriptors, where)
        if value.endswith("*"):
            taken = beginnings.setdefault((one.key, value[:-1]), made)
        else:
            taken = exact.setdefault((one.key, value), made) if value else any_value.setdefault(one.key, made)
        if taken is not made:
            raise ConfigurationError(f"{where} is there twice")
    return Node(rule, exact, tuple(beginnings.items()), any_value)


def _rule(one: _Descriptor, where: str) -> Rule | None:
    stated = one.rate_limit
    if stated is None:
        return None
    replaces = tuple(replaced.name for replaced in stated.replaces)
    if "" in replaces or (stated.name and stated.name in replaces):
        raise ConfigurationError(f"{where}: replaces what has no name, or itself")
    if stated.unlimited:
        if stated.unit or stated.requests_per_unit:
            raise ConfigurationError(f"{where}: unlimited, and yet a limit")
        return Unlimited(stated.name, replaces)
    try:
        unit = Unit(stated.unit.lower())
    except ValueError:
        raise ConfigurationError(f"{where}: {stated.unit[:40]!r} is none of {', '.join(Unit)}") from None
    if not 0 <= stated.requests_per_unit <= MAX_REQUESTS:
        raise ConfigurationError(f"{where}: requests_per_unit must be 0 to {MAX_REQUESTS}")
    return Limit(stated.requests_per_unit, unit, one.shadow_mode, stated.name, replaces)
