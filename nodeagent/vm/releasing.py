"""Takes off what an agent that has ended left in force: by one that runs for just as long."""

import asyncio
from contextlib import suppress
from typing import Final

from nodeagent.agent import Agent
from nodeagent.config import Config

_KNOWS_S: Final = 10.0
_POLL_S: Final = 0.02


async def release(config: Config) -> list[str]:
    """Returns what was released; raises OSError or ConfigError if no agent can run."""
    agent = Agent(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run(), name="agent")
        # Once it knows what there is; where that is nothing any more, it is told so by what is on disk.
        with suppress(TimeoutError):
            async with asyncio.timeout(_KNOWS_S):
                while not agent.enrolment.status():  # noqa: ASYNC110 - it changes with every look, and nothing tells
                    await asyncio.sleep(_POLL_S)
        released = await agent.down(0.0)
        agent.end()
    return released
