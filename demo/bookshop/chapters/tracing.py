"""One visit as a tree of calls: who was asked on whose behalf, and how long each took."""

import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Final

from demo.admin import ask
from demo.bookshop.chapters.traffic import visit
from demo.bookshop.collector import PORT
from demo.bookshop.rules import applied
from demo.bookshop.shop import Bookshop
from demo.bookshop.spans import Span, read, tree
from demo.report import Report

VISITS: Final = 10
NAME: Final = "zipkin"


def tracing(shop: Bookshop, report: Report) -> None:
    """By Zipkin; the services hand the headers of their callers on, and know nothing else of it."""
    control = shop.cluster.directory / f"{NAME}.sock"
    collect = (sys.executable, "-m", "demo.bookshop.collector", f"--control={control}")
    with (
        report.step("Tracing: what a visit was made of"),
        shop.neighbour(NAME, "n1", "10.96.0.31", {"http": PORT}, collect),
    ):
        shop.eventually(control.exists, "the collector to listen")
        with applied(shop, report, "tracing"):
            answers = visit(shop, VISITS)
            rated = sum("ratings" in answer.said["reviews"] for answer in answers)
            wanted = 3 * VISITS + rated
            # Envoy tells of spans by fives, or every five seconds.
            traces = shop.eventually(partial(_complete, control, wanted), f"{wanted} spans at the collector")
        largest = tree(max(traces.values(), key=len))
        report.show("\n".join(f"{'  ' * depth}{span.service}  {span.took_ms:.1f} ms" for depth, span in largest))
        shapes = {tuple((depth, span.service) for depth, span in tree(spans)) for spans in traces.values()}
        short = ((0, "productpage"), (1, "details"), (1, "reviews"))
        report.claim(
            f"{VISITS} visits are {VISITS} traces of {wanted} spans, each call below the one that it was made for",
            held=len(traces) == VISITS and shapes <= {short, (*short, (2, "ratings"))},
            seen=f"{len(traces)} traces, {sum(map(len, traces.values()))} spans, {rated} visits with ratings",
        )


def _complete(control: Path, wanted: int) -> dict[str, list[Span]]:
    """By trace; nothing before there are as many spans as wanted."""
    found: defaultdict[str, list[Span]] = defaultdict(list)
    for span in read(ask(control, "/spans")):
        found[span.trace].append(span)
    return found if sum(map(len, found.values())) >= wanted else {}
