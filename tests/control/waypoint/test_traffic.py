"""control/waypoint/traffic.py: what reports of connections that last add up to."""

from hypothesis import given, settings
from hypothesis import strategies as st

from control.waypoint.traffic import FORGET_S, Progress, Traffic


def report(number: int, received: int = 0, sent: int = 0, *, ended: bool = False, reached: bool = True) -> str:
    kind, upstream = "TcpConnectionEnd" if ended else "TcpPeriodic", "10.0.0.1:1" if reached else "-"
    return "\t".join(("C", "-", "-", "-", "-", "10.0.0.2", "10.0.0.3", "-", str(number), kind, upstream, "-", str(received), str(sent)))


def read(traffic: Traffic, *lines: str, now_s: float = 0) -> list[Progress]:
    return [one for one in traffic.read(lines, now_s) if isinstance(one, Progress)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)), max_size=5), max_size=6), st.integers(0, 4))
def test_whatever_is_told_meanwhile_the_sums_are_those_of_the_end(connections: list[list[tuple[int, int]]], room: int) -> None:
    """Also of those for which there was no room."""
    traffic = Traffic(max_connections=room)
    steps = [sorted(one) for one in connections]
    found: list[Progress] = []
    for at in range(max((len(one) for one in steps), default=0)):
        for number, one in enumerate(steps):
            if at < len(one):
                received, sent = one[at][0], max(step[1] for step in one[: at + 1])
                found += read(traffic, report(number, received, sent, ended=at == len(one) - 1))
                assert traffic.open_connections <= room
    ended = [one for one in steps if one]
    assert sum(one.received_bytes for one in found) == sum(one[-1][0] for one in ended)
    assert sum(one.sent_bytes for one in found) == sum(max(step[1] for step in one) for one in ended)
    assert sum(one.opened for one in found) == sum(one.closed for one in found) == len(ended)
    assert not any(one.failed for one in found)
    assert traffic.open_connections == 0


def test_one_that_reached_nobody_failed() -> None:
    (progress,) = read(Traffic(), report(1, 7, ended=True, reached=False))
    assert (progress.opened, progress.closed, progress.failed, progress.received_bytes) == (False, False, True, 7)


def test_one_whose_end_was_lost_is_kept_no_longer() -> None:
    traffic = Traffic()
    read(traffic, report(1), report(2), now_s=100)
    read(traffic, report(2), now_s=100 + FORGET_S)
    assert traffic.open_connections == 2
    read(traffic, report(3), now_s=101 + FORGET_S)
    assert traffic.open_connections == 2, "the first is gone"
