"""I6: a caller that asks for more than its share is refused after a wait, and no other caller waits for it."""

import asyncio

import pytest

from control.ca.limits import CallerLimits, Limits
from control.ca.refusal import BusyError
from tests.control.fakes import FakeClock


async def test_one_after_the_other_for_one_caller_and_none_waits_for_another() -> None:
    limits = CallerLimits(Limits(), FakeClock())
    release, entered = asyncio.Event(), []

    async def work(caller: str) -> None:
        async with limits.admitted(caller):
            entered.append(caller)
            if caller == "busy":
                await release.wait()

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(work("busy"))
        second = tasks.create_task(work("busy"))
        async with asyncio.timeout(5):
            await tasks.create_task(work("other"))
        assert entered == ["busy", "other"]
        assert not first.done()
        assert not second.done()
        release.set()
    assert entered == ["busy", "other", "busy"]


async def test_the_queue_is_bounded() -> None:
    limits = CallerLimits(Limits(queue=2, refusal_delay_s=0), FakeClock())
    async with limits.admitted("a"):
        waiting = asyncio.ensure_future(enter(limits, "a"))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await enter(limits, "a")
        await enter(limits, "b")
    await waiting


async def enter(limits: CallerLimits, caller: str) -> None:
    async with limits.admitted(caller):
        pass


async def test_the_rate_is_bounded_and_comes_back() -> None:
    clock = FakeClock()
    limits = CallerLimits(Limits(rate_per_s=8, burst=3, refusal_delay_s=0), clock)
    for _ in range(3):
        await enter(limits, "a")
    with pytest.raises(BusyError):
        await enter(limits, "a")
    clock.now_s += 0.125
    await enter(limits, "a")
    with pytest.raises(BusyError):
        await enter(limits, "a")
    clock.now_s += 3600
    for _ in range(3):
        await enter(limits, "a")
    with pytest.raises(BusyError):
        await enter(limits, "a")


async def test_a_failure_gives_the_turn_back() -> None:
    limits = CallerLimits(Limits(), FakeClock())
    with pytest.raises(ZeroDivisionError):
        async with limits.admitted("a"):
            _ = 1 / 0
    async with asyncio.timeout(5):
        await enter(limits, "a")


async def test_refusals_wait_but_only_so_many() -> None:
    """With the delay set beyond the test's patience, only those over the bound come back."""
    limits = CallerLimits(Limits(burst=1, refusal_delay_s=3600, delayed=2), FakeClock())
    await enter(limits, "a")
    delayed = [asyncio.ensure_future(enter(limits, "a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        async with asyncio.timeout(5):
            await enter(limits, "a")
    assert not any(one.done() for one in delayed)
    for one in delayed:
        one.cancel()
    await asyncio.gather(*delayed, return_exceptions=True)


async def test_idle_callers_are_forgotten() -> None:
    clock = FakeClock()
    limits = CallerLimits(Limits(callers=10, burst=2, rate_per_s=1), clock)
    for number in range(50):
        await enter(limits, f"n{number}")
        clock.now_s += 1
    assert len(limits._shares) <= 10
