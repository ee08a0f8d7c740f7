"""`nodeagent top`: who talks to whom on this node, live."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodeagent.cli.client import fetch_text
from nodeagent.cli.run_dir import pass_run_dir

if TYPE_CHECKING:
    from rich.console import Group

    from nodeagent.cli.rates import Rates

COLUMNS = ("WORKLOAD", "", "PEER", "BY", "OPEN", "NEW/S", "DENIED/S", "OUT/S", "IN/S")
ARROWS = {"outbound": "->", "inbound": "<-"}


@click.command()
@click.option("-n", "--interval", "interval_s", type=click.FloatRange(0.2, 60.0), default=2.0, show_default=True, help="In seconds.")
@click.option("--once", is_flag=True, help="Show one interval and end, also without a terminal.")
@pass_run_dir
def top(run_dir: Path, interval_s: float, *, once: bool) -> None:
    """Show connections and rates of this node's workloads, the busiest first, until interrupted."""
    import shutil
    import sys

    from rich.live import Live

    from nodeagent.cli.output import console
    from nodeagent.cli.rates import rates, read

    screen = console()
    lines = shutil.get_terminal_size().lines if sys.stdout.isatty() else 1000
    before, at_s = read(fetch_text(run_dir, "/metrics")), time.monotonic()
    if once:
        time.sleep(interval_s)
        screen.print(_frame(rates(before, read(fetch_text(run_dir, "/metrics")), time.monotonic() - at_s), lines))
        return
    with Live(_frame(rates({}, before, 0.0), lines), console=screen, screen=sys.stdout.isatty(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(interval_s)
                now, now_s = read(fetch_text(run_dir, "/metrics")), time.monotonic()
                live.update(_frame(rates(before, now, now_s - at_s), lines), refresh=True)
                before, at_s = now, now_s
        except KeyboardInterrupt:
            return


def _frame(found: "list[Rates]", lines: int) -> "Group":
    from rich.console import Group
    from rich.text import Text

    from nodeagent.cli.rates import total
    from nodeagent.cli.tables import table
    from nodeagent.cli.words import plural

    every = total(found)
    title = f"{plural(every.open, 'connection')} open, {every.opened:.1f} new and {every.failed:.1f} denied or failed a second"
    shown = found[: max(1, lines - 4)]
    rows = [_row(one) for one in shown] or [("nothing moves", *[""] * (len(COLUMNS) - 1))]
    left = [Text(f"and {len(found) - len(shown)} more")] if len(found) > len(shown) else []
    return Group(Text(title, style="bold"), table(COLUMNS, rows), *left)


def _row(one: "Rates") -> tuple[str, ...]:
    from nodeagent.cli.words import size

    talk = one.talk
    bytes_s = tuple(f"{size(round(rate))}" if rate else "-" for rate in (one.sent_bytes, one.received_bytes))
    counts = (str(one.open), *(f"{rate:.1f}" if rate else "-" for rate in (one.opened, one.failed)))
    return (talk.workload, ARROWS[talk.direction], talk.peer, talk.security, *counts, *bytes_s)
