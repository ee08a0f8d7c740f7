"""What the admin socket says of Envoys: how far each is, what it refused, and what it is served."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from control.envoy.proxies import ProxyKey
from control.xds.hub import Hub
from control.xds.proxies import Proxies


def proxy_routes(hub: Hub, proxies: Proxies | None) -> list[web.RouteDef]:
    """The routes; without `proxies` there are no Envoys here."""

    async def status(_request: web.Request) -> web.Response:
        return _json(hub.proxy_status())

    return [web.get("/proxies", status), web.get("/proxies/config", _config(proxies)), web.get("/describe", _describe(proxies))]


def _config(proxies: Proxies | None) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def config(request: web.Request) -> web.Response:
        from control.envoy.readable import readable

        query = request.query
        namespace, _, name = query.get("proxy", "").partition("/")
        if proxies is None or not proxies.exists(ProxyKey(namespace, name)):
            return _json({"error": f"there is no Gateway {namespace}/{name} of this mesh's classes"}, status=404)
        try:
            with proxies.served(ProxyKey(namespace, name)) as view:
                return _json(readable(view, query.get("kind", ""), query.get("name", "")))
        except LookupError as error:
            return _json({"error": str(error.args[0])}, status=404)

    return config


def _describe(proxies: Proxies | None) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def describe(request: web.Request) -> web.Response:
        from control.analysis.describe import describe as describe_service

        if proxies is None:
            return _json({"error": "no configuration is read here"}, status=404)
        try:
            return _json(describe_service(proxies.mesh, proxies.world, request.query.get("name", ""), request.query.get("namespace", "")))
        except LookupError as error:
            return _json({"error": str(error.args[0])}, status=404)

    return describe


def _json(data: object, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(data), content_type="application/json")
