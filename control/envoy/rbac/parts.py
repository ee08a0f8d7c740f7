"""Sources, operations and conditions of a rule, each as what Envoy can ask; None where this place can't ask it."""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any as Message
from typing import Final

from msgspec import Struct

from control.envoy.messages import new, packed
from control.envoy.parts import PEER, PEER_ADDRESS
from control.envoy.rbac.matchers import (
    PERMISSION,
    PRINCIPAL,
    STRING,
    cidr,
    claim,
    escape,
    header,
    host,
    pattern,
    regex,
    request_principal,
    string,
)
from control.kinds.security import PolicyCondition, PolicyOperation, PolicySource
from control.validation import values
from control.validation.path_templates import is_template

_SCHEME: Final = "spiffe://"
_TEMPLATE: Final = "envoy.path.match.uri_template.uri_template_matcher"
_TEMPLATE_CONFIG: Final = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"


class Identity(Enum):
    """Where a proxy knows the caller's identity from."""

    TUNNEL = auto()
    """A waypoint: from the tunnel, kept in PEER."""
    TLS = auto()
    """A gateway: from the connection's own certificate."""


class Callers(Struct, frozen=True):
    """How a proxy knows its callers; `relays` are those (SPIFFE ids) that are believed when they say for whom they call."""

    identity: Identity
    relays: tuple[str, ...] = ()


class Place(Struct, frozen=True):
    """Where a rule is asked: with requests to look at, or connections alone. `deny`: what is not quite sure must match."""

    callers: Callers
    requests: bool
    deny: bool
    namespace: str
    """The policy's own, which names of accounts without one mean."""


def source(item: PolicySource, place: Place) -> tuple[Message, list[str]]:
    """Who, as a principal; and the fields that are left out of it since this place can't ask them."""
    left: list[str] = []
    asked = [
        *PRINCIPAL.listed(item.principals, item.not_principals, lambda text: _peer(string(text, ahead=_SCHEME), place)),
        *PRINCIPAL.listed(item.namespaces, item.not_namespaces, lambda text: _namespace(text, place)),
        *PRINCIPAL.listed(item.service_accounts, item.not_service_accounts, lambda text: _account(text, place)),
        *PRINCIPAL.listed(item.ip_blocks, item.not_ip_blocks, lambda text: _own_address(text, place)),
    ]
    by_request: tuple[tuple[str, Sequence[str], Sequence[str], Callable[[str], Message]], ...] = (
        ("requestPrincipals", item.request_principals, item.not_request_principals, _token_of),
        ("remoteIpBlocks", item.remote_ip_blocks, item.not_remote_ip_blocks, lambda text: _remote(text, place)),
    )
    for name, wanted, unwanted, ask in by_request:
        if not wanted and not unwanted:
            continue
        if place.requests:
            asked += PRINCIPAL.listed(wanted, unwanted, ask)
        else:
            left.append(name)
    return PRINCIPAL.all_of(asked), left


def operation(item: PolicyOperation, place: Place) -> tuple[Message, list[str]]:
    """What, as a permission; and the fields that are left out of it since this place can't ask them."""
    asked = PERMISSION.listed(item.ports, item.not_ports, lambda text: PERMISSION.of(destination_port=values.port_text(text)))
    left: list[str] = []
    by_request: tuple[tuple[str, Sequence[str], Sequence[str], Callable[[str], Message]], ...] = (
        ("hosts", item.hosts, item.not_hosts, lambda text: _request_header(":authority", host(text))),
        ("methods", item.methods, item.not_methods, lambda text: _request_header(":method", string(text))),
        ("paths", item.paths, item.not_paths, path),
    )
    for name, wanted, unwanted, ask in by_request:
        if not wanted and not unwanted:
            continue
        if place.requests:
            asked += PERMISSION.listed(wanted, unwanted, ask)
        else:
            left.append(name)
    return PERMISSION.all_of(asked), left


def path(text: str) -> Message:
    """A path, its query left out: exact, `prefix*`, `*suffix`, `*`, or a template with {*} and {**}."""
    if is_template(text):
        template = packed(new(_TEMPLATE_CONFIG, path_template=text.replace("{*}", "*").replace("{**}", "**")))
        return PERMISSION.of(uri_template={"name": _TEMPLATE, "typed_config": template})
    return PERMISSION.of(url_path={"path": string(text)})


