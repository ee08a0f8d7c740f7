"""What the xds client delivers reaches the snapshot, the trust keeper and the disk, and comes back from there."""

from ipaddress import ip_address

import msgspec

from meshapi.authorization import Action, Policy, PolicyScope, encode_policy
from meshapi.discovery import Node, Resource
from meshapi.names import Host, Names, encode_names
from meshapi.trust import TrustBundle, encode_trust
from meshapi.wire import ADDRESS_TYPE, AUTHORIZATION_TYPE, NAMES_TYPE, TRUST_TYPE
from meshapi.workload import Service, Workload, WorkloadUID, encode_service, encode_workload
from nodeagent.dns.directory import Directory
from nodeagent.feed import Feed
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.store import SnapshotStore
from nodeagent.snapshot.view import Missing
from nodeagent.state.kept import Kept
from nodeagent.xds.core import Core
from nodeagent.xds.events import Rejected, Subscribe
from nodeagent.xds.events import Update as Delivery
from nodeagent.xds.kinds import KINDS, accept

API = Workload(uid=WorkloadUID("api"), name="api", namespace="shop", addresses=(ip_address("10.0.0.9"),))
SERVICE = Service("api", "shop", "api.shop")
POLICY = Policy("p", "shop", PolicyScope.NAMESPACE, Action.DENY)
BUNDLE = TrustBundle("cluster.local", (b"root",))
REJECTED = {AUTHORIZATION_TYPE: {"shop/bad": "no"}}
KIND = {kind.type_url: kind for kind in KINDS}


class Bundles(dict[str, TrustBundle]):
    def apply(self, bundle: TrustBundle) -> None:
        self[bundle.trust_domain] = bundle

    def forget(self, trust_domain: str) -> None:
        del self[trust_domain]


class Scene:
    def __init__(self) -> None:
        self.store = SnapshotStore(Snapshot())
        self.trust = Bundles()
        self.changes: list[bool] = []
        """Of each change, whether it was urgent."""
        self.names = Directory()
        self.feed = Feed(self.store, self.trust, self.names, self._on_change)

    def _on_change(self, *, urgent: bool) -> None:
        self.changes.append(urgent)

    def deliver(self, url: str, *resources: Resource, removed: tuple[str, ...] = (), absent: tuple[str, ...] = ()) -> None:
        self.feed.apply(Delivery(url, tuple(accept(KIND[url], resource) for resource in resources), removed, absent))


def everything() -> Scene:
    scene = Scene()
    scene.deliver(ADDRESS_TYPE, Resource("api", "1", encode_workload(API)), Resource("shop/api.shop", "1", encode_service(SERVICE)))
    scene.deliver(ADDRESS_TYPE, absent=("/192.0.2.1",))
    scene.deliver(AUTHORIZATION_TYPE, Resource("shop/p", "1", encode_policy(POLICY)))
    scene.deliver(TRUST_TYPE, Resource("cluster.local", "1", encode_trust(BUNDLE)))
    scene.feed.on_rejected(Rejected(AUTHORIZATION_TYPE, "shop/bad", "no", has_last_good=False))
    scene.feed.on_ready()
    return scene


def known(scene: Scene) -> tuple[object, ...]:
    now = scene.store.current
    return (
        now.workload(API.uid),
        now.service(SERVICE.key),
        now.address("", ip_address("192.0.2.1")),
        [policy.key for policy in now.policies("shop")],
        now.rejected_policies("shop"),
        now.policies_known(),
    )


EXPECTED = (API, SERVICE, Missing.ABSENT, ["shop/p"], ("shop/bad",), True)


def test_what_is_delivered_is_known() -> None:
    scene = everything()
    assert known(scene) == EXPECTED
    assert scene.trust == {"cluster.local": BUNDLE}
    assert scene.feed.ready
    assert scene.changes == [False, False, True, True, True, True]


def test_what_decides_who_is_let_in_does_not_wait_to_be_kept() -> None:
    scene = everything()
    scene.changes.clear()
    moved = msgspec.structs.replace(API, addresses=(ip_address("10.0.0.10"),))
    named = msgspec.structs.replace(moved, authorization_policies=("shop/p",))
    for body in (encode_workload(moved), encode_workload(named), encode_workload(moved)):
        scene.deliver(ADDRESS_TYPE, Resource("api", "2", body))
    scene.deliver(ADDRESS_TYPE, removed=("api",))
    scene.deliver(AUTHORIZATION_TYPE, removed=("shop/p",))
    scene.deliver(TRUST_TYPE, removed=("cluster.local",))
    assert scene.changes == [False, True, True, False, True, True]


