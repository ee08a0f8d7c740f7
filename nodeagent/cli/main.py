"""The command line's entry."""

from pathlib import Path

import click

from meshapi import old_python
from meshapi.completion import completion_command
from nodeagent.cli import run_dir as directories
from nodeagent.cli import show
from nodeagent.cli.bug_report import bug_report
from nodeagent.cli.check import check
from nodeagent.cli.down import down
from nodeagent.cli.explain import explain
from nodeagent.cli.join import join
from nodeagent.cli.leave import leave
from nodeagent.cli.run import run
from nodeagent.cli.top import top


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=directories.DEFAULT,
    show_default=True,
    envvar="NODEMESH_RUN_DIR",
    show_envvar=True,
    help="Where the agent's sockets are: says which agent is meant where several run.",
)
@click.version_option(package_name="nodemesh")
@click.pass_context
def main(context: click.Context, run_dir: Path) -> None:
    """The node agent of the mesh: runs it, and shows what it does.

    Exit codes: 0 all well, 1 a problem was found or a call would be denied, 2 wrong usage, 3 no agent runs.
    """
    old_python.mend()
    context.obj = run_dir


for _command in (
    run,
    join,
    leave,
    show.status,
    show.workloads,
    show.services,
    show.policies,
    show.certs,
    show.connections,
    show.capture,
    show.logs,
    explain,
    check,
    bug_report,
    top,
    down,
    completion_command("nodeagent"),
):
    main.add_command(_command)
