"""`meshctl ratelimit`: what it says of files, and of what it can't start with."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from control.cli.main import main

GOOD = "domain: shop\ndescriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]"


def run(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(main, ["ratelimit", *arguments])
    return found.exit_code, found.output


def test_what_files_limit_or_what_is_wrong_with_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert run("check", str(tmp_path)) == (0, "shop\n")
    (tmp_path / "b.yaml").write_text(GOOD)
    code, words = run("check", str(tmp_path))
    assert (code, "has the domain 'shop' already" in words) == (1, True)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--listen=nowhere"], "can't listen"),
        (["--metrics-listen=nowhere"], "no ADDRESS:PORT"),
        (["--redis-url=nonsense"], "scheme"),
        (["--redis-url=redis://a", "--redis-url-file={file}"], "say the same"),
        (["--config={directory}"], "is none of"),
    ],
)
def test_what_it_does_not_start_with(tmp_path: Path, options: list[str], what: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(GOOD.replace("day", "fortnight"))
    stated = [one.format(file=file, directory=tmp_path) for one in options]
    usual = (
        [] if any(one.startswith(("--listen", "--metrics")) for one in stated) else ["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"]
    )
    code, words = run("serve", *usual, *stated)
    assert code != 0
    assert what in words
    assert "Traceback" not in words
