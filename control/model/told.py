"""What Envoys tell of objects: what they refuse, and what objects ask of them in vain."""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from control.kinds import ObjectKey

Words = Mapping[ObjectKey, tuple[str, ...]]


class Told(Struct, frozen=True):
    """`in_vain`: what objects ask for and do not get; `refused`: what Envoys do not take, in their words."""

    in_vain: dict[ObjectKey, tuple[str, ...]] = {}
    refused: dict[ObjectKey, tuple[str, ...]] = {}


def together(told: Iterable[Told]) -> Told:
    """All of it; said again by several, it is said once."""
    found = tuple(told)
    return Told(_merged(one.in_vain for one in found), _merged(one.refused for one in found))


def _merged(parts: Iterable[Words]) -> dict[ObjectKey, tuple[str, ...]]:
    merged: dict[ObjectKey, dict[str, None]] = {}
    for part in parts:
        for key, words in part.items():
            merged.setdefault(key, {}).update(dict.fromkeys(words))
    return {key: tuple(words) for key, words in merged.items()}
