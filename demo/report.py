"""What the demo says: steps in plain words as they happen, and the table of what held at the end."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Claim:
    """Something the demo set out to show, and whether it held."""

    text: str
    held: bool
    seen: str


def make_console() -> Console:
    """Where people read; in a file or a pipe, the width that rich would assume (80) folds tables into ribbons."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


class Report:
    """Prints steps and claims; colours only on a terminal (rich finds out)."""

    def __init__(self) -> None:
        self.console = make_console()
        self.claims: list[Claim] = []
        self._step = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A chapter, and how long it took. An exception in it becomes a claim that did not hold, and ends the demo."""
        self._step += 1
        begin_s = time.monotonic()
        self.console.print(f"\n[bold]{self._step}. {escape(title)}[/bold]")
        try:
            yield
        except Exception as error:
            self.claim(title, held=False, seen=f"{type(error).__name__}: {error}")
            raise
        self.console.print(f"   [dim]({time.monotonic() - begin_s:.1f} s)[/dim]")

    def say(self, text: str) -> None:
        """A line of what happens."""
        self.console.print(f"   {escape(text)}")

    def show(self, text: str) -> None:
        """What a command printed, as it is."""
        for line in text.rstrip().splitlines():
            self.console.print(f"   [dim]|[/dim] {escape(line)}")

    def claim(self, text: str, *, held: bool, seen: str) -> None:
        """Records whether something held, with what was seen."""
        self.claims.append(Claim(text, held, seen))
        mark = "[green]held[/green]" if held else "[red]FAILED[/red]"
        self.console.print(f"   {mark}: {escape(text)} ({escape(seen)})")

    @property
    def all_held(self) -> bool:
        return bool(self.claims) and all(claim.held for claim in self.claims)

    def table(self) -> None:
        """The table of all claims."""
        table = Table(title="What held", show_lines=False, expand=False)
        table.add_column("")
        table.add_column("claim", overflow="fold")
        table.add_column("seen", overflow="fold")
        for claim in self.claims:
            table.add_row("[green]held[/green]" if claim.held else "[red]FAILED[/red]", escape(claim.text), escape(claim.seen))
        self.console.print()
        self.console.print(table)

    def look_around(self, ways: Sequence[str]) -> None:
        """Shows the table and commands to go on with, and waits for Ctrl-C."""
        self.table()
        self.console.print("\n[bold]The mesh is still running; Ctrl-C ends it.[/bold] In another terminal, as root:")
        for line in ways:
            self.console.print(f"   {line}", markup=False)
        with suppress(KeyboardInterrupt):
            signal.pause()
