"""A session's questions on a real event loop: answers follow the snapshot, deadlines pass, subscriptions come and go."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from ipaddress import ip_address

from meshapi.authorization import Action, Policy, PolicyScope
from meshapi.workload import TunnelProtocol, Workload, WorkloadUID
from nodeagent.resolve.resolve import RouteQuestion
from nodeagent.snapshot.interest import Interest
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.update import Update
from nodeagent.subscriptions import Subscriptions
from nodeagent.ztunnel.answering import Answering
from nodeagent.ztunnel.protocol import AnswerRoute, AnswerVerdict, AskRoute, AskVerdict, Pass, Refuse, Release, Settings, Via
from tests.nodeagent.waiting import until

WEB = Workload(
    uid=WorkloadUID("web"), name="web", namespace="shop", addresses=(ip_address("10.0.0.1"),), tunnel_protocol=TunnelProtocol.HBONE
)
DENY = Policy("deny", "shop", PolicyScope.NAMESPACE, Action.DENY, rules=((),))


class Recorder:
    """Stands for the xds client and the proxy."""

    def __init__(self) -> None:
        self.subscribed: set[str] = set()
        self.sent: list[AnswerRoute | AnswerVerdict] = []
        self.order: list[str] = []
        """Of answers to routes, and of destinations that go past the proxy or do no more."""

    def subscribe(self, keys: Collection[str]) -> None:
        assert self.subscribed.isdisjoint(keys)
        self.subscribed |= set(keys)

    def unsubscribe(self, keys: Collection[str]) -> None:
        assert self.subscribed >= set(keys)
        self.subscribed -= set(keys)

    def send(self, message: AnswerRoute | AnswerVerdict) -> None:
        self.sent.append(message)
        if isinstance(message, AnswerRoute):
            self.order.append(type(message.route).__name__)

    def add(self, question: RouteQuestion) -> None:
        self.order.append(f"+{question.destination}:{question.port}")

    def remove(self, question: RouteQuestion) -> None:
        self.order.append(f"-{question.destination}:{question.port}")


class Scene:
    """A store with one workload, and a session that answers from it."""

    def __init__(self, *, linger_s: float = 0.0) -> None:
        self.recorder = Recorder()
        self.connected = True
        self.store = SnapshotStore(Snapshot())
        self.store.apply(Update(workloads=(WEB,), policies_arrived=True))
        self.subscriptions = Subscriptions(
            self.recorder, self.store, interest=Interest(linger_s=linger_s), connected=lambda: self.connected
        )

    @asynccontextmanager
    async def session(self, settings: Settings | None = None) -> AsyncIterator[Answering]:
        async with asyncio.TaskGroup() as tasks:
            with Answering(self.store, self.subscriptions, self.recorder.send, settings or Settings(), outside=self.recorder) as answering:
                task = tasks.create_task(answering.run())
                yield answering
                task.cancel()

    @property
    def last(self) -> AnswerRoute | AnswerVerdict:
        return self.recorder.sent[-1]


async def test_a_verdict_turns_when_the_policy_arrives() -> None:
    scene = Scene()
    async with scene.session() as answering:
        answering.ask(AskVerdict(1, "web", "10.0.0.1:80", Via.PLAINTEXT, "10.0.0.2"))
        assert isinstance(scene.last, AnswerVerdict)
        assert scene.last.allow
        scene.store.apply(Update(policies=(DENY,)))
        await until(lambda: len(scene.recorder.sent) == 2)
        assert isinstance(scene.last, AnswerVerdict)
        assert (scene.last.allow, scene.last.policy) == (False, "shop/deny")


async def test_an_unknown_destination_is_subscribed_answered_and_given_up() -> None:
    scene = Scene()
    async with scene.session() as answering:
        answering.ask(AskRoute(1, "web", "192.0.2.1:443"))
        assert scene.recorder.subscribed == {"web", "/192.0.2.1"}
        assert scene.recorder.sent == []
        scene.store.apply(Update(absent=("/192.0.2.1",)))
        await until(lambda: bool(scene.recorder.sent))
        assert isinstance(scene.last, AnswerRoute)
        assert isinstance(scene.last.route, Pass)
        answering.release(Release((1,)))
        scene.subscriptions.sweep()
        assert scene.recorder.subscribed == set()
        answering.ask(AskRoute(2, "web", "192.0.2.1:443"))
        assert answering.waiting == 1, "what was absent is not known to be so when nobody watches it"


async def test_a_question_that_nobody_can_answer_is_refused_before_the_proxy_gives_up() -> None:
    scene = Scene()
    settings = Settings(decision_deadline_s=0.2)
    async with scene.session(settings) as answering:
        begin = asyncio.get_running_loop().time()
        answering.ask(AskRoute(1, "web", "192.0.2.1:443"))
        await until(lambda: bool(scene.recorder.sent))
        assert asyncio.get_running_loop().time() - begin < settings.decision_deadline_s
        assert isinstance(scene.last, AnswerRoute)
        assert isinstance(scene.last.route, Refuse)
        scene.store.apply(Update(absent=("/192.0.2.1",)))
        await until(lambda: len(scene.recorder.sent) == 2)
        assert isinstance(scene.last, AnswerRoute)
        assert isinstance(scene.last.route, Pass)


async def test_many_held_answers_are_made_again_in_parts_while_new_questions_are_answered() -> None:
    scene = Scene()
    async with scene.session() as answering:
        for number in range(1000):
            answering.ask(AskVerdict(number, "web", "10.0.0.1:80", Via.PLAINTEXT, f"10.0.{number // 250}.{number % 250}"))
        scene.store.apply(Update(policies=(DENY,)))
        async with asyncio.timeout(5):
            while len(scene.recorder.sent) == 1000:  # noqa: ASYNC110 - turn by turn: an event would come after the parts
                await asyncio.sleep(0)
        assert len(scene.recorder.sent) < 2000
        answering.ask(AskVerdict(5000, "web", "10.0.0.1:80", Via.PLAINTEXT, "10.9.9.9"))
        assert scene.last.id == 5000
        await until(lambda: len(scene.recorder.sent) == 2001)
        assert {answer.allow for answer in scene.recorder.sent[1000:] if isinstance(answer, AnswerVerdict)} == {False}


async def test_a_session_that_ends_leaves_no_subscription_and_no_watcher() -> None:
    scene = Scene()
    async with scene.session() as answering:
        answering.ask(AskRoute(1, "web", "192.0.2.1:443"))
    scene.subscriptions.sweep()
    assert scene.recorder.subscribed == set()
    scene.store.apply(Update(absent=("/192.0.2.1",)))
    assert scene.recorder.sent == []


async def test_subscriptions_of_an_earlier_run_linger() -> None:
    scene = Scene(linger_s=1000)
    scene.subscriptions.remember(["a"])
    scene.subscriptions.need(["a"])
    assert scene.recorder.subscribed == {"a"}
    assert len(scene.subscriptions) == 1


async def test_nothing_is_given_up_while_the_controller_is_away() -> None:
    scene = Scene()
    async with scene.session() as answering:
        answering.ask(AskRoute(1, "web", "192.0.2.1:443"))
        scene.store.apply(Update(absent=("/192.0.2.1",)))
        answering.release(Release((1,)))
        scene.connected = False
        scene.subscriptions.sweep()
        answering.ask(AskRoute(2, "web", "192.0.2.1:443"))
        assert isinstance(scene.last, AnswerRoute)
        assert isinstance(scene.last.route, Pass)


async def test_labels_are_waited_for_only_while_a_controller_can_send_them() -> None:
    peer = "spiffe://cluster.local/ns/shop/sa/web"
    scene = Scene()
    async with scene.session() as answering:
        scene.connected = False
        answering.ask(AskVerdict(1, "web", "10.0.0.1:80", Via.HBONE, "10.0.0.7", peer))
        assert [answer.id for answer in scene.recorder.sent] == [1]
        scene.connected = True
        answering.ask(AskVerdict(2, "web", "10.0.0.1:80", Via.HBONE, "10.0.0.8", peer))
        assert [answer.id for answer in scene.recorder.sent] == [1]
        await until(lambda: [answer.id for answer in scene.recorder.sent] == [1, 2])


async def test_past_the_proxy_goes_what_was_answered_so_and_no_more_before_another_answer_is_sent() -> None:
    scene = Scene()
    async with scene.session() as answering:
        scene.store.apply(Update(absent=("/192.0.2.1", "/192.0.2.2")))
        answering.ask(AskRoute(1, "web", "192.0.2.1:443"))
        answering.ask(AskRoute(2, "web", "192.0.2.2:80"))
        answering.release(Release((2,)))
        moved = Workload(uid=WorkloadUID("db"), name="db", namespace="shop", addresses=(ip_address("192.0.2.1"),))
        scene.store.apply(Update(workloads=(moved,)))
        await until(lambda: scene.recorder.order[-1] == "Forward")
        answering.ask(AskRoute(3, "web", "192.0.2.2:80"))
    assert scene.recorder.order == [
        *("Pass", "+192.0.2.1:443"),
        *("Pass", "+192.0.2.2:80", "-192.0.2.2:80"),
        *("-192.0.2.1:443", "Forward"),
        *("Pass", "+192.0.2.2:80"),
        "-192.0.2.2:80",  # with the session
    ]
