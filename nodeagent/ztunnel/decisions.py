"""The questions that the proxy holds answers to, kept true: sans-IO, one instance a session.

Each answer notes what it depended on. When that changes, the question is answered again, and the new answer goes out if it differs.
What can't be answered yet is asked of the controller and waits, up to a deadline; then the answer is no, until it is known.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from nodeagent.policy.addresses import AddressError
from nodeagent.policy.authorize import VerdictQuestion
from nodeagent.resolve.resolve import RouteQuestion
from nodeagent.snapshot.view import View
from nodeagent.ztunnel.answers import NotYet, answer_route, answer_verdict, overflow, parse_route, parse_verdict, refusal, turned_away
from nodeagent.ztunnel.protocol import AnswerRoute, AnswerVerdict, AskRoute, AskVerdict, Pass

SHARE: Final = 4
"""No workload holds more than this part of the questions: one that scans the network must not take the others' place."""
BATCH: Final = 200
"""Questions answered again in one turn of the loop; new ones are answered between the turns."""
LABELS_WAIT_S: Final = 0.2
"""How long a first `allow` waits to be told who the source is: the access log names the first connection of a peer, too."""

LAPSE_S: Final = 0.5
"""How long an `allow` stays while a policy is missing that the workload names: policy and name come, and go, one after the other."""


@dataclass(slots=True)
class Effects:
    """What is to be done: messages to send, keys that the answers need from now on, and keys that they need no more.

    `outside`: questions that are held and answered with `pass` now, and were not before; `inside`: no longer.
    """

    answers: list[AnswerRoute | AnswerVerdict] = field(default_factory=list)
    needed: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    outside: list[RouteQuestion] = field(default_factory=list)
    inside: list[RouteQuestion] = field(default_factory=list)


@dataclass(slots=True)
class _Held:
    question: RouteQuestion | VerdictQuestion
    deadline_s: float
    answer: AnswerRoute | AnswerVerdict | None = None
    depends_on: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    waiting_for: str = ""


@dataclass(frozen=True, slots=True)
class _Unlabelled:
    """An answer that waits for its labels, and until when."""

    answer: AnswerVerdict
    until_s: float


