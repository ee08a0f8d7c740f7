"""MERGE as protobuf means it: what is stated replaces, lists grow, parts are merged in turn; extensions of one type, too."""

from typing import Any, Final

from control.envoy.messages import Message, packed
from control.envoy.patches.allowed import ANY, PatchError, opened, type_name

_WHOLE: Final = frozenset(("google.protobuf.Duration", "google.protobuf.Timestamp"))
"""Messages that are one value: a patch's `1.5s` takes nothing over from `30.2s`."""


def merge(target: Message, patch: Message) -> None:
    """Changes `target`. Raises PatchError where an extension would have to become one of another type."""
    for field, value in patch.ListFields():
        if field.message_type is None:
            _plain(target, field, value)
        elif field.message_type.GetOptions().map_entry:
            _map(target, field, value)
        elif field.is_repeated:
            getattr(target, field.name).extend(value)
        else:
            _part(target, field.name, value)


def _plain(target: Message, field: Any, value: Any) -> None:
    if field.is_repeated:
        getattr(target, field.name).extend(value)
    else:
        setattr(target, field.name, value)


def _map(target: Message, field: Any, value: Any) -> None:
    into = getattr(target, field.name)
    of_messages = field.message_type.fields_by_name["value"].message_type
    for key in value:
        if of_messages is None:
            into[key] = value[key]
        elif of_messages.full_name == ANY and key in into:
            _extension(into[key], value[key])
        else:
            into[key].CopyFrom(value[key])


def _part(target: Message, name: str, value: Message) -> None:
    part = getattr(target, name)
    kind = value.DESCRIPTOR.full_name
    if kind in _WHOLE or not target.HasField(name):
        part.CopyFrom(value)
    elif kind == ANY:
        _extension(part, value)
    else:
        part.SetInParent()
        merge(part, value)


def _extension(target: Message, patch: Message) -> None:
    if type_name(target) != type_name(patch):
        raise PatchError(f"there is a {type_name(target)}, with which no {type_name(patch)} can be merged")
    inner = opened(target)
    merge(inner, opened(patch))
    target.CopyFrom(packed(inner))


def unnamed(message: Message) -> Message:
    """Without its name, by which what it is merged into is known to others."""
    found = type(message)()
    found.CopyFrom(message)
    found.ClearField("name")
    return found
