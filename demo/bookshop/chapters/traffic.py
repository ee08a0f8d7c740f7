"""Which version answers: balanced, by weight, by header, and mirrored."""

from collections import Counter
from typing import Final

from demo.bookshop.chart import bars, six_sigma
from demo.bookshop.rules import applied
from demo.bookshop.shop import Bookshop
from demo.bookshop.visitor import Answer
from demo.report import Report

PAGES: Final = 600
VERSIONS: Final = ("v1", "v2", "v3")
CANARY_SHARE: Final = 0.1


def balanced(shop: Bookshop, report: Report) -> None:
    """Nothing is ruled: every version answers."""
    with report.step("The page asks for details and reviews; of reviews there are three versions, and no rule yet"):
        answer = shop.visitor.get(shop.place("productpage"), "/productpage")
        report.show(answer.body.decode())
        counts = versions(visit(shop, PAGES))
        report.show(bars(counts))
        report.claim(
            f"{PAGES} visits: all three versions answer, none less than every tenth visit",
            held=counts.keys() == set(VERSIONS) and min(counts.values()) >= PAGES // 10,
            seen=told(counts),
        )


def canary(shop: Bookshop, report: Report) -> None:
    """Nine of ten stay with the old version."""
    with report.step("A canary: one visit of ten sees reviews v2"), applied(shop, report, "canary"):
        counts = versions(visit(shop, PAGES))
        report.show(bars(counts))
        report.claim(
            f"{PAGES} visits: 10 % see v2 (within 6 sigma, {six_sigma(PAGES, CANARY_SHARE):.0f}), the others v1, none v3",
            held=_close(counts, {"v1": 1 - CANARY_SHARE, "v2": CANARY_SHARE, "v3": 0.0}),
            seen=told(counts),
        )


def by_header(shop: Bookshop, report: Report) -> None:
    """Who somebody is decides."""
    each = PAGES // 6
    with report.step("By header: jason sees v3, all others v1"), applied(shop, report, "by-header"):
        for user, expected in (("jason", "v3"), ("ann", "v1")):
            counts = versions(visit(shop, each, user=user))
            report.show(f"end-user: {user}\n{bars(counts)}")
            report.claim(f"{each} visits by {user}: all see {expected}", held=counts[expected] == each, seen=told(counts))


def mirrored(shop: Bookshop, report: Report) -> None:
    """A version that gets copies, and whose answers nobody sees."""
    each = PAGES // 3
    with report.step("Mirroring: v1 answers, v3 gets a copy of every request"), applied(shop, report, "mirror"):
        shadow = shop.apps["reviews-v3"]
        before = shadow.account().total
        counts = versions(visit(shop, each))
        copies = shop.eventually(lambda: _at_least(shadow.account().total - before, each), "the copies to arrive")
        report.show(bars({"answered by v1": counts["v1"], "copies that v3 counted": copies}))
        report.claim(f"{each} visits: v1 answers all", held=counts["v1"] == each, seen=told(counts))
        report.claim(f"v3 counts {each} requests, and its answers reach nobody", held=copies == each, seen=str(copies))


def visit(shop: Bookshop, count: int, *, user: str = "ann") -> list[Answer]:
    """So many visits of the page."""
    return shop.visitor.crowd(shop.place("productpage"), count, path="/productpage", headers={"end-user": user})


def versions(answers: list[Answer]) -> Counter[str]:
    """Of the reviews that visits saw; how it failed, where none was seen."""
    counted = Counter(dict.fromkeys(VERSIONS, 0))
    for answer in answers:
        part = answer.said.get("reviews", {})
        counted[str(part.get("version") or f"page {answer.seen}, reviews {part.get('status')}")] += 1
    return counted


def told(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items() if count)


def _close(counts: Counter[str], shares: dict[str, float]) -> bool:
    total = counts.total()
    return counts.keys() == shares.keys() and all(
        abs(counts[name] - total * share) <= six_sigma(total, share) for name, share in shares.items()
    )


def _at_least(count: int, wanted: int) -> int:
    return count if count >= wanted else 0
