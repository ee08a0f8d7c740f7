"""What an analysis says."""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from control.kinds import ObjectKey
from control.validation.finding import Origin


class Level(StrEnum):
    """How bad it is, the worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


LEVELS: Final = tuple(Level)


class Message(Struct, frozen=True):
    """`code` names the sort of finding (IST: Istio's own numbers; NM: ours), `what` is the case, `hint` what to do."""

    code: str
    level: Level
    object: ObjectKey | None
    origin: Origin
    what: str
    hint: str = ""

    @property
    def rank(self) -> tuple[int, str, str, str]:
        return LEVELS.index(self.level), str(self.origin), self.code, self.what


CODES: Final[dict[str, str]] = {
    "IST0101": "something that is named is not there",
    "IST0106": "an object is not valid",
    "IST0109": "several virtual services have one host",
    "IST0118": "a port's name does not say its protocol",
    "IST0108": "an annotation that nobody reads",
    "IST0127": "it matches no workload",
    "IST0130": "a route that is never reached",
    "IST0131": "a condition that is never met",
    "IST0132": "a host that its gateway is not for",
    "IST0137": "several rules for one host",
    "IST0145": "ports or names that gateways share",
    "IST0151": "a patch whose place is decided by chance",
    "NM0001": "it is used in part",
    "NM0002": "a subset without endpoints",
    "NM0003": "a waypoint that is not there, or does not take it",
    "NM0004": "policies that look at requests, where nobody does",
    "NM0005": "a service that selects nothing",
    "NM0006": "a form of former versions",
    "NM0007": "limits for all, and nobody who counts",
    "NM0008": "others have the account of a waypoint",
}
"""Each with what it is about."""


def about(key: ObjectKey, code: str, level: Level, what: str, hint: str) -> Message:
    """Of an object, wherever it is written."""
    return Message(code, level, key, Origin("", 0, 0), what, hint)
