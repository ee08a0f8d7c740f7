"""May this connection reach that workload? The pure function that answers, from a view of the snapshot alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Final

from meshapi.authorization import Action
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress, Workload, WorkloadUID
from nodeagent.policy.addresses import plain
from nodeagent.policy.compiled import CompiledPolicy, Connection
from nodeagent.snapshot.view import Missing, View
from nodeagent.ztunnel.protocol import Holds, Via

_KEY: Final = attrgetter("key")


@dataclass(frozen=True, slots=True)
class VerdictQuestion:
    """A connection that came in at `workload`. `peer` is who the client's certificate says it is, None = unauthenticated."""

    workload: WorkloadUID
    destination: IPAddress
    port: int
    via: Via
    source: IPAddress
    peer: WorkloadIdentity | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`policy` is the `namespace/name` that decided, None if none did; `dry_run` says what policies on trial would decide."""

    allow: bool
    reason: str
    policy: str | None = None
    holds: Holds = Holds.ANY_SOURCE
    dry_run: str | None = None
    is_probe: bool = False
    """It is let in for where it comes from: `View.probes`."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """What is needed to decide has not arrived. `lapses`: what was decided before must not stay for long, since it lacks a policy."""

    waiting_for: str
    lapses: bool = False


def authorize(view: View, question: VerdictQuestion) -> Verdict | Undecided:
    """Judges a connection by the policies of the workload's namespace, the global ones and those that the workload names."""
    if (question.via is Via.HBONE) != (question.peer is not None):
        return Verdict(allow=False, reason=f"{question.via} with{'' if question.peer else 'out'} a peer identity")
    ports = view.unit_ports_of(question.workload)
    if ports is not None and question.port not in ports:
        # Whoever may speak to it may not speak to all of its host.
        return Verdict(allow=False, reason=f"port {question.port} of the host is not {question.workload}'s")
    if question.via is Via.HBONE:
        return _by_policy(view, question)
    probes = view.probes(question.workload)
    if question.port not in probes.ports:
        return _by_policy(view, question)
    if probes.has(plain(question.source), question.port):
        # Also of a workload that the controller has not described yet: it would never become ready. Its address the proxy has checked.
        reason = f"a probe: {question.source} is an address of this node, and port {question.port} is declared for probes"
        return Verdict(allow=True, reason=reason, holds=Holds.THIS_SOURCE, is_probe=True)
    verdict = _by_policy(view, question)
    # Whatever holds for others does not hold for the node.
    return replace(verdict, holds=Holds.THIS_SOURCE) if isinstance(verdict, Verdict) else verdict


def _by_policy(view: View, question: VerdictQuestion) -> Verdict | Undecided:
    workload = _workload(view, question.workload)
    if not isinstance(workload, Workload):
        return workload
    if plain(question.destination) not in map(plain, workload.addresses):
        return Verdict(allow=False, reason=f"{question.destination} is no address of {workload.uid}")
    bench = _seated(view, workload)
    if not isinstance(bench, Bench):
        return bench
    return bench.judge(Connection(plain(question.source), plain(question.destination), question.port, question.peer))


@dataclass(frozen=True, slots=True)
class Bench:
    """What judges every connection to one workload, until something of it changes. `missing`: a policy that it names and that has not come.

    `in_play` are the policies that hold for it, by name; `enforced` are those of them that are not on trial.
    """

    workload: Workload
    in_play: Sequence[CompiledPolicy]
    enforced: Sequence[CompiledPolicy]
    missing: str | None

    def judge(self, connection: Connection) -> Verdict | Undecided:
        """Judges a connection to an address of the workload."""
        verdict = _evaluate(self.enforced, connection)
        if self.missing is not None and (verdict.allow or verdict.policy is None):
            # A policy and the name of it in the workload are two resources: neither comes, nor goes, at one time with the other.
            return Undecided(f"policy {self.missing}", lapses=True)
        if len(self.enforced) == len(self.in_play):
            return verdict
        trial = _evaluate(self.in_play, connection)
        return verdict if trial.allow == verdict.allow else replace(verdict, dry_run=trial.reason)


def assemble(view: View, uid: WorkloadUID) -> Bench | Verdict | Undecided:
    """What judges the connections of a workload, or the one verdict on all of them."""
    workload = _workload(view, uid)
    return _seated(view, workload) if isinstance(workload, Workload) else workload


def _workload(view: View, uid: WorkloadUID) -> Workload | Verdict | Undecided:
    workload = view.workload(uid)
    if workload is Missing.UNKNOWN:
        return Undecided(f"workload {uid}")
    if isinstance(workload, Missing):
        return Verdict(allow=False, reason=f"workload {uid} is not in the mesh's configuration")
    here = view.local_identity(uid)
    if here is not None and here != str(workload.identity):
        return Verdict(allow=False, reason=f"this node runs {workload.uid} as {here}, the controller says {workload.identity}")
    return workload


def _seated(view: View, workload: Workload) -> Bench | Verdict | Undecided:
    if not view.policies_known():
        return Undecided("the mesh's policies")
    rejected = view.rejected_policies(workload.namespace)
    if rejected:
        return Verdict(allow=False, reason=f"policy {rejected[0]} could not be understood and may hold here", policy=rejected[0])
    in_play = applicable(view, workload)
    return Bench(
        workload,
        in_play,
        enforced=[policy for policy in in_play if not policy.policy.dry_run],
        missing=next((key for key in workload.authorization_policies if view.policy(key) is None), None),
    )


def applicable(view: View, workload: Workload) -> list[CompiledPolicy]:
    """The policies that hold for a workload, dry-run ones included, each once, by name."""
    found = list(view.policies(workload.namespace))
    for key in workload.authorization_policies:
        policy = view.policy(key)
        if policy is not None and policy not in found:
            found.append(policy)
    found.sort(key=_KEY)  # so that which policy is named does not depend on arrival
    return found


def _evaluate(policies: Sequence[CompiledPolicy], connection: Connection) -> Verdict:
    holds = Holds.THIS_SOURCE if any(policy.looks_at_source for policy in policies) else Holds.ANY_SOURCE
    allows = []
    for policy in policies:
        if policy.policy.action is Action.ALLOW:
            allows.append(policy)
        elif policy.matches(connection):
            return Verdict(allow=False, reason=f"denied by {policy.key}", policy=policy.key, holds=holds)
    if not allows:
        return Verdict(allow=True, reason="no ALLOW policy holds for the workload", holds=holds)
    for policy in allows:
        if policy.matches(connection):
            return Verdict(allow=True, reason=f"allowed by {policy.key}", policy=policy.key, holds=holds)
    return Verdict(allow=False, reason=unmatched(allows), holds=holds)


def unmatched(allows: Sequence[CompiledPolicy]) -> str:
    """In words, that none of these ALLOW policies matches."""
    return f"no ALLOW policy matches ({', '.join(policy.key for policy in allows[:3])}{' ...' if len(allows) > 3 else ''})"
