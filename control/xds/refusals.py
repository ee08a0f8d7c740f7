"""Which resources an Envoy refuses, out of the words with which it refuses a response.

Envoy refuses a response, not a resource. Of clusters and listeners it says which, and keeps the good ones; of the others it names
none, and what came behind the bad one is not applied: those are sent again, one by one, until each has its own answer.
"""

import re
from collections.abc import Collection, Iterable
from typing import Final

from msgspec import Struct

MAX_TEXT: Final = 2000
_NAMED: Final = re.compile(r"Error adding/updating (?:cluster|listener)\(s\) ", re.ASCII)


class Refusal(Struct, frozen=True):
    """A resource that a client refused, in its own words. `version`: of what it refused."""

    type_url: str
    name: str
    version: str
    at_s: float
    message: str


class Verdict(Struct, frozen=True):
    """What a client said to a resource in one version: nothing against it, or why it refuses it."""

    type_url: str
    name: str
    version: str
    refused: str | None = None


def named_in(message: str, names: Iterable[str]) -> dict[str, str]:
    """The resources of a response that its refusal speaks of, each with what is said of it; none if it says nothing of which."""
    found = _NAMED.search(message)
    if found is None:
        return {}
    text = message[found.end() :]
    # Names may be in each other, and reasons may quote names: of each the first place where it is said that one begins.
    starts = sorted((at, name) for name in names if (at := _start(text, name)) is not None)
    ends = (*(at for at, _ in starts[1:]), len(text))
    return {name: text[at + len(name) + 2 : end].strip(", \n") for (at, name), end in zip(starts, ends, strict=False)}


def _start(text: str, name: str) -> int | None:
    match = re.search(rf"(?:^|, |\n){re.escape(name)}: ", text)
    return None if match is None else match.end() - len(name) - 2


class Refusals:
    """What one client refuses now."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Refusal] = {}
        self.revision = 0
        """Counts changes."""

    def accepted(self, type_url: str, names: Collection[str]) -> None:
        """These are in force, or gone."""
        for name in names:
            if self._found.pop((type_url, name), None) is not None:
                self.revision += 1

    def refused(self, refusal: Refusal) -> None:
        self._found[(refusal.type_url, refusal.name)] = refusal
        self.revision += 1

    def has(self, type_url: str, name: str) -> bool:
        return (type_url, name) in self._found

    def all(self) -> tuple[Refusal, ...]:
        return tuple(refusal for _, refusal in sorted(self._found.items()))
