"""What the decoders of resources share: the error, and checks that never read an unknown value as a known one."""

from enum import IntEnum
from typing import Final, TypeVar

MAX_PORT: Final = 65535
E = TypeVar("E", bound=IntEnum)


class ModelError(ValueError):
    """A resource that can't be understood, with the field that is wrong."""


def known(kind: type[E], value: int, field: str) -> E:
    """Returns the member of `kind` for a number off the wire; raises ModelError for one that this version does not know."""
    try:
        return kind(value)
    except ValueError:
        raise ModelError(f"{field}: unknown value {value}") from None
