"""What to do next so that the enrolled workloads become the desired ones: a pure function, its plan is data that can be printed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.linux.namespaces import NamespaceKey
from nodeagent.runtime.base import LocalWorkload


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What there is of one workload: its listeners are open. `captured`: its rules are in force."""

    workload: LocalWorkload
    captured: bool
    announced: bool
    """The proxy of the current session has it, as it is described now."""
    announceable: bool
    """There is a session, and what it must be told is known."""
    overdue: bool
    """It waited long enough, or was captured before: captured without being served means closed, which is what was asked for."""
    opened: bool = False
    """Its rules are in force, and let connections past the absent proxy."""
    to_open: bool = False
    """The proxy is away for long enough, and its terms are to fail open."""


@dataclass(frozen=True, slots=True)
class Release:
    """Take capture off, let the proxy finish. `gone`: the namespace went first, so there is nothing to finish."""

    uid: str
    gone: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Open:
    """Make the listeners in the workload's namespace."""

    workload: LocalWorkload


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the proxy to serve it."""

    uid: str


@dataclass(frozen=True, slots=True)
class Enforce:
    """Put the capture's rules in force."""

    uid: str


@dataclass(frozen=True, slots=True)
class Change:
    """The namespace stays, who is in it is another: its listing was edited."""

    workload: LocalWorkload


@dataclass(frozen=True, slots=True)
class Adjust:
    """It is the same workload, to be captured on other terms."""

    workload: LocalWorkload


@dataclass(frozen=True, slots=True)
class PassBy:
    """Let its connections past the proxy, which is away."""

    uid: str


Step = Release | Open | Change | Adjust | Announce | Enforce | PassBy


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps in their order, and the desired workloads that can't be enrolled, each with the reason."""

    steps: tuple[Step, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([*map(_words, self.steps), *(f"refuse {uid}: {reason}" for uid, reason in self.refused.items())])


def uid_of(step: Step) -> str:
    """The workload that the step is about."""
    return step.workload.uid if isinstance(step, Open | Change | Adjust) else step.uid


def plan(desired: Mapping[str, LocalWorkload], enrolled: Mapping[str, Enrolled], *, node: NamespaceKey, agent: str = "") -> Plan:
    """The way from `enrolled` to `desired`, both by uid. `node` is the node's own namespace, captured for none but who says it is that.

    `agent` is the directory of the agent's own cgroup, and of its proxy: no process group has it in it.

    Releases come first: a namespace may pass from one workload to another. A workload is announced before its rules are put in force,
    so that its connections are not refused longer than they must be.
    """
    accepted, refused = _accept(desired, node, agent)
    releases = [_release(held.workload, desired.get(uid)) for uid, held in enrolled.items() if _moved(held, accepted.get(uid))]
    released = {step.uid for step in releases}
    opens = [Open(workload) for uid, workload in accepted.items() if uid not in enrolled or uid in released]
    staying = {uid: held for uid, held in enrolled.items() if uid not in released}
    changes = [Change(accepted[uid]) for uid, held in staying.items() if not accepted[uid].is_same(held.workload)]
    changed = {step.workload.uid for step in changes}
    adjusts = [Adjust(accepted[uid]) for uid, held in staying.items() if uid not in changed and held.workload != accepted[uid]]
    announces = [Announce(uid) for uid, held in staying.items() if held.announceable and not held.announced]
    served = {step.uid for step in announces} | {uid for uid, held in staying.items() if held.announced}
    enforces = [Enforce(uid) for uid, held in staying.items() if _is_to_be_enforced(held, served=uid in served)]
    opening = [PassBy(uid) for uid, held in staying.items() if held.captured and held.to_open]
    return Plan((*releases, *opens, *changes, *adjusts, *announces, *enforces, *opening), refused)


def _is_to_be_enforced(held: Enrolled, *, served: bool) -> bool:
    if held.opened:
        return served and not held.to_open
    return not held.captured and (served or held.overdue)


def _accept(desired: Mapping[str, LocalWorkload], node: NamespaceKey, agent: str) -> tuple[dict[str, LocalWorkload], dict[str, str]]:
    """Those that can be enrolled; of several in one place the first by uid, since traffic must never carry another's identity."""
    accepted: dict[str, LocalWorkload] = {}
    refused: dict[str, str] = {}
    owners: dict[NamespaceKey, str] = {}
    for uid, workload in sorted(desired.items()):
        if workload.network is None:
            refused[uid] = _missing(workload)
        elif workload.whole_host and workload.network != node:
            refused[uid] = f"{workload.netns} is not the node's own network, which it is to be"
        elif workload.network == node and not workload.whole_host:
            refused[uid] = f"{workload.netns} is the node's own network, which is never captured"
        elif workload.process_group and (why := _overlap(workload, accepted, desired, agent)):
            refused[uid] = why
        elif (owner := owners.setdefault(workload.network, uid)) != uid:
            refused[uid] = f"its network namespace belongs to {owner} already"
        else:
            accepted[uid] = workload
    return accepted, refused


def _missing(workload: LocalWorkload) -> str:
    if workload.process_group:
        return f"its cgroup {workload.netns} does not exist yet"
    return f"its network namespace {workload.netns} does not exist yet" if workload.netns else "its network namespace is not found"


def _overlap(group: LocalWorkload, accepted: Mapping[str, LocalWorkload], desired: Mapping[str, LocalWorkload], agent: str) -> str:
    """Why a process group's processes are not its alone, in words."""
    if _holds(group.netns, agent):
        return f"the agent itself runs in {group.netns}"
    for uid, other in desired.items():
        # A cgroup has its marking programs once: those of a pod would take the place of the group's, which has nothing behind them.
        if not other.process_group and other.terms.cgroup and other.terms.cgroup.strip("/") == group.terms.cgroup.strip("/"):
            return f"its cgroup is that of {uid}"
    for uid, other in accepted.items():
        if other.process_group and (_holds(other.netns, group.netns) or _holds(group.netns, other.netns)):
            return f"its cgroup and that of {uid} are within each other"
    return ""


def _holds(outer: str, inner: str) -> bool:
    return f"{inner}/".startswith(f"{outer}/")


def _moved(held: Enrolled, wanted: LocalWorkload | None) -> bool:
    return wanted is None or held.workload.network != wanted.network


def _release(held: LocalWorkload, listed: LocalWorkload | None) -> Release:
    if listed is None:
        return Release(held.uid, gone=False, reason="no longer listed")
    place = "cgroup" if held.process_group else "network namespace"
    if listed.network is None:
        return Release(held.uid, gone=True, reason=f"its {place} is gone")
    if listed.network != held.network:
        return Release(held.uid, gone=True, reason=f"its {place} was replaced")
    return Release(held.uid, gone=False, reason="its network namespace belongs to another")


def _words(step: Step) -> str:
    match step:
        case Release(uid, _, reason):
            return f"release {uid}: {reason}"
        case Open(workload):
            return f"open listeners of {workload.uid} in {workload.netns}"
        case Change(workload):
            return f"change {workload.uid} to service account {workload.service_account}"
        case Adjust(workload):
            return f"capture {workload.uid} on other terms"
        case Announce(uid):
            return f"announce {uid} to the proxy"
        case Enforce(uid):
            return f"capture {uid}"
        case PassBy(uid):
            return f"let connections of {uid} past the absent proxy"
