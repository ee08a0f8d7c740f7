"""A policy made ready to match many connections: sets instead of lists, addresses as numbers, empty fields free.

Matching follows the wire facts: rules OR-ed, clauses AND-ed, matches OR-ed, fields AND-ed, values OR-ed, `not_` fields NOR-ed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from meshapi.authorization import Action, Exact, IPNetwork, Match, Policy, Prefix, Present, ServiceAccountMatch, StringMatch, Suffix
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

    @property
    def only_exact(self) -> bool:
        return not (self.prefixes or self.suffixes or self.present)

    def matches(self, text: str) -> bool:
        return text in self.exact or (self.present and bool(text)) or text.startswith(self.prefixes) or text.endswith(self.suffixes)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Address blocks, OR-ed: (IP version, network, netmask) as numbers."""

    blocks: tuple[tuple[int, int, int], ...]

    def matches(self, address: IPAddress) -> bool:
        number = int(address)
        return any(version == address.version and number & mask == network for version, network, mask in self.blocks)


Test = Callable[[Connection], bool]
"""Whether one of the values of a field matches."""


@dataclass(frozen=True, slots=True)
class _Match:
    """The fields that are set, the positive ones and those that must not match."""

    wanted: tuple[Test, ...]
    unwanted: tuple[Test, ...]

    def matches(self, connection: Connection) -> bool:
        for test in self.wanted:
            if not test(connection):
                return False
        for test in self.unwanted:  # noqa: SIM110 - a loop without a generator: this runs for each policy of each connection
            if test(connection):
                return False
        return True


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """A policy with its rules compiled, equal only to itself. `looks_at_source` says whether a rule restricts source addresses."""

    key: str
    policy: Policy
    looks_at_source: bool
    rules: tuple[tuple[tuple[_Match, ...], ...], ...]

    def matches(self, connection: Connection) -> bool:
        """Whether a rule matches; a policy without rules never does."""
        for rule in self.rules:
            for clause in rule:
                if not _clause_matches(clause, connection):
                    break
            else:
                return True
        return False


_NEVER = _Match((lambda _: False,), ())


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Compiles a policy. A match that holds no field at all is read in the closed way: it matches in a DENY and never in an ALLOW."""
    empty = Match()
    return CompiledPolicy(
        key=policy.key,
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
    for match in clause:  # not any(...): see `_Match.matches`
        if match.matches(connection):
            return True
    return not clause


def _compile_match(match: Match) -> _Match:
    return _Match(
        wanted=_tests(
            namespaces=match.namespaces,
            principals=match.principals,
            accounts=match.service_accounts,
            sources=match.source_ips,
            destinations=match.destination_ips,
            ports=match.destination_ports,
        ),
        unwanted=_tests(
            namespaces=match.not_namespaces,
            principals=match.not_principals,
            accounts=match.not_service_accounts,
            sources=match.not_source_ips,
            destinations=match.not_destination_ips,
            ports=match.not_destination_ports,
        ),
    )


def _tests(
    *,
    namespaces: tuple[StringMatch, ...],
    principals: tuple[StringMatch, ...],
    accounts: tuple[ServiceAccountMatch, ...],
    sources: tuple[IPNetwork, ...],
    destinations: tuple[IPNetwork, ...],
    ports: tuple[int, ...],
) -> tuple[Test, ...]:
    """One test for each field that is set. Who has no identity matches none that asks for one."""
    tests: list[Test] = []
    if ports:
        tests.append(_port_test(frozenset(ports)))
    if accounts:
        tests.append(_account_test(frozenset((account.namespace, account.service_account) for account in accounts)))
    if namespaces:
        tests.append(_namespace_test(_strings(namespaces)))
    if principals:
        tests.append(_principal_test(_strings(principals)))
    if sources:
        source = _blocks(sources)
        tests.append(lambda connection: source.matches(connection.source))
    if destinations:
        destination = _blocks(destinations)
        tests.append(lambda connection: destination.matches(connection.destination))
    return tuple(tests)


def _port_test(ports: frozenset[int]) -> Test:
    return lambda connection: connection.port in ports


def _account_test(accounts: frozenset[tuple[str, str]]) -> Test:
    return lambda connection: (peer := connection.peer) is not None and (peer.namespace, peer.service_account) in accounts


def _namespace_test(strings: _Strings) -> Test:
    return lambda connection: (peer := connection.peer) is not None and strings.matches(peer.namespace)


def _principal_test(strings: _Strings) -> Test:
    if strings.only_exact:  # what most policies are made of
        exact = strings.exact
        return lambda connection: (peer := connection.peer) is not None and peer.principal in exact
    return lambda connection: (peer := connection.peer) is not None and strings.matches(peer.principal)


def _strings(matches: tuple[StringMatch, ...]) -> _Strings:
    return _Strings(
        exact=frozenset(match.value for match in matches if isinstance(match, Exact)),
        prefixes=tuple(match.value for match in matches if isinstance(match, Prefix)),
        suffixes=tuple(match.value for match in matches if isinstance(match, Suffix)),
        present=any(isinstance(match, Present) for match in matches),
    )


def _blocks(networks: tuple[IPNetwork, ...]) -> _Blocks:
    plain = [plain_network(network) for network in networks]
    return _Blocks(tuple((network.version, int(network.network_address), int(network.netmask)) for network in plain))
