"""Who may ask for what: by identity, by token, and by path however it is written."""

import json
import time
from collections import Counter
from typing import Any, Final

import yaml

from demo.bookshop.chapters.traffic import told, visit
from demo.bookshop.chart import rows
from demo.bookshop.rules import applied
from demo.bookshop.shop import Bookshop
from demo.bookshop.tokens import Issuer
from demo.manifests import Manifest
from demo.report import Report

AUDIENCE: Final = "bookshop"
ISSUER: Final = "https://accounts.example"
WRITINGS: Final = (
    "/admin",
    "/admin/",
    "/admin?x=1",
    "//admin",
    "/./admin",
    "/books/../admin",
    "/books/%2e%2e/admin",
    "/%61dmin",
    "/admin;x=1",
    "/;/admin",
    "/admin%2f",
    "/%2fadmin",
    "/books/..%2fadmin",
    "/books\\..\\admin",
    "/books/..;/admin",
)
"""Of one path, for a server that reads generously."""


def callers(shop: Bookshop, report: Report) -> None:
    """By the identity that the client proved."""
    with report.step("By identity: ratings is for reviews alone"), applied(shop, report, "callers"):
        direct = shop.visitor.get(shop.place("ratings"))
        report.claim("the visitor, asking ratings, gets 403", held=direct.status == 403, seen=direct.seen)
        seen = Counter(str(ratings["status"]) for answer in visit(shop, 30) if (ratings := answer.said.get("reviews", {}).get("ratings")))
        report.claim("the page shows ratings: reviews asked for them", held=seen.keys() == {"200"}, seen=told(seen))


def tokens(shop: Bookshop, report: Report) -> None:
    """Whose token counts."""
    issuer, forger = Issuer(ISSUER), Issuer(ISSUER)
    with (
        report.step("Tokens: the page is for those whom an issuer vouches for"),
        applied(shop, report, "tokens", _yaml(require_tokens(issuer))),
    ):
        tries: dict[str, tuple[str | None, int]] = {
            "none": (None, 403),
            "gibberish": ("open-sesame", 401),
            "signed by somebody else": (forger.token(aud=AUDIENCE), 401),
            "expired": (issuer.token(aud=AUDIENCE, exp=int(time.time()) - 600), 401),
            "for another audience": (issuer.token(aud="library"), 403),
            "changed after it was signed": (_changed(issuer.token(aud=AUDIENCE)), 401),
            "good": (issuer.token(aud=AUDIENCE), 200),
        }
        answers = {
            name: shop.visitor.get(
                shop.place("productpage"), "/productpage", **({} if token is None else {"authorization": f"Bearer {token}"})
            )
            for name, (token, _) in tries.items()
        }
        report.show(rows(("token", "answer"), [(name, answer.seen) for name, answer in answers.items()]))
        for name, (_, status) in tries.items():
            report.claim(f"{name}: {status}", held=answers[name].status == status, seen=answers[name].seen)


def require_tokens(issuer: Issuer) -> list[Manifest]:
    """Tokens of the issuer are taken at the page, and without one nobody gets in."""
    target = [{"kind": "Service", "name": "productpage"}]
    rule = {"issuer": issuer.name, "audiences": [AUDIENCE], "jwks": json.dumps(issuer.key_set)}
    source: dict[str, Any] = {"requestPrincipals": [f"{issuer.name}/*"]}
    return [
        _security("RequestAuthentication", "accounts", {"targetRefs": target, "jwtRules": [rule]}),
        _security("AuthorizationPolicy", "accounts", {"targetRefs": target, "action": "ALLOW", "rules": [{"from": [{"source": source}]}]}),
    ]


def _security(kind: str, name: str, spec: dict[str, Any]) -> Manifest:
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _changed(token: str) -> str:
    """Another claim under the same signature."""
    head, _, signature = token.split(".")
    _, claims, _ = Issuer(ISSUER).token(aud=AUDIENCE, sub="root").split(".")
    return f"{head}.{claims}.{signature}"


def paths(shop: Bookshop, report: Report) -> None:
    """What is judged is what is forwarded."""
    page = shop.apps["productpage"]
    with report.step(f"By path: nobody comes to /admin, in none of {len(WRITINGS)} writings"):
        before = [_tried(shop, path) for path in WRITINGS]
        report.claim(
            "without a rule the page itself would serve many of them",
            held=sum(entered for _, entered in before) >= len(WRITINGS) // 2,
            seen=f"{sum(entered for _, entered in before)} of {len(WRITINGS)}",
        )
        with applied(shop, report, "paths"):
            arrived = page.account().received.get("/admin", 0)
            after = [_tried(shop, path) for path in WRITINGS]
            arrived = page.account().received.get("/admin", 0) - arrived
            found = [(path, one, two) for path, (one, _), (two, _) in zip(WRITINGS, before, after, strict=True)]
            report.show(rows(("path as it was sent", "no rule", "with it"), found))
            report.claim(
                "with it no writing comes in, and none reached the page",
                held=not any(entered for _, entered in after) and arrived == 0,
                seen=f"{sum(entered for _, entered in after)} entered, the page counted {arrived}",
            )
            other = shop.visitor.get(shop.place("productpage"), "/administration")
            report.claim("/administration is another path", held=other.status == 200, seen=other.seen)


def _tried(shop: Bookshop, path: str) -> tuple[str, bool]:
    """The answer, and whether it was the secret."""
    answer = shop.visitor.get(shop.place("productpage"), path)
    return answer.seen, "secret" in answer.said


def _yaml(documents: list[Manifest]) -> str:
    return str(yaml.safe_dump_all(documents, sort_keys=False))
