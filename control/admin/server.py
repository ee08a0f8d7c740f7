"""What the admin socket answers: JSON, errors as `{"error": …}`."""

import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from control.admin.nodes import node_routes
from control.admin.proxies import proxy_routes
from control.admin.rotation import RotationParts, rotation_routes
from control.ca.authority import Authority, Clock
from control.ca.join_tokens import JoinTokens, TooManyTokensError
from control.ca.refusal import UnavailableError
from control.ca.revocations import Revocations, parse_identity
from control.ca.root_files import RootStore
from control.ca.token_records import TokenRecord
from control.resources import Placement
from control.xds.hub import Hub
from control.xds.proxies import Proxies
from meshapi.spiffe import IdentityError

MAX_BODY_BYTES = 64 * 1024
log = logging.getLogger(__name__)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Objects = Callable[[str, str, str], Any]
"""(kind, namespace, name) -> what `meshctl get` shows; empty strings do not restrict. Raises LookupError for what is not there."""


class TokenRequest(msgspec.Struct, forbid_unknown_fields=True):
    """For a node, or for an Envoy of a Gateway (`namespace/name`)."""

    node: str = ""
    gateway: str = ""
    ttl_s: int = 3600


class RevocationRequest(msgspec.Struct, forbid_unknown_fields=True):
    identity: str


class PublicToken(msgspec.Struct, frozen=True):
    """A token without what it is checked by."""

    id: str
    node: str
    created_s: int
    expires_s: int
    used_s: int | None
    gateway: str = ""


class JoiningInfo(msgspec.Struct, frozen=True):
    """What who joins must know of this controller: `hostnames` are those of its certificate."""

    cluster: str
    trust_domain: str
    root_namespace: str
    token_port: int
    agent_port: int
    hostnames: tuple[str, ...]


@dataclass(frozen=True)
class AdminParts:
    """What the admin socket shows and changes."""

    authority: Authority
    tokens: JoinTokens
    revocations: Revocations
    placement: Placement
    hub: Hub
    proxies: Proxies | None
    objects: Objects
    trust_domain: str
    clock: Clock
    ready: Callable[[], bool]
    joining: Callable[[], JoiningInfo | None]
    """None until agents can connect."""
    root: RootStore | None
    """None: an operator's."""


def make_app(parts: AdminParts) -> web.Application:
    """The routes."""
    admin = _Admin(parts)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
    app.add_routes(
        [
            web.get("/status", admin.status),
            web.get("/agents", admin.agents),
            *proxy_routes(parts.hub, parts.proxies),
            *node_routes(parts.hub, parts.proxies),
            web.get("/root", admin.root),
            *rotation_routes(RotationParts(parts.root, parts.authority, parts.hub.followers, parts.trust_domain, parts.clock)),
            web.get("/objects", admin.objects),
            web.get("/joining", admin.joining),
            web.get("/tokens", admin.tokens),
            web.post("/tokens", admin.create_token),
            web.delete("/tokens/{id}", admin.revoke_token),
            web.get("/revocations", admin.revocations),
            web.post("/revocations", admin.revoke),
            web.delete("/revocations", admin.undo_revocation),
        ]
    )
    return app


async def open_admin_socket(app: web.Application, path: Path) -> web.AppRunner:
    """Listens on `path`, mode 0600, in place of a socket that a former controller left; the caller cleans the runner up."""
    _make_way(path)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    # The mode at creation, not after: there is no moment in which another user could connect.
    former = os.umask(0o177)
    try:
        await web.UnixSite(runner, path).start()
    finally:
        os.umask(former)
    return runner


def _make_way(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
        else:
            raise FileExistsError(f"another controller answers on {path}")


class _Admin:
    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts

    async def status(self, _request: web.Request) -> web.Response:
        parts, issuer = self._parts, self._parts.authority.issuer
        return _json(
            {
                "ready": parts.ready(),
                "trust_domain": parts.trust_domain,
                "agents": parts.hub.connected,
                "roots": len(issuer.roots),
                "issuer_expires_s": int(issuer.certificate.not_valid_after_utc.timestamp()),
                "authority_error": parts.authority.reload_error,
                "signs_directly_because": parts.authority.direct_because or None,
            }
        )

    async def agents(self, _request: web.Request) -> web.Response:
        return _json(self._parts.hub.status())

    async def root(self, _request: web.Request) -> web.Response:
        return _json({"trust_domain": self._parts.trust_domain, "pem": self._parts.authority.issuer.roots_pem.decode("ascii")})

    async def joining(self, _request: web.Request) -> web.Response:
        info = self._parts.joining()
        return _error(503, "the configuration is not read yet") if info is None else _json(info)

    async def objects(self, request: web.Request) -> web.Response:
        query = request.query
        try:
            return _json(self._parts.objects(query.get("kind", ""), query.get("namespace", ""), query.get("name", "")))
        except LookupError as error:
            return _error(404, str(error.args[0]) if error.args else "not found")

    async def tokens(self, _request: web.Request) -> web.Response:
        return _json([_public(record) for record in self._parts.tokens.all()])

    async def create_token(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=TokenRequest)
        try:
            record, token = await self._make_token(asked)
        except (IdentityError, ValueError, TooManyTokensError) as error:
            return _error(400, str(error))
        log.info("join token %s made for %s", record.id, record.holder)
        namespace, _, name = asked.gateway.partition("/")
        placement = self._parts.placement
        known = placement.has_gateway(namespace, name) if asked.gateway else placement.has_node(asked.node)
        return _json({**msgspec.to_builtins(_public(record)), "token": token, "node_known": known})

    async def _make_token(self, asked: TokenRequest) -> tuple[TokenRecord, str]:
        tokens, now_s = self._parts.tokens, self._parts.clock()
        if bool(asked.node) == bool(asked.gateway):
            raise ValueError("a token is for a node or for a Gateway")
        if asked.node:
            return await tokens.create(asked.node, asked.ttl_s, now_s)
        namespace, _, name = asked.gateway.partition("/")
        return await tokens.create_for_gateway(namespace, name, asked.ttl_s, now_s)

    async def revoke_token(self, request: web.Request) -> web.Response:
        key = request.match_info["id"]
        return _json({"id": key}) if await self._parts.tokens.revoke(key) else _error(404, f"there is no token {key}")

    async def revocations(self, _request: web.Request) -> web.Response:
        return _json(self._parts.revocations.all())

    async def revoke(self, request: web.Request) -> web.Response:
        asked = msgspec.json.decode(await request.read(), type=RevocationRequest)
        identity = parse_identity(asked.identity)
        if identity.trust_domain != self._parts.trust_domain:
            return _error(400, f"{asked.identity} is not of the trust domain {self._parts.trust_domain}")
        record = self._parts.revocations.revoke(identity, self._parts.clock())
        log.info("certificates of %s issued before %d are revoked", record.identity, record.issued_before_s)
        return _json(record)

    async def undo_revocation(self, request: web.Request) -> web.Response:
        identity = request.query.get("identity", "")
        return _json({"identity": identity}) if self._parts.revocations.undo(identity) else _error(404, f"{identity} is not revoked")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(error.status, error.reason)
    except (msgspec.DecodeError, IdentityError) as error:
        return _error(400, str(error))
    except UnavailableError as error:
        return _error(503, error.detail)
    except OSError as error:
        return _error(500, f"the change could not be kept on disk: {error}")


def _public(record: TokenRecord) -> PublicToken:
    return PublicToken(record.id, record.node, record.created_s, record.expires_s, record.used_s, record.gateway)


def _json(data: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(data), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode({"error": message}), content_type="application/json")
