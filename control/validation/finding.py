"""What a check has to say: where, how bad, what, and what to do."""

from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


class Origin(Struct, frozen=True, order=True):
    """A place in the configuration; line and column count from 1, and are 0 where there are no lines."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Finding(Struct, frozen=True, order=True):
    """`what` is wrong (or suspicious) at `origin`; `hint` says what to do."""

    origin: Origin
    severity: Severity
    what: str
    hint: str = ""
    object: str = ""

    def __str__(self) -> str:
        subject = f"{self.object}: " if self.object else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.origin}: {self.severity}: {subject}{self.what}{hint}"


class Remark(Struct, frozen=True):
    """A finding before its place in a file is known: `path` leads to the field, as keys and indexes."""

    path: tuple[str | int, ...]
    what: str
    hint: str = ""
    severity: Severity = Severity.ERROR


def warning(path: tuple[str | int, ...], what: str, hint: str = "") -> Remark:
    """A remark that does not keep the object from being used."""
    return Remark(path, what, hint, Severity.WARNING)
