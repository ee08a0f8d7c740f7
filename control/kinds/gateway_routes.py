"""Gateway API's routes, and the grants by which they may name what is in other namespaces.

Unknown fields are errors, as in Istio's routing: a route that is read without one of its conditions or filters would do something else.
"""

from typing import Any, ClassVar

from msgspec import field

from control.kinds.core import Object
from control.kinds.gateway import GROUP
from control.kinds.metadata import Kind
from control.kinds.routing import Strict


class ParentReference(Strict, frozen=True):
    """What a route holds at: a Gateway (a listener of it), or a Service."""

    name: str
    group: str = GROUP
    kind: str = "Gateway"
    namespace: str = ""
    section_name: str = ""
    port: int = 0


class BackendReference(Strict, frozen=True):
    """Where requests go, by its share of them."""

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: int = 0
    weight: int = 1


class HeaderValue(Strict, frozen=True):
    name: str
    value: str = ""


class HeaderModifier(Strict, frozen=True):
    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class Fraction(Strict, frozen=True):
    numerator: int
    denominator: int = 100


class MirrorReference(Strict, frozen=True):
    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: int = 0


class RequestMirror(Strict, frozen=True):
    """A share of requests by `percent` or `fraction`; all of them without either."""

    backend_ref: MirrorReference
    percent: int | None = None
    fraction: Fraction | None = None


class PathModifier(Strict, frozen=True):
    """`ReplaceFullPath` or `ReplacePrefixMatch`, with the field of that name."""

    type: str
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Strict, frozen=True):
    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status_code: int = 302


class URLRewrite(Strict, frozen=True):
    hostname: str = ""
    path: PathModifier | None = None


class CORSFilter(Strict, frozen=True):
    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool | None = None
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: int = 5
    """Seconds."""


class RouteFilter(Strict, frozen=True):
    """What is done to a request or its response: `type` names the one field that is given."""

    type: str
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: URLRewrite | None = None
    cors: CORSFilter | None = None
    external_auth: dict[str, Any] | None = None
    extension_ref: dict[str, Any] | None = None


class RouteBackend(BackendReference, frozen=True):
    """With what is done to the requests that go there."""

    filters: tuple[RouteFilter, ...] = ()


class PathMatch(Strict, frozen=True):
    type: str = "PathPrefix"
    value: str = "/"


class ValueMatch(Strict, frozen=True):
    """A header or a query parameter, `Exact` or a `RegularExpression`."""

    name: str
    value: str
    type: str = "Exact"


class RequestMatch(Strict, frozen=True):
    """All of it must hold."""

    path: PathMatch = PathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    method: str = ""


class RouteTimeouts(Strict, frozen=True):
    request: str = ""
    backend_request: str = ""


class RouteRetry(Strict, frozen=True):
    codes: tuple[int, ...] = ()
    attempts: int | None = None
    backoff: str = ""


class HTTPRule(Strict, frozen=True):
    """Requests that one of `matches` takes are filtered, and go to the backends."""

    name: str = ""
    matches: tuple[RequestMatch, ...] = (RequestMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()
    timeouts: RouteTimeouts = RouteTimeouts()
    retry: RouteRetry | None = None
    session_persistence: dict[str, Any] | None = None


class HTTPRouteSpec(Strict, frozen=True):
    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRule, ...] = (HTTPRule(),)


class HTTPRoute(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.HTTP_ROUTE
    spec: HTTPRouteSpec = HTTPRouteSpec()


class MethodMatch(Strict, frozen=True):
    """A gRPC method: its service, its name, or both."""

    type: str = "Exact"
    service: str = ""
    method: str = ""


class CallMatch(Strict, frozen=True):
    """All of it must hold; without a method, any."""

    method: MethodMatch | None = None
    headers: tuple[ValueMatch, ...] = ()


class GRPCRule(Strict, frozen=True):
    name: str = ""
    matches: tuple[CallMatch, ...] = (CallMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()
    session_persistence: dict[str, Any] | None = None


class GRPCRouteSpec(Strict, frozen=True):
    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[GRPCRule, ...] = (GRPCRule(),)


class GRPCRoute(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.GRPC_ROUTE
    spec: GRPCRouteSpec = GRPCRouteSpec()


class ConnectionRule(Strict, frozen=True):
    """Of connections: nothing but where they go."""

    name: str = ""
    backend_refs: tuple[BackendReference, ...] = ()


class TLSRouteSpec(Strict, frozen=True):
    """`hostnames` are matched with the name that the client asks for in its first message."""

    parent_refs: tuple[ParentReference, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[ConnectionRule, ...] = ()


class TLSRoute(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.TLS_ROUTE
    spec: TLSRouteSpec


class TCPRouteSpec(Strict, frozen=True):
    parent_refs: tuple[ParentReference, ...] = ()
    rules: tuple[ConnectionRule, ...] = ()


class TCPRoute(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.TCP_ROUTE
    spec: TCPRouteSpec


class Grantee(Strict, frozen=True):
    """Objects of a kind in a namespace."""

    group: str
    kind: str
    namespace: str


class Granted(Strict, frozen=True):
    """Objects of the grant's own namespace: one by its name, or all of a kind."""

    group: str
    kind: str
    name: str = ""


class ReferenceGrantSpec(Strict, frozen=True):
    origins: tuple[Grantee, ...] = field(name="from")
    to: tuple[Granted, ...]


class ReferenceGrant(Object, frozen=True, rename="camel", kw_only=True):
    """Lets each of the one side name each of the other."""

    kind_of: ClassVar[Kind] = Kind.REFERENCE_GRANT
    spec: ReferenceGrantSpec
