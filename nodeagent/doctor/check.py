"""One check's result."""

from enum import StrEnum

from msgspec import Struct


class Outcome(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Check(Struct, frozen=True):
    """`mend`: what to do about it."""

    subject: str
    outcome: Outcome
    what: str
    mend: str = ""


def ok(subject: str, what: str) -> Check:
    return Check(subject, Outcome.OK, what)


def warning(subject: str, what: str, mend: str) -> Check:
    return Check(subject, Outcome.WARNING, what, mend)


def failed(subject: str, what: str, mend: str) -> Check:
    return Check(subject, Outcome.FAILED, what, mend)
