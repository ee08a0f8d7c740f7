"""A policy made ready to match many connections: sets instead of lists, addresses as numbers, empty fields free.

Matching follows the wire facts: rules OR-ed, clauses AND-ed, matches OR-ed, fields AND-ed, values OR-ed, `not_` fields NOR-ed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from meshapi.authorization import Action, Exact, IPNetwork, Match, Policy, Prefix, Present, StringMatch, Suffix
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress
from nodeagent.policy.addresses import plain_network


@dataclass(frozen=True, slots=True)
class Connection:
    """What policies look at. Addresses in plain form (`addresses.plain`); `peer` None = unauthenticated."""

    source: IPAddress
    destination: IPAddress
    port: int
    peer: WorkloadIdentity | None


@dataclass(frozen=True, slots=True)
class _Strings:
    """String matches, OR-ed. The strings are literal: no character has a meaning here."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    suffixes: tuple[str, ...]
    present: bool

    def matches(self, text: str) -> bool:
        return text in self.exact or (self.present and bool(text)) or text.startswith(self.prefixes) or text.endswith(self.suffixes)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Address blocks, OR-ed: (IP version, network, netmask) as numbers."""

    blocks: tuple[tuple[int, int, int], ...]

    def matches(self, address: IPAddress) -> bool:
        number = int(address)
        return any(version == address.version and number & mask == network for version, network, mask in self.blocks)


@dataclass(frozen=True, slots=True)
class _Fields:
    """The positive or the `not_` half of a match; None = the field restricts nothing."""

    namespaces: _Strings | None
    principals: _Strings | None
    accounts: frozenset[tuple[str, str]] | None
    sources: _Blocks | None
    destinations: _Blocks | None
    ports: frozenset[int] | None

    def results(self, connection: Connection) -> Iterable[bool]:
        """For each field that is set, whether one of its values matches. Who has no identity matches none."""
        peer = connection.peer
        if self.ports is not None:
            yield connection.port in self.ports
        if self.accounts is not None:
            yield peer is not None and (peer.namespace, peer.service_account) in self.accounts
        if self.namespaces is not None:
            yield peer is not None and self.namespaces.matches(peer.namespace)
        if self.principals is not None:
            yield peer is not None and self.principals.matches(peer.principal)
        if self.sources is not None:
            yield self.sources.matches(connection.source)
        if self.destinations is not None:
            yield self.destinations.matches(connection.destination)


@dataclass(frozen=True, slots=True)
class _Match:
    wanted: _Fields
    unwanted: _Fields

    def matches(self, connection: Connection) -> bool:
        return all(self.wanted.results(connection)) and not any(self.unwanted.results(connection))


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """A policy with its rules compiled. `looks_at_source` says whether a rule restricts source addresses."""

    policy: Policy
    looks_at_source: bool
    rules: tuple[tuple[tuple[_Match, ...], ...], ...]

    @property
    def key(self) -> str:
        return self.policy.key

    def matches(self, connection: Connection) -> bool:
        """Whether a rule matches; a policy without rules never does."""
        return any(all(_clause_matches(clause, connection) for clause in rule) for rule in self.rules)


_NEVER = _Match(_Fields(None, None, None, None, None, frozenset()), _Fields(None, None, None, None, None, None))


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Compiles a policy. A match that holds no field at all is read in the closed way: it matches in a DENY and never in an ALLOW."""
    empty = Match()
    return CompiledPolicy(
        policy=policy,
        looks_at_source=any(match.source_ips or match.not_source_ips for rule in policy.rules for clause in rule for match in clause),
        rules=tuple(
            tuple(
                tuple(_NEVER if match == empty and policy.action is Action.ALLOW else _compile_match(match) for match in clause)
                for clause in rule
            )
            for rule in policy.rules
        ),
    )


def _clause_matches(clause: tuple[_Match, ...], connection: Connection) -> bool:
    return not clause or any(match.matches(connection) for match in clause)


def _compile_match(match: Match) -> _Match:
    return _Match(
        wanted=_Fields(
            namespaces=_strings(match.namespaces),
            principals=_strings(match.principals),
            accounts=frozenset((value.namespace, value.service_account) for value in match.service_accounts) or None,
            sources=_blocks(match.source_ips),
            destinations=_blocks(match.destination_ips),
            ports=frozenset(match.destination_ports) or None,
        ),
        unwanted=_Fields(
            namespaces=_strings(match.not_namespaces),
            principals=_strings(match.not_principals),
            accounts=frozenset((value.namespace, value.service_account) for value in match.not_service_accounts) or None,
            sources=_blocks(match.not_source_ips),
            destinations=_blocks(match.not_destination_ips),
            ports=frozenset(match.not_destination_ports) or None,
        ),
    )


def _strings(matches: tuple[StringMatch, ...]) -> _Strings | None:
    if not matches:
        return None
    return _Strings(
        exact=frozenset(match.value for match in matches if isinstance(match, Exact)),
        prefixes=tuple(match.value for match in matches if isinstance(match, Prefix)),
        suffixes=tuple(match.value for match in matches if isinstance(match, Suffix)),
        present=any(isinstance(match, Present) for match in matches),
    )


def _blocks(networks: tuple[IPNetwork, ...]) -> _Blocks | None:
    if not networks:
        return None
    plain = [plain_network(network) for network in networks]
    return _Blocks(tuple((network.version, int(network.network_address), int(network.netmask)) for network in plain))
