"""What goes into the delta-ADS state machine and what comes out of it."""

from dataclasses import dataclass

from meshapi.discovery import Request, Response
from nodeagent.xds.kinds import Accepted

# ---- events


@dataclass(frozen=True, slots=True)
class Opened:
    """A new stream is there; nothing was sent on it."""


@dataclass(frozen=True, slots=True)
class Received:
    response: Response


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream, or the attempt to get one, ended. `clean`: the server closed it in order."""

    clean: bool
    error: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class Flush:
    """The stream takes more: what subscriptions changed since the last time may go out, in one."""


Event = Opened | Received | Lost | Subscribe | Unsubscribe | Flush

# ---- effects


@dataclass(frozen=True, slots=True)
class Send:
    request: Request


@dataclass(frozen=True, slots=True)
class Update:
    """A change of what is held of a type, to be applied in the order removed, upserts, absent.

    `removed`: names no longer held, whether the server said so or nobody asks for them any more. `absent`: keys that are asked for and
    stand for nothing, until an upsert covers them. `answered`: keys that are asked for and that an upsert came for.
    """

    type_url: str
    upserts: tuple[Accepted, ...] = ()
    removed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A resource was refused; its last good form, if any, stays in force until an update upserts or removes the name."""

    type_url: str
    name: str
    error: str
    has_last_good: bool
    keys: tuple[str, ...] = ()
    """The keys that are asked for and stand for it, as far as they are known."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Each required type was answered once."""


@dataclass(frozen=True, slots=True)
class DialAt:
    """Dial (again) at this time of the clock that `step` gets."""

    at_s: float


Effect = Send | Update | Rejected | Ready | DialAt
