"""Options that the commands share, and how they end: 0 done, 1 a problem was found or the controller refused, 2 usage, 3 no controller."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from control.admin import DEFAULT_SOCKET
from control.admin.client import AdminClient, AdminError, NotRunningError

EXIT_PROBLEM: Final = 1
EXIT_NOT_RUNNING: Final = 3
FORMATS = ("table", "json", "yaml")

output_option = click.option("-o", "--output", type=click.Choice(FORMATS), default="table", help="For people (table) or for programs.")


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The errors in a group, also in the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def asks_controller(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--admin-socket`, gives the command an AdminClient as `client`, and turns its errors into messages and exit codes."""

    @click.option(
        "--admin-socket",
        type=click.Path(path_type=Path),
        default=DEFAULT_SOCKET,
        envvar="NODEMESH_ADMIN_SOCKET",
        show_default=True,
        show_envvar=True,
        help="The running controller's admin socket.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, admin_socket: Path, **options: Any) -> Any:
        try:
            return command(*args, client=AdminClient(admin_socket), **options)
        except NotRunningError as error:
            click.echo(f"{error}\nIs `meshctl serve` running, as this user, with this --admin-socket?", err=True)
            sys.exit(EXIT_NOT_RUNNING)
        except AdminError as error:
            click.echo(f"refused: {error}", err=True)
            sys.exit(EXIT_PROBLEM)

    return wrapped


def address_and_port(option: str, text: str) -> tuple[str, int]:
    """`address:port`, `[address]:port` of an option; raises ValueError."""
    from ipaddress import ip_address

    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise ValueError(f"{option}: {text[:60]!r} is no ADDRESS:PORT")
    return str(ip_address(host.removeprefix("[").removesuffix("]"))), int(port)
