"""How a call would go, in steps: made of the same functions that decide, so that it cannot say anything else."""

from dataclasses import dataclass
from typing import Protocol

from meshapi import wire
from meshapi.workload import IPAddress, TunnelProtocol, Workload, WorkloadUID
from nodeagent.policy.addresses import parse_socket_address
from nodeagent.policy.authorize import Undecided, VerdictQuestion, authorize
from nodeagent.policy.prefilter import Denial
from nodeagent.resolve.answer import Unknown
from nodeagent.resolve.endpoints import choose_address
from nodeagent.resolve.explanation import Explanation, Outcome, Step
from nodeagent.resolve.resolve import RouteQuestion, resolve
from nodeagent.resolve.target import Target, find_target
from nodeagent.resolve.waypoints import is_waypoint
from nodeagent.snapshot.view import Missing, View
from nodeagent.ztunnel.protocol import Endpoint, Forward, Pass, Refuse, Via


@dataclass(frozen=True, slots=True)
class Capture:
    """How far the capture of a workload of this node is; `words` complete the sentence that begins with its uid."""

    captured: bool
    words: str
    past_proxy: bool = False
    """What it dials outside the mesh goes past the proxy."""


class AtSYN(Protocol):
    """What the kernel refuses of connections to a workload of this node: None if it is not, or no such workload's."""

    def __call__(self, uid: str, source: IPAddress, destination: IPAddress, port: int, via: Via) -> Denial | None: ...


def nowhere(uid: str, source: IPAddress, destination: IPAddress, port: int, via: Via) -> Denial | None:  # noqa: ARG001
    """Nothing."""
    return None


def explain(view: View, source: WorkloadUID, destination: str, *, here: Capture | None = None, at_syn: AtSYN = nowhere) -> Explanation:
    """Explains a call of `source` to `destination`: `ip:port`, `host:port`, `namespace/pod:port`, or without a port where there is but one.

    `here` says how the source is captured if it runs on this node, `at_syn` what this node's kernel refuses.
    """
    found = view.workload(source)
    if not isinstance(found, Workload):
        return _unknown_source(source, found)
    in_mesh = found.tunnel_protocol is TunnelProtocol.HBONE if here is None else here.captured
    steps = [_source_step(found, here)]
    target = find_target(view, found, destination)
    if not isinstance(target, Target):
        return Explanation(target.outcome, (*steps, *target.steps), target.unknown)
    steps.append(Step("destination", f"{target.text} is dialled as {target.address} port {target.port}"))
    route = resolve(view, RouteQuestion(source, target.address, target.port))
    match route:
        case Unknown(keys, waiting_for):
            return Explanation(Outcome.UNKNOWN, (*steps, Step("route", f"{waiting_for} is not known")), keys)
        case Refuse(flag, reason, _):
            return Explanation(Outcome.DENIED, (*steps, Step("route", f"refused ({flag}): {reason}")))
        case Pass():
            how = "directly, past the proxy, once the proxy has asked" if here is not None and here.past_proxy else "passed through"
            text = f"{target.address} is not the mesh's: {how}, in plaintext, nothing here decides about it"
            return Explanation(Outcome.OUTSIDE, (*steps, Step("route", text)))
        case Forward(endpoints):
            return _forwarded(_Asking(view, found, in_mesh, at_syn), endpoints, steps)


@dataclass(frozen=True, slots=True)
class _Asking:
    view: View
    source: Workload
    in_mesh: bool
    at_syn: AtSYN


def _forwarded(asking: _Asking, endpoints: tuple[Endpoint, ...], steps: list[Step]) -> Explanation:
    outcomes = set()
    if any(is_waypoint(endpoint) for endpoint in endpoints):
        return _by_waypoint(asking, endpoints, steps)
    for endpoint in endpoints:
        steps.append(Step("endpoint", _endpoint_text(endpoint, in_mesh=asking.in_mesh)))
        outcome, step = _verdict(asking, endpoint)
        outcomes.add(outcome)
        steps.append(step)
    for outcome in (Outcome.DENIED, Outcome.UNKNOWN, Outcome.OUTSIDE):
        if outcome in outcomes:
            return Explanation(outcome, tuple(steps))
    return Explanation(Outcome.ALLOWED, tuple(steps))


