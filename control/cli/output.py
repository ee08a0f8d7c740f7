"""How results are printed: as a table for people, as JSON or YAML for programs."""

from collections.abc import Sequence
from datetime import UTC, datetime

import click


def emit(data: object, output: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints `data` as json or yaml, or `rows` under `columns` as a table."""
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(data)).decode())
    elif output == "yaml":
        import msgspec

        click.echo(msgspec.yaml.encode(data).decode(), nl=False)
    else:
        _table(columns, rows)


def moment(at_s: float | None) -> str:
    """A moment in UTC, to the second; `-` for none."""
    return "-" if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # A pipe has no width: cells must not be cut where a program reads them.
        console = Console(width=10_000)
    table = Table(*columns, box=None, pad_edge=False, show_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(_printable(cell)) for cell in row))
    console.print(table)


def _printable(text: str) -> str:
    """Some texts come from other machines: no control character of theirs reaches the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
