"""Counts as bars and rows of text, for people."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

WIDTH: Final = 50


def bars(counts: Mapping[str, int]) -> str:
    """A line for each, as long as its share of all, in the order given; what is not zero is seen."""
    label = max(map(len, counts), default=0)
    total = max(sum(counts.values()), 1)
    lines = [f"{name:{label}}  {'█' * _length(count, total)}{' ' if count else ''}{count}" for name, count in counts.items()]
    return "\n".join(lines)


def _length(count: int, total: int) -> int:
    return max(round(WIDTH * count / total), 1) if count else 0


def rows(heads: Sequence[str], found: Sequence[Sequence[object]]) -> str:
    """Columns below their heads."""
    cells = [list(heads), *([str(cell) for cell in row] for row in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def six_sigma(count: int, share: float) -> float:
    """How far a count of `count` draws of this probability strays from the mean: once in five hundred million it is more."""
    return 6 * math.sqrt(count * share * (1 - share))
