"""The options of `nodeagent run`, and what importing the command line costs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nodeagent.cli.main import main
from nodeagent.cli.run import _config
from nodeagent.cni.conflist import CNIPlaces
from nodeagent.config import (
    Config,
    ConfigError,
    ControllerAddress,
    EngineContainers,
    KubernetesPods,
    StaticList,
    parse_controller,
    parse_listen,
    parse_runtime,
)

REQUIRED = ["--node", "n1", "--controller", "192.0.2.1", "--root-ca", "/root.pem", "--runtime", "static:/w.yaml", "--join-token", "/t"]


def configured(monkeypatch: pytest.MonkeyPatch, *arguments: str, env: dict[str, str] | None = None) -> Config:
    seen: list[Config] = []

    def note(run_dir: Path, options: dict[str, Any]) -> Config:
        seen.append(_config(run_dir, options))
        raise ConfigError("noted")

    monkeypatch.setattr("nodeagent.cli.run._config", note)
    result = CliRunner().invoke(main, ["--run-dir", "/r", "run", *arguments], env=env)
    assert result.exit_code == 2
    assert "noted" in result.stderr, result.stderr
    return seen[0]


def test_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(monkeypatch, *REQUIRED)
    assert config == Config(
        "n1",
        ControllerAddress("192.0.2.1", 15011, 15012),
        Path("/root.pem"),
        StaticList(Path("/w.yaml")),
        join_token=Path("/t"),
        run_dir=Path("/r"),
    )
    assert config.controller.certificate_target == "192.0.2.1:15011"
    assert config.metrics_listen == ("0.0.0.0", 15020)


def test_the_environment_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"NODE": "n2", "CONTROLLER": "[fd00::1]:1", "ROOT_CA": "/a", "RUNTIME": "static:b", "TOKEN": "/c", "LOG_FORMAT": "json"}
    config = configured(monkeypatch, env={f"NODEMESH_{name}": value for name, value in named.items()})
    assert config.controller.certificate_target == "[fd00::1]:1"
    assert config.controller.token_target == "[fd00::1]:15012"
    assert (config.node, config.token, config.log_format) == ("n2", Path("/c"), "json")


def test_the_kernel_refuses_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch, *REQUIRED).prefilter
    assert not configured(monkeypatch, *REQUIRED, "--prefilter", "off").prefilter
    assert not configured(monkeypatch, *REQUIRED, env={"NODEMESH_PREFILTER": "off"}).prefilter


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("c", "c:15011"),
        ("c.example:9", "c.example:9"),
        ("192.0.2.1", "192.0.2.1:15011"),
        ("fd00::1", "[fd00::1]:15011"),
        ("[fd00::1]:9", "[fd00::1]:9"),
    ],
)
def test_controllers(text: str, target: str) -> None:
    assert parse_controller(text).certificate_target == target


@pytest.mark.parametrize("text", ["", ":1", "c:0", "c:65536", "c:x", "c d:1", "[]:1"])
def test_what_is_no_controller(text: str) -> None:
    with pytest.raises(ConfigError, match="--controller"):
        parse_controller(text)


def test_listeners_and_runtimes() -> None:
    assert parse_listen("15020", "--x") == ("0.0.0.0", 15020)
    assert parse_listen("[::]:1", "--x") == ("::", 1)
    assert parse_runtime("static:/a:b") == StaticList(Path("/a:b"))
    assert parse_runtime("kubernetes") == KubernetesPods()
    places = {"cni_bin_dir": Path("/b"), "cni_conf_dir": Path("/c")}
    whole = KubernetesPods(Path("/k"), CNIPlaces(Path("/b"), Path("/c")), ("kube-system",))
    assert parse_runtime("kubernetes:/k", **places, exempt_namespaces=("kube-system",)) == whole
    assert parse_runtime("containers") == EngineContainers((), ("k8s.io",))
    assert parse_runtime("containers:/s,/t") == EngineContainers((Path("/s"), Path("/t")))
    assert parse_runtime("containers", containerd_exempt=("",)) == EngineContainers((), ())
    assert parse_runtime("containers", containerd_exempt=("a",)) == EngineContainers((), ("a",))
    with pytest.raises(ConfigError, match="for --runtime containers"):
        parse_runtime("kubernetes", containerd_exempt=("a",))
    for wrong in ("static:", "cni:/a", "/a"):
        with pytest.raises(ConfigError, match="--runtime"):
            parse_runtime(wrong)
    with pytest.raises(ConfigError, match="go together"):
        parse_runtime("kubernetes", cni_bin_dir=Path("/b"))
    with pytest.raises(ConfigError, match="for --runtime kubernetes"):
        parse_runtime("static:/a", **places)
    with pytest.raises(ConfigError, match="--x"):
        parse_listen("a", "--x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--node", "n1"], "Missing option"),
        ([*REQUIRED, "--token", "/x"], "one of --join-token and --token"),
        (REQUIRED[:-2], "one of --join-token and --token"),
        ([*REQUIRED, "--node", "a/b"], "--node"),
        ([*REQUIRED, "--trust-domain", "UPPER"], "--trust-domain"),
        ([*REQUIRED, "--metrics-listen", "x"], "--metrics-listen"),
    ],
)
def test_wrong_settings_are_usage_errors(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


def test_the_help_names_the_environment() -> None:
    text = CliRunner().invoke(main, ["run", "--help"]).stdout
    assert "NODEMESH_CONTROLLER" in text
    assert "NODEMESH_JOIN_TOKEN" in text


def test_showing_commands_import_nothing_heavy() -> None:
    heavy = {"grpc", "aiohttp", "rich", "cryptography", "google", "asyncio"}
    code = f"import sys, nodeagent.cli.main; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
