"""What the kernel can refuse at the first packet of a connection, compiled from what judges it: a table that has to be looked up only.

Plaintext has no identity, so that source, destination and port decide: all there is of each is cut into classes that policies can't tell
apart, and the evaluator itself judges one connection of each combination. A tunnel is refused where every identity and port would be.
What can't be compiled is left to the proxy, which judges every connection that gets to it: the table never allows, it only refuses.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from typing import Final, TypeVar

from msgspec import Struct

from meshapi.authorization import Action, Match
from meshapi.workload import IPAddress, WorkloadUID
from nodeagent.policy import foregone
from nodeagent.policy.addresses import plain
from nodeagent.policy.authorize import Bench, Undecided, Verdict, assemble, unmatched
from nodeagent.policy.compiled import CompiledPolicy, Connection
from nodeagent.policy.partition import Partition, address, number, of_addresses, of_ports
from nodeagent.snapshot.view import NodeProbes, View
from nodeagent.ztunnel.protocol import Via

T = TypeVar("T")
MAX_DESTINATIONS: Final = 4
MAX_SOURCES: Final = 1024
MAX_PORTS: Final = 128
MAX_CLASSES: Final = 64
MAX_DENIALS: Final = 255
MAX_JUDGED: Final = 4096
"""How many connections are judged for one table: it is made again with each change of a policy."""
PASS: Final = 0
"""In a table: left to the proxy. Any other number n is the denial n - 1."""


class Denial(Struct, frozen=True):
    """Why: as in a `Verdict`."""

    policy: str | None
    reason: str


class Prefilter(Struct, frozen=True):
    """What is refused of connections to one workload.

    `plaintext` by destination, class of the source and class of the port; `tunnels` by class of the source, whatever the destination.
    """

    destinations: tuple[IPAddress, ...]
    sources: Partition
    ports: Partition
    plaintext: tuple[tuple[tuple[int, ...], ...], ...]
    tunnels: tuple[int, ...]
    denials: tuple[Denial, ...]

    def refusal(self, source: IPAddress, destination: IPAddress, port: int, via: Via) -> Denial | None:
        """What the kernel finds. Of a tunnel the port does not matter."""
        source_class = self.sources.classes[bisect_right(self.sources.starts, number(source)) - 1]
        if via is Via.HBONE:
            found = self.tunnels[source_class]
        elif plain(destination) in self.destinations:
            port_class = self.ports.classes[bisect_right(self.ports.starts, port) - 1]
            found = self.plaintext[self.destinations.index(plain(destination))][source_class][port_class]
        else:
            found = PASS
        return self.denials[found - 1] if found else None


class Left(Struct, frozen=True):
    """Everything is left to the proxy, and why."""

    why: str


def compile_prefilter(view: View, uid: WorkloadUID) -> Prefilter | Left:
    """Compiles what is refused of connections to a workload. What is not settled is left to the proxy, as is what has one verdict."""
    bench = assemble(view, uid)
    match bench:
        case Undecided(waiting_for):
            return Left(f"{waiting_for} is not known")
        case Verdict(_, reason):
            return Left(reason)
    probes = view.probes(uid)
    sources = of_addresses([
        *_sets(bench.enforced, lambda match: (match.source_ips, match.not_source_ips)),
        tuple(map(ip_network, probes.sources)),
    ])  # fmt: skip
    ports = of_ports([*_sets(bench.enforced, lambda match: (match.destination_ports, match.not_destination_ports)), probes.ports])
    destinations = tuple(dict.fromkeys(map(plain, bench.workload.addresses)))
    if too_many := _too_many(destinations, sources, ports):
        return Left(too_many)
    return _compile(bench, probes, destinations, sources, ports)


def _compile(
    bench: Bench, probes: NodeProbes, destinations: tuple[IPAddress, ...], sources: Partition, ports: Partition
) -> Prefilter | Left:
    denials: dict[Denial, int] = {}

    def refused(verdict: Verdict | Undecided) -> int:
        if isinstance(verdict, Undecided) or verdict.allow:
            return PASS
        return denials.setdefault(Denial(verdict.policy, verdict.reason), len(denials) + 1)

    def judged(caller: IPAddress, destination: IPAddress, port: int) -> int:
        return PASS if probes.has(caller, port) else refused(bench.judge(Connection(caller, destination, port, None)))

    callers = [address(sample) for sample in sources.samples]
    plaintext = tuple(
        tuple(tuple(judged(caller, destination, port) for port in ports.samples) for caller in callers) for destination in destinations
    )
    tunnels = tuple(refused(_tunnel(bench, caller, destinations)) for caller in callers)
    if len(denials) > MAX_DENIALS:
        return Left(f"{len(denials)} policies that deny, more than {MAX_DENIALS}")
    return Prefilter(destinations, sources, ports, plaintext, tunnels, tuple(denials))


def _tunnel(bench: Bench, caller: IPAddress, destinations: Sequence[IPAddress]) -> Verdict | Undecided:
    """On a tunnel: it serves all addresses of the workload, so that a denial must be one at each."""
    found = [foregone.denial(bench.enforced, caller, destination) for destination in destinations]
    if not found or None in found or (bench.missing is not None and (None,) in found):
        return Undecided("who comes in it, and what for")
    policy = next((key for (key,) in filter(None, found) if key is not None), None)
    allows = [one for one in bench.enforced if one.policy.action is Action.ALLOW]
    return Verdict(allow=False, reason=unmatched(allows) if policy is None else f"denied by {policy}", policy=policy)


def _sets(policies: Iterable[CompiledPolicy], fields: Callable[[Match], tuple[tuple[T, ...], ...]]) -> Iterable[tuple[T, ...]]:
    """The values of fields, wherever they are set, each set of them once."""
    matches = (match for policy in policies for rule in policy.policy.rules for clause in rule for match in clause)
    return dict.fromkeys(values for match in matches for values in fields(match) if values)


def _too_many(destinations: Sequence[IPAddress], sources: Partition, ports: Partition) -> str:
    """What is beyond the table's bounds, in words."""
    judged = len(destinations) * len(sources.samples) * len(ports.samples)
    for count, limit, what in (
        (len(destinations), MAX_DESTINATIONS, "addresses of the workload"),
        (len(sources.starts), MAX_SOURCES, "ranges of addresses in its policies"),
        (len(sources.samples), MAX_CLASSES, "kinds of sources in its policies"),
        (len(ports.starts), MAX_PORTS, "ranges of ports in its policies"),
        (len(ports.samples), MAX_CLASSES, "kinds of ports in its policies"),
        (judged, MAX_JUDGED, "combinations of addresses and ports in its policies"),
    ):
        if count > limit:
            return f"{count} {what}, more than {limit}"
    return ""
