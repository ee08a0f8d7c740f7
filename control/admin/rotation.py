"""The admin socket's side of rolling the own root over: each step is done if nothing speaks against it, or if it is forced."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
from aiohttp import web
from msgspec import Struct

from control.ca.authority import Authority, Clock
from control.ca.issuer import IssuerError, issued
from control.ca.leaf import MAX_AGENT_TTL_S
from control.ca.root_files import RootStore
from control.ca.rotation import Files, Phase, Rotation, RotationError, activate, cancel, fingerprint, finish, rotation, start
from control.xds.connection import AgentStatus
from meshapi.wire import TRUST_TYPE

SETTLE_S: Final = 120.0
"""Other replicas look at the root's secret every 45 s at the latest, and tell their agents then."""
GIVEN: Final = (
    "the authority is given (cacerts, --ca-dir): put another root beside the first in root-cert.pem, and the files that sign after it"
)


class _Asked(Struct, frozen=True, forbid_unknown_fields=True):
    force: bool = False
    cancel: bool = False


class Root(Struct, frozen=True):
    """One that is trusted. `signs`: the certificates of now are below it."""

    sha256: str
    subject: str
    expires_s: int
    signs: bool


class RotationStatus(Struct, frozen=True):
    """`waits`: why the next step should not be done yet, in words; empty if it can be."""

    phase: Phase
    since_s: float | None
    roots: tuple[Root, ...]
    waits: str


@dataclass(frozen=True)
class RotationParts:
    """`store` None: the root is not ours. `followers` are those that are connected here and told of the roots."""

    store: RootStore | None
    authority: Authority
    followers: Callable[[], Iterable[AgentStatus]]
    trust_domain: str
    clock: Clock


def rotation_routes(parts: RotationParts) -> list[web.RouteDef]:
    return [web.get("/root/rotation", partial(_show, parts)), web.post("/root/rotation", partial(_step, parts))]


def waits(under_way: Rotation | None, agents: Iterable[AgentStatus], now_s: float) -> str:
    """Why the next step should wait; empty if it need not."""
    if under_way is None:
        return ""
    if under_way.phase is Phase.ACTIVATED:
        left_s = under_way.since_s + MAX_AGENT_TTL_S - now_s
        return "" if left_s <= 0 else f"certificates below the former root may be in use for {left_s / 86400:.1f} days"
    late = sorted({agent.node for agent in agents if not any(one.type_url == TRUST_TYPE and not one.pending for one in agent.types)})
    if late:
        more = f" and {len(late) - 5} more" if len(late) > 5 else ""
        return f"not all agents have acknowledged the new root: {', '.join(late[:5])}{more}"
    left_s = under_way.since_s + SETTLE_S - now_s
    return "" if left_s <= 0 else f"other controllers and their agents have {left_s:.0f} s to learn of the new root"


async def _status(parts: RotationParts, store: RootStore) -> RotationStatus:
    files = await store.files()
    under_way = rotation(files)
    why = waits(under_way, parts.followers(), parts.clock())
    since_s = under_way.since_s if under_way else None
    return RotationStatus(under_way.phase if under_way else Phase.NONE, since_s, _roots(parts.authority), why)


def _roots(authority: Authority) -> tuple[Root, ...]:
    issuer = authority.issuer
    return tuple(
        Root(fingerprint(root), root.subject.rfc4514_string(), int(root.not_valid_after_utc.timestamp()), issued(root, issuer.certificate))
        for root in issuer.roots
    )


async def _show(parts: RotationParts, _request: web.Request) -> web.Response:
    if parts.store is None:
        return _refused(GIVEN)
    try:
        return _json(await _status(parts, parts.store))
    except RotationError as error:
        return _refused(str(error))


async def _step(parts: RotationParts, request: web.Request) -> web.Response:
    asked = msgspec.json.decode(await request.read() or b"{}", type=_Asked)
    if parts.store is None:
        return _refused(GIVEN)
    try:
        before = await _status(parts, parts.store)
        if before.waits and not asked.force and not asked.cancel:
            return _refused(f"{before.waits} (--force goes on all the same)")
        await _change(parts, parts.store, before.phase, cancelled=asked.cancel)
        return _json(await _status(parts, parts.store))
    except (RotationError, IssuerError) as error:
        return _refused(str(error))


def _change(parts: RotationParts, store: RootStore, phase: Phase, *, cancelled: bool) -> Awaitable[object]:
    """The step after `phase`; one that somebody else has done meanwhile is not done twice."""

    def step(files: Files) -> Files:
        if cancelled:
            return cancel(files)
        match phase:
            case Phase.NONE:
                return start(files, parts.trust_domain, parts.clock())
            case Phase.STARTED:
                return activate(files, parts.clock())
            case Phase.ACTIVATED:
                return finish(files)

    async def change() -> None:
        await store.change(step)
        await parts.authority.refresh()

    return change()


def _json(data: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), content_type="application/json")


def _refused(message: str) -> web.Response:
    return web.Response(status=409, body=msgspec.json.encode({"error": message}), content_type="application/json")
