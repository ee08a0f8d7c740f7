"""The state machine of listing and watching, step by step, and against a server that does everything a server may do."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kubeapi.watching import Bookmark, Deleted, Delivery, GetPage, Item, OpenWatch, Page, Pause, Seen, Watching


def item(name: str, version: int) -> Item:
    return Item("ns", name, str(version), b"{}")


def started() -> Watching:
    """Has listed a (version 1) and b (version 2)."""
    watching = Watching(lambda: 0.5)
    watching.page(Page((item("a", 1), item("b", 2)), "", "5"))
    return watching


def step(watching: Watching) -> GetPage | OpenWatch:
    """What is to be asked, after the pause if there is one."""
    if isinstance(watching.todo, Pause):
        watching.rested()
    assert not isinstance(watching.todo, Pause)
    return watching.todo


def test_pages_follow_each_other_and_the_last_opens_the_watch() -> None:
    watching = Watching(lambda: 0.5)
    assert watching.todo == GetPage()
    assert watching.page(Page((item("a", 1),), "more", "5")) == Delivery((item("a", 1),))
    assert not watching.listed
    assert watching.todo == GetPage("more")
    assert watching.page(Page((item("b", 2),), "", "5")) == Delivery((item("b", 2),))
    assert watching.listed
    assert watching.todo == OpenWatch("5", 450)


def test_a_broken_watch_goes_on_where_it_was_without_a_list() -> None:
    watching = started()
    assert watching.event(Seen(item("a", 7))) == Delivery((item("a", 7),))
    watching.event(Bookmark("9"))
    for status in (0, 401, 403, 429, 500, 503):
        watching.failed(status)
        assert step(watching) == OpenWatch("9", 450), status
    assert watching.lists == 1


def test_an_expired_watch_lists_again_and_tells_what_went_meanwhile() -> None:
    watching = started()
    watching.failed(410)
    assert step(watching) == GetPage()
    assert watching.page(Page((item("b", 2), item("c", 8)), "", "9")) == Delivery((item("c", 8),), (("ns", "a"),))


def test_a_version_that_the_server_does_not_have_lists_again() -> None:
    """As after a restore of etcd from a backup: the server answers 504, or 400."""
    for status in (504, 400):
        watching = started()
        watching.failed(status)
        assert step(watching) == GetPage()


def test_a_list_that_breaks_in_the_middle_removes_nothing() -> None:
    watching = started()
    watching.failed(410)
    watching.rested()
    assert watching.page(Page((item("b", 2),), "more", "9")) == Delivery()
    watching.failed(0)
    assert step(watching) == GetPage("more")
    assert watching.page(Page((item("a", 1),), "", "9")) == Delivery()


def test_a_list_that_expires_twice_is_asked_for_in_one() -> None:
    watching = Watching(lambda: 0.5)
    watching.page(Page((item("a", 1),), "more", "5"))
    watching.failed(410)
    assert step(watching) == GetPage()
    watching.page(Page((item("a", 1),), "more", "6"))
    watching.failed(410)
    assert step(watching) == GetPage(limit=0)
    assert watching.page(Page((), "", "7")) == Delivery((), (("ns", "a"),))


def test_a_watch_that_ends_at_once_and_brings_nothing_is_not_opened_in_a_loop() -> None:
    watching = started()
    delays = []
    for _ in range(12):
        watching.ended(0.01)
        assert isinstance(watching.todo, Pause)
        delays.append(watching.todo.seconds)
        assert isinstance(step(watching), OpenWatch)
    assert delays == sorted(delays)
    assert 20 <= delays[-1] <= 30
    watching.ended(400)
    assert isinstance(watching.todo, OpenWatch)


def test_the_server_says_how_long_to_wait() -> None:
    watching = started()
    watching.failed(429, 17.0)
    assert watching.todo == Pause(17.0)


def test_nothing_is_told_twice() -> None:
    watching = started()
    assert watching.event(Seen(item("a", 1))) == Delivery()
    assert watching.event(Deleted(item("nobody", 8))) == Delivery()


class Server:
    """Objects by name with their versions, and a history that it may forget."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, int] = {}
        self.history: list[tuple[int, Seen | Deleted]] = []
        self.compacted = 0
        self.snapshot: list[Item] = []

    def put(self, name: str) -> None:
        self.version += 1
        self.objects[name] = self.version
        self.history.append((self.version, Seen(item(name, self.version))))

    def delete(self, name: str) -> None:
        if self.objects.pop(name, None):
            self.version += 1
            self.history.append((self.version, Deleted(item(name, self.version))))

    def page(self, token: str, limit: int) -> Page | None:
        """Of the state when the first page was asked for; None if that is forgotten."""
        if not token:
            self.snapshot = [item(name, version) for name, version in sorted(self.objects.items())]
            begin, version = 0, self.version
        else:
            begin, version = (int(part) for part in token.split("@"))
            if version < self.compacted:
                return None
        size = min(limit or 1000, 2) if limit else 1000
        rest = f"{begin + size}@{version}" if begin + size < len(self.snapshot) else ""
        return Page(tuple(self.snapshot[begin : begin + size]), rest, str(version))

    def events(self, version: int) -> list[Seen | Deleted] | None:
        return None if version < self.compacted else [event for at, event in self.history if at > version]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcdefg")),
        st.tuples(st.just("delete"), st.sampled_from("abcdefg")),
        st.tuples(st.sampled_from(["compact", "fail", "step", "step", "cut"]), st.just("")),
    ),
    max_size=60,
)


class Run:
    """A server, a watch of it, and what was learned."""

    def __init__(self, seed: int) -> None:
        self.server = Server()
        self.watching = Watching(random.Random(seed).random)  # noqa: S311 -- no secret
        self.holds: dict[str, str] = {}

    def learn(self, delivery: Delivery) -> None:
        for one in delivery.present:
            self.holds[one.name] = one.version
        for _, name in delivery.gone:
            del self.holds[name]

    def proceed(self, *, cut_after: int | None = None) -> None:
        """Does what is to be done; a watch may be cut after some events."""
        match step(self.watching):
            case GetPage(token, limit):
                page = self.server.page(token, limit)
                self.learn(self.watching.page(page)) if page is not None else self.watching.failed(410)
            case OpenWatch(version):
                self.follow(self.server.events(int(version)), cut_after)

    def follow(self, events: list[Seen | Deleted] | None, cut_after: int | None) -> None:
        if events is None:
            self.watching.failed(410)
            return
        for event in events[:cut_after]:
            self.learn(self.watching.event(event))
        self.watching.failed(0) if cut_after is not None else self.watching.ended(100)

    def act(self, action: str, name: str) -> None:
        match action:
            case "put":
                self.server.put(name)
            case "delete":
                self.server.delete(name)
            case "compact":
                self.server.compacted = self.server.version
            case "fail":
                self.watching.failed(0)
            case "cut":
                self.proceed(cut_after=1)
            case _:
                self.proceed()


@settings(max_examples=200, deadline=None)
@given(ACTIONS, st.integers(0, 1000))
def test_whatever_happens_it_ends_up_with_what_the_server_has(actions: list[tuple[str, str]], seed: int) -> None:
    run = Run(seed)
    for action, name in actions:
        run.act(action, name)
    for _ in range(20):
        run.proceed()
    assert run.holds == {name: str(version) for name, version in run.server.objects.items()}
