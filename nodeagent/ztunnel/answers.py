"""One question of the proxy to one answer, with what the answer depended on."""

from dataclasses import dataclass

from meshapi.spiffe import WorkloadIdentity
from meshapi.workload import Port, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.policy.addresses import parse_address, parse_socket_address
from nodeagent.policy.authorize import Undecided, VerdictQuestion, authorize
from nodeagent.resolve.answer import NO_ROUTE, Unknown, refuse
from nodeagent.resolve.endpoints import target_port
from nodeagent.resolve.resolve import RouteQuestion, resolve
from nodeagent.snapshot.tracked import TrackedView
from nodeagent.snapshot.view import Missing, View
from nodeagent.telemetry.labels import Reporter, authenticated_source, flow_attributes
from nodeagent.ztunnel.protocol import AnswerRoute, AnswerVerdict, AskRoute, AskVerdict, Attributes, Holds, Refuse, Via

OVERFLOW = "UO"


@dataclass(frozen=True, slots=True)
class NotYet:
    """What the answer waits for, in words. `lapses`: an allow that was given before must not stay for long."""

    waiting_for: str
    lapses: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """`depends_on`: what may change the answer. `needs`: the keys that must stay subscribed while it is held.

    `unlabelled`: it is not known yet which workload the source is, so that the answer's labels may say more soon.
    """

    answer: AnswerRoute | AnswerVerdict | NotYet
    depends_on: frozenset[str]
    needs: frozenset[str]
    unlabelled: bool = False


def parse_route(message: AskRoute) -> RouteQuestion:
    """Reads a question; raises AddressError."""
    address, port = parse_socket_address(message.destination)
    return RouteQuestion(WorkloadUID(message.workload), address, port)


def parse_verdict(message: AskVerdict) -> VerdictQuestion:
    """Reads a question; raises AddressError or IdentityError."""
    address, port = parse_socket_address(message.destination)
    peer = None if message.peer is None else WorkloadIdentity.parse(message.peer)
    return VerdictQuestion(WorkloadUID(message.workload), address, port, message.via, parse_address(message.source), peer)


def answer_route(number: int, question: RouteQuestion, view: View) -> Reply:
    """Answers a route question from a view."""
    tracked = TrackedView(view)
    found = resolve(tracked, question)
    answer = NotYet(found.waiting_for) if isinstance(found, Unknown) else AnswerRoute(number, found)
    return Reply(answer, frozenset(tracked.depends_on), frozenset(tracked.needs))


def answer_verdict(number: int, question: VerdictQuestion, view: View) -> Reply:
    """Answers a verdict question from a view."""
    tracked = TrackedView(view)
    verdict = authorize(tracked, question)
    if isinstance(verdict, Undecided):
        return Reply(NotYet(verdict.waiting_for, verdict.lapses), frozenset(tracked.depends_on), frozenset(tracked.needs))
    reason = verdict.reason if verdict.dry_run is None else f"{verdict.reason}; dry run: {verdict.dry_run}"
    attributes, unlabelled = inbound_attributes(tracked, question, is_probe=verdict.is_probe)
    # One service account may serve several workloads, and the labels name which: those of one are not another's.
    holds = verdict.holds if question.peer is None else Holds.THIS_SOURCE
    answer = AnswerVerdict(number, verdict.allow, holds, reason, attributes, verdict.policy)
    return Reply(answer, frozenset(tracked.depends_on), frozenset(tracked.needs), unlabelled)


def inbound_attributes(view: View, question: VerdictQuestion, *, is_probe: bool) -> tuple[Attributes, bool]:
    """The labels of a connection that came in, and whether its source is still to be known: of that, only what the certificate proves."""
    target = view.workload(question.workload)
    if not isinstance(target, Workload):
        return flow_attributes(Reporter.DESTINATION, is_probe=is_probe), False
    peer = None if question.peer is None else str(question.peer)
    found = view.workload_at(target.network, question.source) if peer is not None else None
    attributes = flow_attributes(
        Reporter.DESTINATION,
        source=authenticated_source(peer, found if isinstance(found, Workload) else None),
        destination=target,
        service=_service_behind(view, target, question.port),
        source_principal=peer,
        destination_principal=str(target.identity) if question.via is Via.HBONE else None,
        mutual_tls=question.via is Via.HBONE,
        is_probe=is_probe,
    )
    return attributes, found is Missing.UNKNOWN


def refusal(number: int, question: RouteQuestion | VerdictQuestion, reason: str) -> AnswerRoute | AnswerVerdict:
    """No, for now."""
    if isinstance(question, RouteQuestion):
        return AnswerRoute(number, refuse(reason))
    return AnswerVerdict(number, allow=False, holds=Holds.THIS_SOURCE, reason=reason, attributes=flow_attributes(Reporter.DESTINATION))


def turned_away(message: AskRoute | AskVerdict, reason: str, flag: str = NO_ROUTE) -> AnswerRoute | AnswerVerdict:
    """No, to a question that is not held."""
    if isinstance(message, AskRoute):
        return AnswerRoute(message.id, Refuse(flag, reason, flow_attributes(Reporter.SOURCE)))
    attributes = flow_attributes(Reporter.DESTINATION)
    return AnswerVerdict(message.id, allow=False, holds=Holds.THIS_SOURCE, reason=reason, attributes=attributes)


def overflow(message: AskRoute | AskVerdict) -> AnswerRoute | AnswerVerdict:
    """No, because too many questions are held."""
    return turned_away(message, "too many questions are held", OVERFLOW)


def _service_behind(view: View, target: Workload, port: int) -> Service | None:
    """The service that a connection to this port of the workload was most likely for; first by name where there are several."""
    for key in sorted(target.services):
        service = view.service(key) or _named_by(key, target.services[key])
        if any(target_port(service, target, entry.service) == port for entry in service.ports):
            return service
    return None


def _named_by(key: ServiceKey, ports: tuple[Port, ...]) -> Service:
    """What a workload says of a service that is not known itself."""
    namespace, _, hostname = key.partition("/")
    return Service(hostname.partition(".")[0], namespace, hostname, ports=ports)
