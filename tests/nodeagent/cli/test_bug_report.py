"""nodeagent/cli/bug_report.py: what the agent says is in the archive, and no secret that it says."""

import tarfile
from pathlib import Path

from tests.nodeagent.cli.conftest import Agent

CANARY = "c4n4ryV4lu3thatMustNotBeSeen"


def test_the_command_has_what_the_agent_says(agent: Agent, tmp_path: Path) -> None:
    for name in ("status", "workloads", "workloads/all", "services", "policies", "certs", "connections", "capture"):
        agent.answers[f"/{name}"] = {"said": name, "token": CANARY}
    agent.answers["/metrics"] = b"a_metric 1\n"
    agent.answers["/logs"] = b"a line\n"
    target = tmp_path / "node.tar.gz"
    result = agent.run("bug-report", "-o", str(target))
    assert result.exit_code == 0, result.output
    with tarfile.open(target) as archive:
        found = {one.name.partition("/")[2]: archive.extractfile(one).read().decode() for one in archive}  # type: ignore[union-attr]
    assert '"said":"services"' in found["agent/services.json"]
    assert found["agent/metrics.txt"] == "a_metric 1\n"
    assert found["agent/connections.log"] == "a line\n"
    assert CANARY not in "".join(found.values())
