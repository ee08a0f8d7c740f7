"""L4 authorization policies as immutable values, and their protobuf form.

A decoder that meets something it does not know raises ModelError: the policy is then refused as a whole (a NACK), never applied in part.
"""

from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

from google.protobuf.message import DecodeError
from msgspec import Struct

from meshapi.decoding import MAX_PORT, ModelError, known
from meshapi.proto import authorization_pb2 as pb

IPNetwork = IPv4Network | IPv6Network


class PolicyScope(IntEnum):
    GLOBAL = 0
    NAMESPACE = 1
    WORKLOAD_SELECTOR = 2


class Action(IntEnum):
    ALLOW = 0
    DENY = 1


class Exact(Struct, frozen=True, tag="exact"):
    value: str


class Prefix(Struct, frozen=True, tag="prefix"):
    value: str


class Suffix(Struct, frozen=True, tag="suffix"):
    value: str


class Present(Struct, frozen=True, tag="present"):
    """Matches any string that is not empty."""


StringMatch = Exact | Prefix | Suffix | Present


class ServiceAccountMatch(Struct, frozen=True):
    namespace: str
    service_account: str


class Match(Struct, frozen=True):
    """Fields are AND-ed, the values of a field OR-ed; of a `not_` field none may match. An empty field restricts nothing."""

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[IPNetwork, ...] = ()
    not_source_ips: tuple[IPNetwork, ...] = ()
    destination_ips: tuple[IPNetwork, ...] = ()
    not_destination_ips: tuple[IPNetwork, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()


Clause = tuple[Match, ...]
"""Matches, OR-ed; an empty clause matches."""
Rule = tuple[Clause, ...]
"""Clauses, AND-ed."""


class Policy(Struct, frozen=True):
    """A policy; its rules are OR-ed, and without rules it never matches."""

    name: str
    namespace: str
    scope: PolicyScope
    action: Action
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def encode_policy(policy: Policy) -> bytes:
    """Serializes an Authorization, deterministically."""
    message = pb.Authorization(
        name=policy.name,
        namespace=policy.namespace,
        scope=int(policy.scope),  # type: ignore[arg-type]
        action=int(policy.action),  # type: ignore[arg-type]
        rules=[
            pb.Rule(clauses=[pb.Clause(matches=[_encode_match(match) for match in clause]) for clause in rule]) for rule in policy.rules
        ],
        dry_run=policy.dry_run,
    )
    return message.SerializeToString(deterministic=True)


def decode_policy(body: bytes) -> Policy:
    """Parses an Authorization; raises ModelError on anything malformed or unknown, extensions and unknown fields included."""
    try:
        message = pb.Authorization.FromString(body)
    except DecodeError as error:
        raise ModelError(f"no Authorization: {error}") from error
    if not message.name:
        raise ModelError("a policy needs a name")
    if message.extensions:
        raise ModelError(f"policy {message.name}: extensions are not supported: {message.extensions[0].name}")
    # Re-encoding the typed value drops what this version does not know: a policy that shrinks by that must not be applied.
    policy = Policy(
        name=message.name,
        namespace=message.namespace,
        scope=known(PolicyScope, message.scope, "scope"),
        action=known(Action, message.action, "action"),
        rules=tuple(tuple(tuple(_decode_match(match) for match in clause.matches) for clause in rule.clauses) for rule in message.rules),
        dry_run=message.dry_run,
    )
    if len(encode_policy(policy)) != len(message.SerializeToString(deterministic=True)):
        raise ModelError(f"policy {policy.key}: holds fields that this version does not know")
    return policy


def _decode_match(match: pb.Match) -> Match:
    if match.extensions:
        raise ModelError(f"match extension {match.extensions[0].name} is not supported")
    return Match(
        namespaces=tuple(_decode_string(value) for value in match.namespaces),
        not_namespaces=tuple(_decode_string(value) for value in match.not_namespaces),
        principals=tuple(_decode_string(value) for value in match.principals),
        not_principals=tuple(_decode_string(value) for value in match.not_principals),
        source_ips=tuple(_decode_network(value) for value in match.source_ips),
        not_source_ips=tuple(_decode_network(value) for value in match.not_source_ips),
        destination_ips=tuple(_decode_network(value) for value in match.destination_ips),
        not_destination_ips=tuple(_decode_network(value) for value in match.not_destination_ips),
        destination_ports=tuple(_decode_port(port) for port in match.destination_ports),
        not_destination_ports=tuple(_decode_port(port) for port in match.not_destination_ports),
        service_accounts=tuple(ServiceAccountMatch(value.namespace, value.serviceAccount) for value in match.service_accounts),
        not_service_accounts=tuple(ServiceAccountMatch(value.namespace, value.serviceAccount) for value in match.not_service_accounts),
    )


def _decode_port(port: int) -> int:
    if not 0 < port <= MAX_PORT:
        raise ModelError(f"port {port}: must be 1 to {MAX_PORT}")
    return port


def _decode_network(address: pb.Address) -> IPNetwork:
    if len(address.address) not in {4, 16}:
        raise ModelError(f"an address of {len(address.address)} bytes: must be 4 or 16")
    try:
        return ip_network((address.address, address.length), strict=False)
    except ValueError as error:
        raise ModelError(f"address block: {error}") from error


def _decode_string(match: pb.StringMatch) -> StringMatch:
    match match.WhichOneof("match_type"):
        case "exact":
            return Exact(match.exact)
        case "prefix":
            return Prefix(match.prefix)
        case "suffix":
            return Suffix(match.suffix)
        case "presence":
            return Present()
    raise ModelError("a string match of no known kind")


def _encode_match(match: Match) -> pb.Match:
    return pb.Match(
        namespaces=[_encode_string(value) for value in match.namespaces],
        not_namespaces=[_encode_string(value) for value in match.not_namespaces],
        principals=[_encode_string(value) for value in match.principals],
        not_principals=[_encode_string(value) for value in match.not_principals],
        source_ips=[_encode_network(value) for value in match.source_ips],
        not_source_ips=[_encode_network(value) for value in match.not_source_ips],
        destination_ips=[_encode_network(value) for value in match.destination_ips],
        not_destination_ips=[_encode_network(value) for value in match.not_destination_ips],
        destination_ports=match.destination_ports,
        not_destination_ports=match.not_destination_ports,
        service_accounts=[pb.ServiceAccountMatch(namespace=v.namespace, serviceAccount=v.service_account) for v in match.service_accounts],
        not_service_accounts=[
            pb.ServiceAccountMatch(namespace=v.namespace, serviceAccount=v.service_account) for v in match.not_service_accounts
        ],
    )


def _encode_network(network: IPNetwork) -> pb.Address:
    return pb.Address(address=network.network_address.packed, length=network.prefixlen)


def _encode_string(match: StringMatch) -> pb.StringMatch:
    match match:
        case Exact(value):
            return pb.StringMatch(exact=value)
        case Prefix(value):
            return pb.StringMatch(prefix=value)
        case Suffix(value):
            return pb.StringMatch(suffix=value)
        case Present():
            message = pb.StringMatch()
            message.presence.SetInParent()
            return message
