"""The shop's door to the world: a gateway with TLS, for clients that know nothing of the mesh."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from demo.bookshop.authority import Authority
from demo.bookshop.chapters.traffic import told
from demo.bookshop.rules import show
from demo.bookshop.shop import Bookshop, beside
from demo.bookshop.visitor import DISTRUSTED, Place, Visitor, statuses
from demo.cluster import TRUST_DOMAIN
from demo.driven import driven
from demo.gateway import Gateway
from demo.manifests import Manifest
from demo.report import Report

HOST: Final = "bookshop.example"
SECRET: Final = "bookshop-example"  # noqa: S105  not a secret: the name of one
NAME: Final = "edge"
VIP: Final = "10.96.0.8"
VISITS: Final = 100


def ingress(shop: Bookshop, report: Report) -> None:
    """From outside, by HTTPS."""
    authority = Authority()
    outside = Visitor(f"/run/netns/{shop.cluster.topology.add_host('outside').namespace}")
    with report.step("A gateway at the edge: customers outside of the mesh come by HTTPS"):
        shop.cluster.write_secret(SECRET, authority.certificate(HOST))
        report.say(f"kubectl create secret tls {SECRET} --cert=tls.crt --key=tls.key")
        show(report, "ingress", shop.text("ingress"))
        with _gateway(shop) as gateway:
            report.say(f"meshctl gateway run --gateway default/{NAME} ...")
            https = Place(str(gateway.pod.ipv4), 443, HOST, authority.trusting())
            shop.eventually(lambda: outside.get(https, "/productpage").status == 200, "the gateway to serve")
            _show_visits(shop, report, outside, https)
            _show_refusals(report, outside, https)
            _show_rotation(shop, report, outside, https, authority)


def _show_visits(shop: Bookshop, report: Report, outside: Visitor, https: Place) -> None:
    page = shop.apps["productpage"]
    before = page.account().total
    counts = statuses(outside.crowd(https, VISITS, path="/productpage"))
    arrived = page.account().total - before
    report.claim(
        f"{VISITS} visits by HTTPS, the certificate verified: all are answered, and the page counts as many",
        held=counts == {"200": VISITS} and arrived == VISITS,
        seen=f"{told(counts)}; the page counted {arrived}",
    )
    identity = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{NAME}"
    told_by_node = [line for line in shop.cluster.nodeagent("n1", "connections").splitlines() if identity in line]
    report.show("\n".join(told_by_node[:2]))
    report.claim("behind the gateway it is the mesh's mutual TLS: the page's node knows who calls", held=bool(told_by_node), seen=identity)


def _show_refusals(report: Report, outside: Visitor, https: Place) -> None:
    redirected = outside.get(replace(https, port=80, tls=None), "/productpage")
    report.claim(
        "by plain HTTP it is sent to HTTPS",
        held=redirected.status == 301 and redirected.headers.get("location", "").startswith(f"https://{HOST}"),
        seen=f"{redirected.seen} {redirected.headers.get('location', '')}",
    )
    other = outside.get(https, "/admin")
    report.claim("what no route names is not there", held=other.status == 404, seen=other.seen)
    stranger = outside.get(replace(https, host="library.example"), "/productpage")
    report.claim("another name gets no certificate and no answer", held=stranger.status == 0, seen=stranger.seen)
    distrustful = outside.get(replace(https, tls=ssl.create_default_context()), "/productpage")
    report.claim("who does not know the authority is warned", held=DISTRUSTED in distrustful.error, seen=distrustful.seen)


def _show_rotation(shop: Bookshop, report: Report, outside: Visitor, https: Place, authority: Authority) -> None:
    successor = Authority()
    shop.cluster.write_secret(SECRET, successor.certificate(HOST))
    renewed = replace(https, tls=successor.trusting())
    shop.eventually(lambda: outside.get(renewed, "/productpage").status == 200, "the next certificate")
    former = outside.get(https, "/productpage")
    report.claim(
        "the secret is replaced: a certificate of another authority at once, no restart", held=DISTRUSTED in former.error, seen=former.seen
    )
    shop.cluster.write_secret(SECRET, authority.certificate(HOST))


class _Edge(Gateway):
    """What it serves is a manifest of the bookshop's."""

    def objects(self) -> list[Manifest]:
        return [beside(one) if one["kind"] == "Service" else one for one in super().objects() if one["kind"] != "Gateway"]


@contextmanager
def _gateway(shop: Bookshop) -> Iterator[Gateway]:
    """For the length of the block it runs."""
    shop.cluster.write("ingress", shop.text("ingress"))
    try:
        with driven(_Edge(shop.cluster, shop.cluster.topology.add_pod("n2", NAME), NAME, VIP, ports=(80, 443))) as gateway:
            yield gateway
    finally:
        shop.cluster.delete("ingress")
