"""`meshctl`: the commands, each in a file of its own."""

import click

from control.cli.agents import agents, status
from control.cli.analyze import analyze
from control.cli.convert import convert
from control.cli.describe import describe
from control.cli.get import get
from control.cli.install import check, install, uninstall, version
from control.cli.proxies import proxy_config, proxy_status
from control.cli.ratelimit import ratelimit
from control.cli.revoke import revoke
from control.cli.root import root
from control.cli.serve import serve
from control.cli.token import token
from control.cli.validate import validate
from control.cli.vm import vm
from control.cli.waypoint import gateway, waypoint
from meshapi import old_python
from meshapi.completion import completion_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the mesh's controller, and ask and tell a running one."""
    old_python.mend()


COMMANDS = (
    serve,
    token,
    vm,
    revoke,
    agents,
    status,
    root,
    get,
    describe,
    validate,
    analyze,
    convert,
    install,
    uninstall,
    check,
    version,
    waypoint,
    gateway,
    ratelimit,
    proxy_status,
    proxy_config,
    completion_command("meshctl"),
)

for command in COMMANDS:
    main.add_command(command)