def test_what_is_removed_is_known_no_more() -> None:
    scene = everything()
    scene.deliver(ADDRESS_TYPE, removed=("api", "shop/api.shop"), absent=("/10.0.0.9",))
    scene.deliver(AUTHORIZATION_TYPE, removed=("shop/p", "shop/bad"))
    scene.deliver(TRUST_TYPE, removed=("cluster.local",))
    assert known(scene)[:1] == (Missing.UNKNOWN,)
    assert scene.store.current.address("", ip_address("10.0.0.9")) is Missing.ABSENT
    assert known(scene)[3:] == ([], (), True)
    assert scene.trust == {}
    kept = scene.feed.collect(frozenset(), {})
    assert kept.resources == {}


def test_what_can_not_be_understood_is_not_absent_whatever_was_there_before() -> None:
    scene = everything()
    gone = ip_address("192.0.2.1")
    scene.feed.on_rejected(Rejected(ADDRESS_TYPE, "new", "unknown tunnel protocol", has_last_good=False, keys=("new", "/192.0.2.1")))
    assert scene.store.current.workload(WorkloadUID("new")) is Missing.UNREADABLE
    assert scene.store.current.address("", gone) is Missing.UNREADABLE
    kept = scene.feed.collect(frozenset({"new", "/192.0.2.1"}), {})
    assert kept.absent == ()
    scene.feed.on_rejected(Rejected(ADDRESS_TYPE, "api", "?", has_last_good=True, keys=("api", "/10.0.0.9")))
    assert scene.store.current.workload(API.uid) == API, "the last good form stays"
    scene.deliver(ADDRESS_TYPE, absent=("/192.0.2.1",))
    assert scene.store.current.address("", gone) is Missing.ABSENT


def test_names_come_change_go_and_are_kept() -> None:
    scene = everything()
    names = Names("shop", "cluster.local", (Host("api.example", (ip_address("240.240.0.1"),)),))
    scene.deliver(NAMES_TYPE, Resource("shop", "1", encode_names(names)))
    assert scene.names.find("api.example", "other") is not None
    assert scene.changes[-1] is False
    kept = scene.feed.collect(frozenset(), {})
    assert restored(kept).names.find("api.example", "other") == scene.names.find("api.example", "other")
    scene.deliver(NAMES_TYPE, removed=("shop",))
    assert scene.names.find("api.example", "other") is None


def test_what_is_kept_comes_back() -> None:
    kept = everything().feed.collect(frozenset({"api", "shop/api.shop", "/192.0.2.1"}), REJECTED)
    assert kept.wanted == ("/192.0.2.1", "api", "shop/api.shop")
    fresh = restored(kept)
    assert known(fresh) == EXPECTED
    assert fresh.trust == {"cluster.local": BUNDLE}
    assert not fresh.feed.ready, "ready is what the controller said in this run"
    assert fresh.feed.collect(frozenset(kept.wanted), REJECTED) == kept


def test_an_absence_that_nobody_watches_is_not_kept() -> None:
    assert everything().feed.collect(frozenset(), {}).absent == ()


def test_which_keys_were_answered_is_kept_while_they_are_watched() -> None:
    scene = everything()
    scene.feed.apply(Delivery(ADDRESS_TYPE, answered=("/10.1.0.1", "/10.1.0.2")))
    kept = scene.feed.collect(frozenset({"/10.1.0.1"}), {})
    assert kept.answered == ("/10.1.0.1",)
    assert restored(kept).store.current.workload_at("", ip_address("10.1.0.1")) is Missing.ABSENT


def test_a_kept_policy_that_is_not_understood_any_more_denies() -> None:
    kept = Kept({AUTHORIZATION_TYPE: (Resource("shop/new", "1", b"\xff\xff"),)}, policies_arrived=True)
    assert restored(kept).store.current.rejected_policies("shop") == ("shop/new",)


def restored(kept: Kept) -> Scene:
    scene = Scene()
    core = Core(Node("n"), required=())
    core.step(Subscribe(frozenset(kept.wanted)), 0)
    for url, resources in kept.resources.items():
        for effect in core.restore(url, resources, kept.rejected.get(url, {}), 0):
            match effect:
                case Delivery():
                    scene.feed.apply(effect)
                case Rejected():
                    scene.feed.on_rejected(effect)
    scene.feed.restore(kept)
    return scene
