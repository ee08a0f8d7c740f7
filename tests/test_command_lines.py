"""What both command lines have beside their commands: completion by the shells, and manual pages made from their help."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PROGRAMS = ("nodeagent", "meshctl")


def run(*command: object, **environment: str) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    ).stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash_completes_commands_and_options(program: str) -> None:
    script = run(BIN / program, "completion", "bash")
    words = {"nodeagent": "stat", "meshctl": "valid"}[program]
    asked = f"""
    PATH={BIN}:$PATH
    {script}
    COMP_WORDS=({program} {words}); COMP_CWORD=1
    _{program}_completion {program} {words} {program}
    echo "${{COMPREPLY[@]}}"
    """
    assert run("bash", "-c", asked).split() == [{"nodeagent": "status", "meshctl": "validate"}[program]]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_a_script(program: str, shell: str) -> None:
    script = run(BIN / program, "completion", shell)
    assert f"_{program.upper()}_COMPLETE={shell}_complete" in script


def test_a_page_of_each_program_names_every_command(tmp_path: Path) -> None:
    run(sys.executable, ROOT / "tools/man.py", tmp_path, PYTHONPATH=str(ROOT))
    assert shutil.which("groff"), "groff is needed: make packages"
    for program in PROGRAMS:
        page = tmp_path / f"{program}.1"
        done = subprocess.run(
            ["groff", "-man", "-Tascii", "-ww", "-rLL=78n", str(page)], check=True, capture_output=True, text=True, timeout=60
        )
        assert done.stderr == "", "groff finds fault with the page"
        shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
        help_text = run(BIN / program, "--help")
        commands = re.findall(r"^  ([a-z][a-z-]+)", help_text[help_text.index("Commands:") :], re.MULTILINE)
        assert len(commands) > 8
        for command in commands:
            assert re.search(rf"^\s*{program}\s+{command}\b", shown, re.MULTILINE), command
