"""The agent as a process: its heap and core, signals, what it takes over, and its exit code."""

import asyncio
import logging
import resource
import signal
from importlib import import_module
from typing import Final

from nodeagent.agent import DECISIONS_SOCKET, Agent
from nodeagent.config import Config, ConfigError
from nodeagent.linux import memory

log = logging.getLogger(__name__)

EXIT_FAILED: Final = 1


def main(config: Config) -> int:
    """Runs an agent until SIGTERM, SIGINT or `nodeagent down`; returns the exit code."""
    memory.use_one_heap()
    failed: list[BaseException] = []
    try:
        asyncio.run(_main(config))
    except* (ConfigError, OSError) as group:
        failed += _leaves(group)
    for error in failed:
        log.error("the agent can't run: %s", error)
    return EXIT_FAILED if failed else 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [leaf for error in group.exceptions for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])]


async def _main(config: Config) -> None:
    # Keys are in memory, and must not get into a core. One byte, since the kernel pipes a core to a collector in spite of a limit of 0.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if config.in_container:
        takeover = await asyncio.to_thread(import_module, "nodeagent.takeover")
        await takeover.take_over(config.run_dir, config.run_dir / DECISIONS_SOCKET)
    agent = Agent(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.end)
    await agent.run()
