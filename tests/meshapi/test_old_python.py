"""Timeouts in a task that has seen a TaskGroup fail. `tests/deploy/test_package.py` runs this on Debian's own Python."""

import asyncio

from meshapi import old_python


async def fail_in_a_group() -> None:
    async def fail() -> None:
        raise ConnectionError

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.sleep(60))
    except* ConnectionError:
        pass


async def timed_out_after_a_failed_group() -> bool:
    await fail_in_a_group()
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        return True
    return False


async def cancelled_during_a_timeout() -> bool:
    """Being cancelled from outside is no timeout."""

    async def wait() -> None:
        await fail_in_a_group()
        async with asyncio.timeout(60):
            entered.set()
            await asyncio.sleep(60)

    entered = asyncio.Event()
    task = asyncio.ensure_future(wait())
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled()


async def test_a_timeout_is_one_also_after_a_failed_group() -> None:
    old_python.mend()
    assert await timed_out_after_a_failed_group()
    assert await cancelled_during_a_timeout()


if __name__ == "__main__":
    old_python.mend()
    print(asyncio.run(timed_out_after_a_failed_group()), asyncio.run(cancelled_during_a_timeout()))
