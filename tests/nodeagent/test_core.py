"""No key of a running agent ends in a core file, nor in the pipe of a program that collects cores."""

from pathlib import Path

import psutil

from tests.nodeagent.test_agent import KEPT, Node
from tests.nodeagent.test_weight import agent, first_answer


async def test_a_crash_leaves_no_core_with_keys_in_it(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.keep(KEPT)
    async with agent(node.config) as process:
        await first_answer(node.config.run_dir / "decisions.sock")
        assert process.rlimit(psutil.RLIMIT_CORE) == (1, 1)
