"""What the commands print, compared with golden files, and their exit codes."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from nodeagent.admin.reports import Problem
from nodeagent.resolve.explanation import Explanation, Outcome, Step
from tests.nodeagent.cli import samples
from tests.nodeagent.cli.conftest import Agent

GOLDEN = Path(__file__).parent / "golden"
CASES: list[tuple[str, list[str], str, Any, int]] = [
    ("status", ["status"], "/status", samples.GOOD, 0),
    ("status-bad", ["status"], "/status", samples.BAD, 1),
    ("workloads-all", ["workloads", "--all"], "/workloads/all", [samples.REMOTE], 0),
    ("services", ["services"], "/services", [samples.SERVICE], 0),
    ("policies", ["policies"], "/policies", samples.POLICIES, 0),
    ("certs", ["certs"], "/certs", samples.CERTIFICATES, 0),
    ("capture", ["capture"], "/capture", [samples.CAPTURE], 0),
    ("explain", ["explain", "default/shop", "api:80"], "/explain", samples.EXPLANATION, 1),
    ("explain-no-exit-code", ["explain", "default/shop", "api:80", "--no-exit-code"], "/explain", samples.EXPLANATION, 0),
    ("workloads-none", ["workloads"], "/workloads", [], 0),
    ("services-none", ["services"], "/services", [], 0),
    ("policies-none", ["policies"], "/policies", [], 0),
    ("connections-none", ["connections"], "/connections", [], 0),
    ("capture-none", ["capture"], "/capture", [], 0),
]


def golden(name: str, text: str) -> None:
    """Compares with a file; UPDATE_GOLDEN=1 writes it."""
    file = GOLDEN / f"{name}.txt"
    text = "".join(line.rstrip() + "\n" for line in text.splitlines())
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize(("name", "arguments", "path", "report", "code"), CASES, ids=[case[0] for case in CASES])
def test_tables(agent: Agent, name: str, arguments: list[str], path: str, report: Any, code: int) -> None:
    agent.answers[path] = report
    result = agent.run(*arguments)
    golden(name, result.stdout)
    assert result.exit_code == code


@pytest.mark.parametrize(("name", "arguments", "path", "report", "code"), CASES, ids=[case[0] for case in CASES])
def test_json_and_yaml_hold_the_whole_report(agent: Agent, name: str, arguments: list[str], path: str, report: Any, code: int) -> None:
    agent.answers[path] = report
    expected = msgspec.to_builtins(report)
    for output, parse in (("json", json.loads), ("yaml", yaml.safe_load)):
        result = agent.run(*arguments, "-o", output)
        assert (parse(result.stdout), result.exit_code) == (json.loads(json.dumps(expected)), code)


def test_times_that_are_relative_to_the_command_are_shown(agent: Agent) -> None:
    agent.answers["/workloads"] = [samples.WORKLOAD]
    agent.answers["/connections"] = [samples.CONNECTION]
    assert samples.SHOP in agent.run("workloads").stdout
    text = agent.run("connections").stdout
    assert "10.0.2.2:15008" in text
    assert "5.0 GiB" in text


def test_status_names_every_workload_and_what_is_wrong_with_it(agent: Agent) -> None:
    agent.answers["/status"] = samples.BAD
    text = agent.run("status").stdout
    assert "NOT READY" in text
    assert "default/shop" in text
    assert "/run/netns/api: no such namespace [x]" in text
    assert "what is known stays in force" in text


def test_nothing_that_a_terminal_obeys_gets_to_it(agent: Agent) -> None:
    evil = "\x1b]0;owned\x07\r\n\x9b31m"
    workload = msgspec.structs.replace(samples.BROKEN, problem=evil)
    agent.answers["/status"] = msgspec.structs.replace(samples.BAD, workloads=(workload,), problems=(Problem(evil, evil),))
    agent.answers["/capture"] = [msgspec.structs.replace(samples.CAPTURE, problem=evil)]
    agent.answers["/explain"] = Explanation(Outcome.DENIED, (Step("verdict", evil),))
    agent.answers["/policies"] = [msgspec.structs.replace(samples.POLICIES[0], error=evil)]
    for command in (["status"], ["capture"], ["policies"], ["explain", "a/b", "c"]):
        text = agent.run(*command).stdout
        assert "owned" in text, command
        assert not set("\x1b\x07\x9b\r") & set(text), command


def test_logs_are_printed_as_they_are(agent: Agent) -> None:
    agent.answers["/logs"] = b"one\ntwo\n"
    assert agent.run("logs", "-n", "5").stdout == "one\ntwo\n"
    assert agent.asked == [("GET", "/logs", {"count": ["5"]})]


def test_explain_asks_for_what_was_written(agent: Agent) -> None:
    agent.answers["/explain"] = samples.EXPLANATION
    agent.run("explain", "default/shop", "[fd00::1]:80")
    assert agent.asked == [("GET", "/explain", {"source": ["default/shop"], "destination": ["[fd00::1]:80"]})]


def test_down_says_what_was_released(agent: Agent) -> None:
    agent.answers["/down"] = ["default/shop"]
    result = agent.run("down", "--drain", "0")
    assert (result.exit_code, result.stdout) == (0, "default/shop is released\nthe proxy and the agent have ended\n")
    assert agent.asked == [("POST", "/down", {"drain_s": ["0.0"]})]


@pytest.mark.parametrize(("status", "code"), [(400, 2), (404, 1), (503, 1)])
def test_a_refusal_is_told_in_the_agents_words(agent: Agent, status: int, code: int) -> None:
    agent.answers["/explain"] = (status, {"error": "no such thing"})
    result = agent.run("explain", "a/b", "c")
    assert (result.exit_code, result.stderr) == (code, "nodeagent: no such thing\n")


def test_an_answer_that_is_none_is_said_to_be_so(agent: Agent) -> None:
    agent.answers["/status"] = (500, b"<html>")
    assert agent.run("status").stderr == "nodeagent: the agent answered 500 Internal Server Error\n"
    agent.answers["/status"] = b"{}"
    result = agent.run("status")
    assert result.exit_code == 1
    assert "can't be read" in result.stderr


def test_no_agent_is_exit_code_3(tmp_path: Path) -> None:
    for command in (["status"], ["workloads", "-o", "json"], ["logs"], ["down"], ["explain", "a/b", "c"]):
        result = Agent(tmp_path).run(*command)
        assert result.exit_code == 3, command
        assert "no agent runs" in result.stderr


def test_wrong_usage_is_exit_code_2(tmp_path: Path) -> None:
    for command in (["nothing"], ["status", "-o", "xml"], ["explain", "a/b"], ["logs", "-n", "-1"]):
        assert Agent(tmp_path).run(*command).exit_code == 2, command