def condition(item: PolicyCondition, place: Place) -> tuple[list[Message], list[Message]] | None:
    """Permissions and principals that a condition asks for; None where it can't be asked here."""
    key = item.key
    if key in _OF_DESTINATIONS:
        ask = _OF_DESTINATIONS[key]
        return PERMISSION.listed(item.values, item.not_values, ask), []
    if key.startswith("request.headers[") and key.endswith("]") and place.requests:
        name = key.removeprefix("request.headers[")[:-1]
        # What keeps a request out looks at each value of a list, what lets it in at the whole.
        wanted = PRINCIPAL.listed(item.values, (), lambda text: PRINCIPAL.of(header=header(name, text, each=place.deny)))
        unwanted = PRINCIPAL.listed((), item.not_values, lambda text: PRINCIPAL.of(header=header(name, text, each=not place.deny)))
        return [], [*wanted, *unwanted]
    ask_source = _of_source(key, place)
    if ask_source is None:
        return None
    return [], PRINCIPAL.listed(item.values, item.not_values, ask_source)


def _of_source(key: str, place: Place) -> Callable[[str], Message] | None:
    match key:
        case "source.principal":
            return lambda text: _peer(string(text, ahead=_SCHEME), place)
        case "source.namespace":
            return lambda text: _namespace(text, place)
        case "source.serviceAccount":
            return lambda text: _account(text, place)
        case "source.ip":
            return lambda text: _own_address(text, place)
    return _of_request(key, place) if place.requests else None


def _of_request(key: str, place: Place) -> Callable[[str], Message] | None:
    match key:
        case "remote.ip":
            return lambda text: _remote(text, place)
        case "request.auth.principal":
            return _token_of
        case "request.auth.audiences":
            return lambda text: _claim(("aud",), text)
        case "request.auth.presenter":
            return lambda text: _claim(("azp",), text)
    if key.startswith("request.auth.claims[") and key.endswith("]"):
        names = tuple(key.removeprefix("request.auth.claims[")[:-1].split("]["))
        return lambda text: _claim(names, text)
    return None


def _peer(value: Message, place: Place) -> Message:
    if place.callers.identity is Identity.TUNNEL:
        return PRINCIPAL.of(filter_state={"key": PEER, "string_match": value})
    return PRINCIPAL.of(authenticated={"principal_name": value})


def _namespace(text: str, place: Place) -> Message:
    # A pattern's * must not reach over the slashes of the name.
    part = pattern(text).replace(".+", "[^/]+").replace(".*", "[^/]*")
    return _peer(regex(f"{_SCHEME}[^/]+/ns/{part}/sa/[^/]+"), place)


def _account(text: str, place: Place) -> Message:
    account = values.service_account(text, place.namespace)
    return _peer(regex(f"{_SCHEME}[^/]+/ns/{escape(account.namespace)}/sa/{escape(account.service_account)}"), place)


def _own_address(text: str, place: Place) -> Message:
    """Of whoever connects; at a waypoint of the tunnel's client."""
    block = values.block(text)
    if place.callers.identity is Identity.TUNNEL:
        wanted = {"address_prefix": str(block.network_address), "prefix_len": {"value": block.prefixlen}}
        return PRINCIPAL.of(filter_state={"key": PEER_ADDRESS, "address_match": {"ranges": [wanted]}})
    return PRINCIPAL.of(direct_remote_ip=cidr(block))


def _remote(text: str, place: Place) -> Message:
    """The address for which a request is made: what X-Forwarded-For says, where whoever calls is believed, else his own."""
    said, own = PRINCIPAL.of(remote_ip=cidr(values.block(text))), _own_address(text, place)
    if place.callers.identity is Identity.TLS:
        return said
    if not place.callers.relays:
        return own
    relay = PRINCIPAL.any_of([_peer(new(STRING, exact=one), place) for one in place.callers.relays])
    return PRINCIPAL.any_of([PRINCIPAL.all_of([relay, said]), PRINCIPAL.all_of([PRINCIPAL.none_of([relay]), own])])


def _token_of(text: str) -> Message:
    pairs = request_principal(text)
    return PRINCIPAL.any_of([PRINCIPAL.all_of([_of_claim(("iss",), issuer), _of_claim(("sub",), subject)]) for issuer, subject in pairs])


def _claim(names: tuple[str, ...], text: str) -> Message:
    return _of_claim(names, string(text))


def _of_claim(names: tuple[str, ...], value: Message) -> Message:
    return PRINCIPAL.of(sourced_metadata={"metadata_matcher": claim(names, value)})


def _request_header(name: str, value: Message) -> Message:
    return PERMISSION.of(header=new("envoy.config.route.v3.HeaderMatcher", name=name, string_match=value))


_OF_DESTINATIONS: Final[dict[str, Callable[[str], Message]]] = {
    "destination.ip": lambda text: PERMISSION.of(destination_ip=cidr(values.block(text))),
    "destination.port": lambda text: PERMISSION.of(destination_port=values.port_text(text)),
    "connection.sni": lambda text: PERMISSION.of(requested_server_name=string(text)),
}
