"""Times and sizes in the words of people."""

from typing import Final

_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def printable(text: str) -> str:
    """The text without what a terminal would obey: names and reasons come from others."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def duration(seconds: float) -> str:
    """The two biggest units: `3 d 4 h`, `12 min 5 s`, `0 s`."""
    left = max(0.0, seconds)
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        count = int(left // size)
        left -= count * size
        if count or parts:
            parts.append((count, unit))
        if len(parts) == 2:
            break
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown) or "0 s"


def ago(at_s: float | None, now_s: float) -> str:
    """`5 s ago`, or `never`."""
    return "never" if at_s is None else f"{duration(now_s - at_s)} ago"


def until(at_s: float | None, now_s: float) -> str:
    """`in 23 h`, `expired 5 s ago`, or `-`."""
    if at_s is None:
        return "-"
    return f"in {duration(at_s - now_s)}" if at_s > now_s else f"{duration(now_s - at_s)} ago"


def size(count: int) -> str:
    """Bytes: `17 B`, `1.2 KiB`, `3.4 GiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"


def plural(count: int, noun: str) -> str:
    """`1 policy`, `2 policies`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"