class Decisions:
    """Answers from the view that it was given last. Times are of the monotonic clock, in seconds."""

    def __init__(self, view: View, *, deadline_s: float, max_held: int) -> None:
        self._view = view
        self._wait_s = deadline_s
        self._max_held = max_held
        self._max_per_workload = max(1, max_held // SHARE)
        self._held: dict[int, _Held] = {}
        self._per_workload: dict[str, int] = {}
        self._dependents: dict[str, set[int]] = {}
        self._waiting: dict[int, None] = {}
        self._unlabelled: dict[int, _Unlabelled] = {}
        self._lapsing: dict[int, float] = {}
        """Until when an `allow` stays that lacks a policy."""
        self._stale_verdicts: dict[int, None] = {}
        self._stale_routes: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def waiting(self) -> int:
        """How many questions have no answer yet."""
        return len(self._waiting)

    @property
    def stale(self) -> bool:
        """Whether `refresh` has work to do."""
        return bool(self._stale_verdicts or self._stale_routes)

    @property
    def next_deadline_s(self) -> float | None:
        """When `expire` is to be called next. Deadlines of each kind come in the order of the questions."""
        waiting = (self._held[number].deadline_s for number in self._waiting)
        unlabelled = (one.until_s for one in self._unlabelled.values())
        firsts = (next(iter(deadlines), None) for deadlines in (waiting, unlabelled, self._lapsing.values()))
        return min((deadline_s for deadline_s in firsts if deadline_s is not None), default=None)

    def ask(self, message: AskRoute | AskVerdict, now: float, *, wait_for_labels: bool = False) -> Effects:
        """Takes a question and answers it if it can; an id that is held already is asked anew.

        `wait_for_labels`: there is a controller that may soon say who the source is, so an `allow` waits for it, shortly.
        """
        effects = self.release((message.id,))
        try:
            question = parse_route(message) if isinstance(message, AskRoute) else parse_verdict(message)
        except (AddressError, ValueError) as error:
            effects.answers.append(turned_away(message, f"malformed question: {error}"))
            return effects
        if len(self._held) >= self._max_held or self._per_workload.get(question.workload, 0) >= self._max_per_workload:
            effects.answers.append(overflow(message))
            return effects
        self._per_workload[question.workload] = self._per_workload.get(question.workload, 0) + 1
        held = _Held(question, deadline_s=now + self._wait_s)
        self._held[message.id] = held
        self._waiting[message.id] = None
        self._answer(message.id, held, effects, now, label_by_s=now + LABELS_WAIT_S if wait_for_labels else None)
        return effects

    def release(self, ids: Iterable[int]) -> Effects:
        """The proxy no longer holds these answers; ids that are not held are ignored."""
        effects = Effects()
        for number in ids:
            held = self._held.pop(number, None)
            if held is None:
                continue
            self._forget_one_of(held.question.workload)
            self._index(number, held.depends_on, frozenset())
            effects.dropped += held.needs
            _note_passing(held, None, effects)
            self._unlabelled.pop(number, None)
            self._lapsing.pop(number, None)
            for queue in (self._waiting, self._stale_verdicts, self._stale_routes):
                queue.pop(number, None)
        return effects

    def changed(self, view: View, touched: Collection[str]) -> None:
        """There is a new view; `refresh` answers again what depended on what was touched."""
        self._view = view
        for key in touched:
            for number in self._dependents.get(key, ()):
                is_verdict = isinstance(self._held[number].question, VerdictQuestion)
                (self._stale_verdicts if is_verdict else self._stale_routes)[number] = None

    def refresh(self, now: float, limit: int = BATCH) -> Effects:
        """Answers again up to `limit` questions, verdicts first: those close connections."""
        effects = Effects()
        for _ in range(limit):
            queue = self._stale_verdicts or self._stale_routes
            if not queue:
                break
            number = next(iter(queue))
            del queue[number]
            self._answer(number, self._held[number], effects, now)
        return effects

    def expire(self, now: float) -> Effects:
        """Sends without labels what waited for them, and says no to questions that waited, or went without a policy, too long.

        They stay held: the answer, or the better one, comes when it is known.
        """
        effects = Effects()
        while self._unlabelled and next(iter(self._unlabelled.values())).until_s <= now:
            number = next(iter(self._unlabelled))
            self._settle(number, self._held[number], self._unlabelled[number].answer, effects)
        while self._waiting and self._held[number := next(iter(self._waiting))].deadline_s <= now:
            self._refuse(number, effects)
        while self._lapsing and self._lapsing[number := next(iter(self._lapsing))] <= now:
            self._refuse(number, effects)
        return effects

    def close(self) -> Effects:
        """The session is over."""
        return self.release(list(self._held))

    def _refuse(self, number: int, effects: Effects) -> None:
        held = self._held[number]
        reason = f"{held.waiting_for} is not known, and the controller has not answered"
        self._settle(number, held, refusal(number, held.question, reason), effects)

    def _answer(self, number: int, held: _Held, effects: Effects, now: float, *, label_by_s: float | None = None) -> None:
        """`label_by_s`: until when an answer may wait for its labels that has not been waiting for them yet."""
        question = held.question
        reply = (
            answer_verdict(number, question, self._view)
            if isinstance(question, VerdictQuestion)
            else answer_route(number, question, self._view)
        )
        self._index(number, held.depends_on, reply.depends_on)
        effects.needed += reply.needs - held.needs
        effects.dropped += held.needs - reply.needs
        held.depends_on, held.needs = reply.depends_on, reply.needs
        unlabelled = self._unlabelled.get(number)
        if unlabelled is not None:
            label_by_s = unlabelled.until_s
        if isinstance(reply.answer, NotYet):
            # An answer that was given stays until there is another: routing and authorization keep their last answer.
            held.waiting_for = reply.answer.waiting_for
            self._unlabelled.pop(number, None)
            if reply.answer.lapses and isinstance(held.answer, AnswerVerdict) and held.answer.allow:
                self._lapsing.setdefault(number, now + LAPSE_S)
        elif label_by_s is not None and reply.unlabelled and isinstance(reply.answer, AnswerVerdict) and reply.answer.allow:
            self._unlabelled[number] = _Unlabelled(reply.answer, min(label_by_s, held.deadline_s))
        else:
            self._settle(number, held, reply.answer, effects)

    def _forget_one_of(self, workload: str) -> None:
        count = self._per_workload.pop(workload) - 1
        if count:
            self._per_workload[workload] = count

    def _settle(self, number: int, held: _Held, answer: AnswerRoute | AnswerVerdict, effects: Effects) -> None:
        self._waiting.pop(number, None)
        self._unlabelled.pop(number, None)
        self._lapsing.pop(number, None)
        if answer != held.answer:
            _note_passing(held, answer, effects)
            held.answer = answer
            effects.answers.append(answer)

    def _index(self, number: int, former: frozenset[str], current: frozenset[str]) -> None:
        for key in former - current:
            numbers = self._dependents[key]
            numbers.discard(number)
            if not numbers:
                del self._dependents[key]
        for key in current - former:
            self._dependents.setdefault(key, set()).add(number)


def _note_passing(held: _Held, answer: AnswerRoute | AnswerVerdict | None, effects: Effects) -> None:
    """The answer that is held gives way to another, or to none."""
    if isinstance(held.question, RouteQuestion) and (passes := _passes(answer)) != _passes(held.answer):
        (effects.outside if passes else effects.inside).append(held.question)


def _passes(answer: AnswerRoute | AnswerVerdict | None) -> bool:
    return isinstance(answer, AnswerRoute) and isinstance(answer.route, Pass)
