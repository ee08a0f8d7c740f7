"""Rules as the story shows them: the manifest, and then what holds while it is in force."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo.bookshop.shop import Bookshop
from demo.report import Report


@contextmanager
def applied(shop: Bookshop, report: Report, name: str, text: str | None = None) -> Iterator[None]:
    """Shows a manifest of the bookshop's, or `text`, and has it in force for the length of the block."""
    shown = shop.text(name) if text is None else text
    show(report, name, shown)
    with shop.in_force(name, shown):
        yield


def show(report: Report, name: str, text: str) -> None:
    """As somebody would apply it to a cluster."""
    report.say(f"kubectl apply -f {name}.yaml")
    report.show(text)
