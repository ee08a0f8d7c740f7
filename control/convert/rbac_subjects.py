"""Subjects and constraints of the old roles, as sources and conditions of today's rules."""

from typing import Any, Final

from msgspec import Struct

from control.convert.targets import ConversionError, Manifest, only, part, texts

_LISTS: Final = {
    "names": "principals",
    "notNames": "notPrincipals",
    "namespaces": "namespaces",
    "notNamespaces": "notNamespaces",
    "ips": "ipBlocks",
    "notIps": "notIpBlocks",
}
_GROUPS: Final = "request.auth.claims[groups]"
_SUBJECT: Final = frozenset({*_LISTS, "user", "group", "groups", "notGroups", "properties"})
_PROPERTIES: Final = {
    "source.principal": "principals",
    "source.namespace": "namespaces",
    "source.ip": "ipBlocks",
    "request.auth.principal": "requestPrincipals",
}
_OF_REQUESTS: Final = frozenset({"requestPrincipals"})


class Subject(Struct, frozen=True):
    """Who is let in: `source` of a rule and conditions beside it. `of_requests`: only a request shows it."""

    source: Manifest
    conditions: tuple[Manifest, ...]
    of_requests: bool


def subject_of(subject: Manifest) -> Subject:
    """Of one subject of a binding; raises ConversionError."""
    only(subject, _SUBJECT, "a subject")
    user = subject.get("user", "")
    if not isinstance(user, str):
        raise ConversionError("a subject's user is no text")
    # As a user, * was everybody, with an identity or without.
    source: dict[str, list[str]] = {"principals": [user]} if user not in {"", "*"} else {}
    for field, name in _LISTS.items():
        if subject.get(field):
            source.setdefault(name, []).extend(texts(subject[field], field))
    conditions = _groups(subject) + _properties(part(subject, "properties"), source)
    if not source and not conditions and not user:
        raise ConversionError("a subject that names nobody")
    of_requests = bool(_OF_REQUESTS & set(source)) or any(one["key"].startswith("request.") for one in conditions)
    return Subject(dict(source), tuple(conditions), of_requests)


def _groups(subject: Manifest) -> list[Manifest]:
    stated = [subject["group"]] if subject.get("group") else subject.get("groups")
    groups, others = texts(stated, "groups"), texts(subject.get("notGroups"), "notGroups")
    conditions: list[Manifest] = [{"key": _GROUPS, "values": groups}] if groups else []
    return [*conditions, {"key": _GROUPS, "notValues": others}] if others else conditions


def _properties(properties: Manifest, source: dict[str, list[str]]) -> list[Manifest]:
    """The conditions that properties are; those that a source can say go into `source`."""
    conditions: list[Manifest] = []
    for key, value in properties.items():
        if not isinstance(value, str):
            raise ConversionError(f"the property {str(key)[:80]} is no text")
        if key in _PROPERTIES:
            if _PROPERTIES[key] in source:
                raise ConversionError(f"{key} is said twice: together they mean both, which has no new form")
            source[_PROPERTIES[key]] = [value]
        else:
            conditions.append({"key": _request_key(key), "values": [value]})
    return conditions


def _request_key(key: str) -> str:
    known = key in {"request.auth.audiences", "request.auth.presenter"}
    if known or (key.endswith("]") and key.startswith(("request.headers[", "request.auth.claims["))):
        return key
    raise ConversionError(f"the property {key[:80]} has no new form")


def conditions_of(constraints: list[Manifest], namespace: str) -> tuple[list[Manifest], dict[str, str]]:
    """Conditions of a rule, and labels that its workloads must have; raises ConversionError."""
    conditions: list[Manifest] = []
    labels: dict[str, str] = {}
    for constraint in constraints:
        only(constraint, frozenset({"key", "values", "value"}), "a constraint")
        key: Any = constraint.get("key")
        values = texts(constraint.get("values", constraint.get("value")), "values of a constraint")
        if not isinstance(key, str) or not values:
            raise ConversionError("a constraint needs key and values")
        if key.startswith("destination.labels[") and key.endswith("]"):
            if len(values) != 1 or "*" in values[0]:
                raise ConversionError(f"{key} with several values: make a role for each, today's policies select by one value")
            labels[key.removeprefix("destination.labels[").removesuffix("]")] = values[0]
        elif key == "destination.namespace":
            if namespace not in values:
                raise ConversionError(f"destination.namespace does not have {namespace}, where the role is: it let nobody in")
        elif key in {"destination.ip", "destination.port"} or (key.startswith("request.headers[") and key.endswith("]")):
            conditions.append({"key": key, "values": values})
        else:
            raise ConversionError(f"the constraint {key[:80]} has no new form")
    return conditions, labels
