"""Who leads: never two at once, always one again after a while, whatever is lost or late."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from control.cluster.election import Election, Lease, Terms, Write

TERMS = Terms(lease_s=15, renew_s=10, retry_s=2)


@dataclass
class Server:
    """One lease, with versions, as the API server keeps it."""

    lease: Lease | None = None
    version: int = 0

    def write(self, write: Write) -> bool:
        """False for a conflict."""
        if (self.lease.version if self.lease else "") != write.lease.version:
            return False
        self.version += 1
        given = write.lease
        self.lease = Lease(given.holder, given.lease_s, given.transitions, str(self.version))
        return True


@dataclass
class Replica:
    server: Server
    name: str
    election: Election = field(init=False)

    def __post_init__(self) -> None:
        self.election = Election(self.name, TERMS)

    def round(self, now_s: float, *, reply_lost: bool = False) -> None:
        write = self.election.read(self.server.lease, now_s)
        if write is None:
            return
        done = self.server.write(write)
        if reply_lost:
            return
        self.election.written(now_s) if done else self.election.lost()


def test_the_first_one_leads_and_keeps_leading() -> None:
    server = Server()
    a, b = Replica(server, "a"), Replica(server, "b")
    for now_s in range(0, 100, 2):
        a.round(now_s)
        b.round(now_s)
        assert a.election.leading(now_s)
        assert not b.election.leading(now_s)
    assert server.lease is not None
    assert server.lease.transitions == 0


def test_a_dead_leader_is_followed_after_its_lease_and_not_before() -> None:
    server = Server()
    a, b = Replica(server, "a"), Replica(server, "b")
    a.round(0)
    took_over_s = None
    for now_s in range(1, 40):
        b.round(now_s)
        if b.election.leading(now_s):
            took_over_s = now_s
            break
    assert took_over_s is not None
    assert 15 <= took_over_s <= 18
    assert not a.election.leading(10)
    assert server.lease is not None
    assert server.lease.transitions == 1


def test_one_that_ends_in_order_is_followed_at_once() -> None:
    server = Server()
    a, b = Replica(server, "a"), Replica(server, "b")
    a.round(0)
    b.round(1)
    given_back = a.election.release()
    assert given_back is not None
    assert not a.election.leading(1)
    assert server.write(Write(Lease(given_back.holder, given_back.lease_s, given_back.transitions, str(server.version))))
    b.round(2)
    assert b.election.leading(2)
    assert Replica(server, "c").election.release() is None


def test_of_two_at_once_one_is_refused() -> None:
    server = Server()
    a, b = Replica(server, "a"), Replica(server, "b")
    first, second = a.election.read(None, 0), b.election.read(None, 0)
    assert first is not None
    assert second is not None
    assert server.write(first)
    assert not server.write(second)


STEPS = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 8), st.booleans(), st.floats(0, 6)), max_size=80)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_never_two(steps: list[tuple[int, float, bool, float]]) -> None:
    """Replicas act in any order, with any pauses; replies get lost; one is late with what it read."""
    server = Server()
    replicas = [Replica(server, name) for name in "abc"]
    now_s = 0.0
    for index, pause_s, reply_lost, delay_s in steps:
        now_s += pause_s
        replica = replicas[index]
        asked_s = now_s
        write = replica.election.read(server.lease, now_s)
        now_s += delay_s
        if write is not None:
            done = server.write(write)
            if not reply_lost:
                replica.election.written(asked_s) if done else replica.election.lost()
        assert sum(one.election.leading(now_s) for one in replicas) <= 1
