"""`meshctl validate` from the outside."""

import json
from pathlib import Path

from click.testing import CliRunner

from control.cli.validate import validate

BAD = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 0}, {port: 70000}]}\n"


def test_errors_are_listed_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    result = CliRunner().invoke(validate, [str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.count(" error ") == 2
    assert f"{tmp_path}/a.yaml:4" in result.output


def test_json_holds_every_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(BAD)
    result = CliRunner().invoke(validate, ["-o", "json", str(tmp_path / "a.yaml")])
    assert result.exit_code == 1
    findings = json.loads(result.output)
    assert [(one["line"], one["severity"], one["object"]) for one in findings] == [(4, "error", "Service default/s")] * 2


def test_warnings_and_nothing_are_exit_code_0(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n")
    result = CliRunner().invoke(validate, [str(tmp_path)])
    assert (result.exit_code, "warning" in result.output) == (0, True)
    (tmp_path / "a.yaml").write_text("")
    result = CliRunner().invoke(validate, [str(tmp_path)])
    assert (result.exit_code, result.output) == (0, "nothing is wrong\n")


def test_a_path_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert CliRunner().invoke(validate, [str(tmp_path / "missing")]).exit_code == 2
    assert CliRunner().invoke(validate, []).exit_code == 2
