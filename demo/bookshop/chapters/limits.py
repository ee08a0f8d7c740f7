"""How much is too much: limits that the waypoint counts by itself, and limits that a server counts for all."""

from typing import Final

from demo.bookshop.chapters.traffic import told
from demo.bookshop.chart import bars
from demo.bookshop.rules import applied
from demo.bookshop.shop import Bookshop
from demo.bookshop.visitor import statuses
from demo.cluster import BIN
from demo.report import Report
from demo.shell import run

EACH: Final = 50
LOCAL: Final = 20
GLOBAL: Final = 30
"""Of limits.yaml."""
PORT: Final = 8081


def limits(shop: Bookshop, report: Report) -> None:
    """Counted apart for each who asks."""
    serve = (str(BIN / "meshctl"), "ratelimit", "serve", f"--listen=0.0.0.0:{PORT}")
    with (
        report.step("Limits: so many requests for each customer, so many for each caller"),
        shop.neighbour("counter", "n2", "10.96.0.30", {"grpc": PORT}, serve) as pod,
    ):
        shop.eventually(lambda: f":{PORT} " in run(["ss", "-Hltn"], namespace=pod.namespace), "the server to listen")
        report.say("meshctl ratelimit serve runs in a pod of its own")
        with applied(shop, report, "limits"):
            for user in ("jason", "ann"):
                answers = shop.visitor.crowd(shop.place("details"), EACH, headers={"end-user": user})
                counts = statuses(answers)
                report.show(f"end-user: {user}\n{bars(counts)}")
                report.claim(
                    f"{EACH} requests for {user} at once: {LOCAL} are served, the others get 429",
                    held=counts == {"200": LOCAL, "429": EACH - LOCAL},
                    seen=f"{told(counts)}, x-ratelimit-limit: {answers[0].headers.get('x-ratelimit-limit')}",
                )
            counts = statuses(shop.visitor.crowd(shop.place("ratings"), EACH))
            report.show(bars(counts))
            report.claim(
                f"{EACH} requests by the visitor, counted by the server: {GLOBAL} are served, the others get 429",
                held=counts == {"200": GLOBAL, "429": EACH - GLOBAL},
                seen=told(counts),
            )
