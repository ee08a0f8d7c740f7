"""How a report gets out: as a table for people, as JSON or YAML for programs."""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def output_option(command: F) -> F:
    """Adds `-o table|json|yaml`."""
    choice = click.Choice([entry.value for entry in Format])
    return click.option("-o", "--output", "output", type=choice, default=Format.TABLE.value, show_default=True, help="How to print.")(
        command
    )


def emit(report: object, output: str, render: Callable[["Console"], None]) -> None:
    """Prints a report: `render` draws the table."""
    import msgspec

    if output == Format.JSON:
        click.echo(msgspec.json.format(msgspec.json.encode(report).decode(), indent=2))
    elif output == Format.YAML:
        click.echo(msgspec.yaml.encode(report).decode(), nl=False)
    else:
        render(console())


def console() -> "Console":
    """Where tables are drawn: as wide as the terminal, or as wide as they are where there is none."""
    import shutil
    import sys

    from rich.console import Console

    return Console(
        file=sys.stdout,
        width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 240,
        highlight=False,
        soft_wrap=False,
    )
