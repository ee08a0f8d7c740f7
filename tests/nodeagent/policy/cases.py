"""A workload, policies for it, and connections to it whose addresses and ports lie at the edges of those that policies are made of."""

from ipaddress import ip_address

from meshapi.authorization import Action, Match, Policy, PolicyScope, Present
from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import IPAddress, Workload, WorkloadUID
from nodeagent.policy.authorize import Undecided, VerdictQuestion, authorize
from nodeagent.policy.prefilter import Prefilter, compile_prefilter
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.protocol import Via

UID = WorkloadUID("Kubernetes//Pod/shop/api")
ADDRESSES = (ip_address("10.0.0.9"), ip_address("fd00::9"))
API = Workload(uid=UID, name="api", namespace="shop", addresses=ADDRESSES)
STRICT = Match(not_principals=(Present(),))
SOURCES = [ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "11.0.0.1", "fd00::1", "fd00::4", "::", "ffff::1")]
PORTS = [0, 1, 2, 79, 80, 81, 82, 443, 444, 15006, 65534, 65535]
PEERS = [
    WorkloadIdentity(domain, *rest) for domain in ("cluster.local", "other.org") for rest in (("shop", "web"), ("a.b", "s"), ("x", "y"))
]


def policy(*matches: Match, name: str = "p", action: Action = Action.DENY, dry_run: bool = False) -> Policy:
    return Policy(name, "shop", PolicyScope.NAMESPACE, action, rules=((tuple(matches),),), dry_run=dry_run)


def knowing(*policies: Policy, workload: Workload = API, **more: object) -> Snapshot:
    return apply(Snapshot(), Update(workloads=(workload,), policies=policies, **{"policies_arrived": True, **more})).snapshot  # type: ignore[arg-type]


def compiled(snapshot: Snapshot) -> Prefilter:
    found = compile_prefilter(snapshot, UID)
    assert isinstance(found, Prefilter), found
    return found


def surely_denied(snapshot: Snapshot, source: IPAddress, peer: WorkloadIdentity) -> bool:
    """Whether this one is denied at every address and port."""
    verdicts = [
        authorize(snapshot, VerdictQuestion(UID, destination, port, Via.HBONE, source, peer)) for destination in ADDRESSES for port in PORTS
    ]
    return not any(isinstance(verdict, Undecided) or verdict.allow for verdict in verdicts)


PROBES = {"probe_sources": frozenset({SOURCES[1], SOURCES[5]}), "probe_ports": ((UID, frozenset({80, 444})),)}
"""What of an update lets plaintext of the node in as probes."""


def denied(snapshot: Snapshot, source: IPAddress, destination: IPAddress, port: int) -> bool:
    """Whether a connection without identity is denied, and not only for want of something."""
    verdict = authorize(snapshot, VerdictQuestion(UID, destination, port, Via.PLAINTEXT, source, None))
    return not isinstance(verdict, Undecided) and not verdict.allow
