"""Istio's VirtualService: where requests and connections to a host go. Unknown fields are errors: they would match more, or do less.

Durations are text (`5s`, `1h30m`), read by `control.validation.durations`; what may stand together is checked in `routing_checks`.
"""

from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind

MESH: str = "mesh"
"""The gateway that stands for all traffic inside of the mesh."""


class Strict(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A part of a resource of which every field counts."""


class StringMatch(Strict, frozen=True):
    """One of the three; none of them means presence, where there can be absence."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None

    @property
    def stated(self) -> tuple[str, ...]:
        """Which of them are given."""
        return tuple(name for name in self.__struct_fields__ if getattr(self, name) is not None)

    @property
    def presence(self) -> bool:
        """Whether anything at all matches; Istio takes the regular expression `*`, which is none, for that."""
        return not self.stated or self.regex == "*"


class Percent(Strict, frozen=True):
    value: float = 0.0


class PortSelector(Strict, frozen=True):
    number: int


class Destination(Strict, frozen=True):
    host: str
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Strict, frozen=True):
    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class Headers(Strict, frozen=True):
    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


class HTTPDestination(Strict, frozen=True):
    destination: Destination
    weight: int = 0
    headers: Headers | None = None


class HTTPMatch(Strict, frozen=True):
    name: str = ""
    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = {}
    without_headers: dict[str, StringMatch] = {}
    query_params: dict[str, StringMatch] = {}
    port: int = 0
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()
    stat_prefix: str = ""


class HTTPRedirect(Strict, frozen=True):
    uri: str = ""
    authority: str = ""
    scheme: str = ""
    port: int = 0
    derive_port: str = ""
    redirect_code: int = 0


class HTTPBody(Strict, frozen=True):
    """`bytes` is base64, as JSON has it."""

    string: str | None = None
    bytes: str | None = None


class HTTPDirectResponse(Strict, frozen=True):
    status: int
    body: HTTPBody | None = None


class Delegate(Strict, frozen=True):
    name: str
    namespace: str = ""


class RegexRewrite(Strict, frozen=True):
    match: str
    rewrite: str = ""


class HTTPRewrite(Strict, frozen=True):
    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HTTPRetry(Strict, frozen=True):
    attempts: int = 0
    per_try_timeout: str = ""
    retry_on: str = ""
    retry_remote_localities: bool = False
    retry_ignore_previous_hosts: bool | None = None
    backoff: str = ""


class FaultDelay(Strict, frozen=True):
    fixed_delay: str = ""
    exponential_delay: str = ""
    percentage: Percent | None = None


class FaultAbort(Strict, frozen=True):
    http_status: int | None = None
    grpc_status: str = ""
    http2_error: str = ""
    percentage: Percent | None = None


class HTTPFault(Strict, frozen=True):
    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class MirrorPolicy(Strict, frozen=True):
    destination: Destination
    percentage: Percent | None = None


class CORSPolicy(Strict, frozen=True):
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: str = ""
    allow_credentials: bool | None = None
    unmatched_preflights: str = "UNSPECIFIED"


class HTTPRoute(Strict, frozen=True):
    """`route`, `redirect`, `direct_response` or `delegate`: one of them says where matching requests end up."""

    name: str = ""
    match: tuple[HTTPMatch, ...] = ()
    route: tuple[HTTPDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: str = ""
    retries: HTTPRetry | None = None
    fault: HTTPFault | None = None
    mirror: Destination | None = None
    mirrors: tuple[MirrorPolicy, ...] = ()
    mirror_percentage: Percent | None = None
    cors_policy: CORSPolicy | None = None
    headers: Headers | None = None


class L4Destination(Strict, frozen=True):
    destination: Destination
    weight: int = 0


class TLSMatch(Strict, frozen=True):
    sni_hosts: tuple[str, ...]
    destination_subnets: tuple[str, ...] = ()
    port: int = 0
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class TLSRoute(Strict, frozen=True):
    match: tuple[TLSMatch, ...] = ()
    route: tuple[L4Destination, ...] = ()


class L4Match(Strict, frozen=True):
    destination_subnets: tuple[str, ...] = ()
    source_subnet: str = ""
    port: int = 0
    source_labels: dict[str, str] = {}
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()


class TCPRoute(Strict, frozen=True):
    match: tuple[L4Match, ...] = ()
    route: tuple[L4Destination, ...] = ()


class VirtualServiceSpec(Strict, frozen=True):
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()


class VirtualService(Object, frozen=True, rename="camel", kw_only=True):
    kind_of: ClassVar[Kind] = Kind.VIRTUAL_SERVICE
    spec: VirtualServiceSpec

    @property
    def delegated(self) -> bool:
        """Whether it is there to be named by another one: it has no hosts of its own."""
        return not self.spec.hosts
