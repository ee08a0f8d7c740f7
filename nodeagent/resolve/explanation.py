"""An explanation as a value: steps in words, and how it ends."""

from enum import StrEnum

from msgspec import Struct


class Outcome(StrEnum):
    ALLOWED = "allowed"
    DENIED = "denied"
    OUTSIDE = "outside"
    """The call leaves the mesh: nothing here decides about it."""
    UNKNOWN = "unknown"


class Step(Struct, frozen=True):
    """`what` is a word for the kind of step, `text` a sentence."""

    what: str
    text: str


class Explanation(Struct, frozen=True):
    """`unknown` names the keys that would have to be known to say more."""

    outcome: Outcome
    steps: tuple[Step, ...]
    unknown: tuple[str, ...] = ()