def _by_waypoint(asking: _Asking, endpoints: tuple[Endpoint, ...], steps: list[Step]) -> Explanation:
    """The way to the waypoint, and from there as the waypoint would be answered; what it decides itself only its Envoy knows."""
    source, first = asking.source, endpoints[0]
    waypoint = asking.view.workload(WorkloadUID(first.uid))
    if not isinstance(waypoint, Workload):
        return Explanation(Outcome.UNKNOWN, (*steps, Step("waypoint", f"{first.uid} is not known")), (first.uid,))
    if asking.in_mesh:
        steps += [Step("waypoint", _endpoint_text(endpoint, in_mesh=True)) for endpoint in endpoints]
        told = f"its routes and policies decide; what it sends on comes from {waypoint.identity}, which is who policies see from there on"
        behind = _Asking(asking.view, waypoint, in_mesh=True, at_syn=nowhere)
    else:
        told = f"{source.uid} is not in the mesh: it dials past the waypoint {first.uid}"
        behind = asking
    steps.append(Step("waypoint", told))
    return _onward(behind, waypoint, _application(first), steps)


def _onward(asking: _Asking, waypoint: Workload, destination: str, steps: list[Step]) -> Explanation:
    onward = resolve(asking.view, RouteQuestion(waypoint.uid, *parse_socket_address(destination)))
    match onward:
        case Unknown(keys, waiting_for):
            return Explanation(Outcome.UNKNOWN, (*steps, Step("route", f"{waiting_for} is not known")), keys)
        case Refuse(flag, reason, _):
            return Explanation(Outcome.DENIED, (*steps, Step("route", f"refused ({flag}): {reason}")))
        case Forward(endpoints) if not any(is_waypoint(endpoint) for endpoint in endpoints):
            return _forwarded(asking, endpoints, steps)
    return Explanation(Outcome.UNKNOWN, (*steps, Step("route", "where it goes from there can't be told from here")))


def _endpoint_text(endpoint: Endpoint, *, in_mesh: bool) -> str:
    share = f"weight {endpoint.weight}" + (f", tier {endpoint.tier}" if endpoint.tier else "")
    if endpoint.tunnel is None or not in_mesh:
        return f"{endpoint.uid} at {_application(endpoint)} in plaintext ({share})"
    tunnel = endpoint.tunnel
    way = f"through {endpoint.address} in mutual TLS as {tunnel.identity}, expecting {' or '.join(tunnel.expect)}"
    return f"{endpoint.uid} at {tunnel.authority} {way} ({share})"


def _application(endpoint: Endpoint) -> str:
    return endpoint.tunnel.authority if endpoint.tunnel is not None else endpoint.address


def _verdict(asking: _Asking, endpoint: Endpoint) -> tuple[Outcome, Step]:
    view, source = asking.view, asking.source
    if endpoint.tunnel is None:
        return Outcome.OUTSIDE, Step("verdict", f"{endpoint.uid} is not captured: nothing there decides about it")
    address, port = parse_socket_address(_application(endpoint))
    client = choose_address(source.addresses, address)
    if client is None:
        return Outcome.UNKNOWN, Step("verdict", f"{source.uid} has no address")
    via, peer = (Via.HBONE, source.identity) if asking.in_mesh else (Via.PLAINTEXT, None)
    verdict = authorize(view, VerdictQuestion(WorkloadUID(endpoint.uid), address, port, via, client, peer))
    if isinstance(verdict, Undecided):
        return Outcome.UNKNOWN, Step("verdict", f"{verdict.waiting_for} is not known")
    words = f"{endpoint.uid} {'allows' if verdict.allow else 'denies'} it: {verdict.reason}"
    if verdict.policy is not None and verdict.policy.partition("/")[2].startswith(wire.WAYPOINT_GUARD):
        words += ", which lets in its waypoint alone, since policies that only the waypoint can enforce hold for it"
    if verdict.dry_run is not None:
        words += f"; dry run: {verdict.dry_run}"
    if refused := asking.at_syn(endpoint.uid, client, address, port, via):
        words += f"; refused at the SYN by {refused.policy or 'want of an ALLOW policy'}"
    return Outcome.ALLOWED if verdict.allow else Outcome.DENIED, Step("verdict", words)


def _source_step(source: Workload, here: Capture | None) -> Step:
    if here is not None:
        return Step("source", f"{source.uid} is {here.words}, its identity is {source.identity}")
    if source.tunnel_protocol is TunnelProtocol.HBONE:
        where = f"captured on node {source.node}" if source.node else "captured, on a node that is not known"
        return Step("source", f"{source.uid} is {where} as the controller says, its identity is {source.identity}")
    return Step("source", f"{source.uid} is not in the mesh: its calls go out in plaintext, without an identity")


def _unknown_source(uid: WorkloadUID, found: Missing) -> Explanation:
    if found is Missing.ABSENT:
        return Explanation(Outcome.UNKNOWN, (Step("source", f"there is no workload {uid}"),))
    return Explanation(Outcome.UNKNOWN, (Step("source", f"workload {uid} is not known"),), (uid,))
