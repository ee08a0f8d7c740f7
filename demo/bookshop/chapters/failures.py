"""What fails, or is made to: faults, timeouts, retries, circuit breaking, ejected endpoints."""

import time
from collections import Counter
from typing import Final

from demo.bookshop.accounts import Conduct
from demo.bookshop.chapters.traffic import told
from demo.bookshop.chart import bars, six_sigma
from demo.bookshop.rules import applied
from demo.bookshop.shop import Bookshop
from demo.bookshop.visitor import Answer, statuses
from demo.report import Report

DELAY_S: Final = 0.5
"""Of faults.yaml, and the timeout of timeout.yaml, and of each try in retries.yaml."""
GRAIN_S: Final = 0.01
"""Envoy's timers go by milliseconds, from when its loop last looked at the clock."""
ABORTED: Final = 0.3
ASKED: Final = 300
FEW: Final = 8
TRIES: Final = 3
HANGING: Final = Conduct(delay_s=4 * DELAY_S)
CROWD: Final = 20


def faults(shop: Bookshop, report: Report) -> None:
    """Put in by the waypoint, to see who bears them."""
    ratings, place = shop.apps["ratings"], shop.place("ratings")
    with (
        report.step("Faults on purpose: ratings is late for jason, and fails three times of ten for others"),
        applied(shop, report, "faults"),
    ):
        late = shop.visitor.crowd(place, FEW, headers={"end-user": "jason"})
        soonest = min(answer.took_s for answer in late)
        report.claim(
            f"{FEW} requests by jason are answered, each {DELAY_S:g} s late",
            held=statuses(late) == {"200": FEW} and soonest >= DELAY_S - GRAIN_S,
            seen=f"{told(statuses(late))}, the soonest after {soonest:.2f} s",
        )
        before = ratings.account().total
        counts = statuses(shop.visitor.crowd(place, ASKED))
        shop.flags += Counter(DI=FEW, FI=counts["500"])
        arrived = ratings.account().total - before
        report.show(bars(counts))
        near = abs(counts["500"] - ABORTED * ASKED) <= six_sigma(ASKED, ABORTED)
        report.claim(
            f"of {ASKED} others 30 % get 500 (within 6 sigma), the rest 200",
            held=near and counts["200"] + counts["500"] == ASKED,
            seen=told(counts),
        )
        report.claim("what was aborted never reached ratings", held=arrived == counts["200"], seen=f"ratings counted {arrived}")


def timeout(shop: Bookshop, report: Report) -> None:
    """Nobody waits for what hangs."""
    ratings = shop.apps["ratings"]
    with report.step("A timeout: ratings hangs, its callers do not"), applied(shop, report, "timeout"), ratings.misbehaving(HANGING):
        answers = shop.visitor.crowd(shop.place("ratings"), FEW)
        slowest = max(answer.took_s for answer in answers)
        shop.flags["UT"] += len(answers)
        report.claim(
            f"{FEW} requests: 504 after {DELAY_S:g} s, where ratings takes {HANGING.delay_s:g} s",
            held=statuses(answers) == {"504": FEW} and DELAY_S - GRAIN_S <= slowest < HANGING.delay_s,
            seen=f"{told(statuses(answers))}, the slowest after {slowest:.2f} s",
        )


def retries(shop: Bookshop, report: Report) -> None:
    """Tries are counted where they arrive."""
    ratings, place = shop.apps["ratings"], shop.place("ratings")
    failing = Conduct(fail=TRIES - 1, of=TRIES)
    with report.step("Retries: of every three requests ratings fails two"):
        with ratings.misbehaving(failing):
            counts = statuses(shop.visitor.crowd(place, FEW * TRIES, at_once=1))
        report.claim(
            f"without a rule, of {FEW * TRIES} requests {FEW * (TRIES - 1)} fail",
            held=counts == {"200": FEW, "500": FEW * (TRIES - 1)},
            seen=told(counts),
        )
        with applied(shop, report, "retries"):
            for title, conduct, status in (("fails twice of three times", failing, "200"), ("hangs", HANGING, "504")):
                with ratings.misbehaving(conduct):
                    before = ratings.account().total
                    counts = statuses(shop.visitor.crowd(place, FEW, at_once=1 if conduct == failing else FEW))
                    tries = ratings.account().total - before
                shop.flags["UT"] += counts["504"]
                report.show(
                    f"ratings {title}\n{bars({'requests': FEW, 'answered ' + status: counts[status], 'tries that ratings counted': tries})}"
                )
                report.claim(
                    f"ratings {title}: {FEW} requests are {FEW * TRIES} tries, and get {status}",
                    held=counts == {status: FEW} and tries == FEW * TRIES,
                    seen=f"{told(counts)}; {tries} tries",
                )


def circuit_breaking(shop: Bookshop, report: Report) -> None:
    """A service that is slow is spared."""
    ratings, place = shop.apps["ratings"], shop.place("ratings")
    with report.step(f"A circuit breaker: {CROWD} ask at once, and ratings takes its time"), ratings.misbehaving(Conduct(delay_s=DELAY_S)):
        counts = statuses(shop.visitor.crowd(place, CROWD, at_once=CROWD))
        report.claim(f"without a rule all {CROWD} reach ratings", held=counts == {"200": CROWD}, seen=told(counts))
        with applied(shop, report, "circuit-breaker"):
            before = ratings.account().total
            answers = shop.visitor.crowd(place, CROWD, at_once=CROWD)
            counts, arrived = statuses(answers), ratings.account().total - before
            shop.flags["UO"] += counts["503"]
            report.show(bars(counts))
            overflowed = sum("x-envoy-overloaded" in answer.headers for answer in answers)
            report.claim(
                "one is served, one waits, the others get 503 at once, marked as overflow",
                held=0 < counts["200"] < CROWD and counts["503"] == overflowed == CROWD - counts["200"],
                seen=f"{told(counts)}, {overflowed} x-envoy-overloaded",
            )
            report.claim("what overflowed never reached ratings", held=arrived == counts["200"], seen=f"ratings counted {arrived}")


def ejection(shop: Bookshop, report: Report) -> None:
    """An endpoint that fails is left out until it may try again."""
    ill, place = shop.apps["details-2"], shop.place("details")
    with report.step("An endpoint falls ill: of two replicas of details, one answers 500"):
        counts = replicas(shop.visitor.crowd(place, ASKED))
        report.claim("both well: both answer", held=counts.keys() == {"details-1", "details-2"}, seen=told(counts))
        with applied(shop, report, "outliers"):
            with ill.misbehaving(Conduct(fail=1)):
                first = replicas(shop.visitor.crowd(place, ASKED))
                report.show(bars(first))
                failed = first["details-2 500"]
                report.claim(f"of {ASKED} requests a few meet it, then it is left out", held=0 < failed < ASKED // 4, seen=told(first))
            began_s = time.monotonic()
            shop.eventually(lambda: replicas(shop.visitor.crowd(place, FEW))["details-2"], "details-2 to be tried again")
            report.claim("well again, it comes back", held=True, seen=f"{time.monotonic() - began_s:.1f} s later")


def replicas(answers: list[Answer]) -> Counter[str]:
    """Which pod answered, and how if not well."""
    return Counter(answer.said.get("pod", "nobody") + ("" if answer.status == 200 else f" {answer.seen}") for answer in answers)
