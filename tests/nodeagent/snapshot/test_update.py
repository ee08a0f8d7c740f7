"""Snapshots: what an update changes, what it touches, and that unknown and absent stay apart."""

from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.workload import NetworkAddress, NetworkMode, Service, ServiceKey, Workload, WorkloadUID
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.tracked import TrackedView
from nodeagent.snapshot.update import Update, apply
from nodeagent.snapshot.view import Missing

API = Workload(
    uid=WorkloadUID("api"), name="api", namespace="shop", addresses=(ip_address("10.0.0.9"),), services={ServiceKey("shop/api"): ()}
)
SERVICE = Service("api", "shop", "api", addresses=(NetworkAddress(ip_address("10.1.0.1")),))


def after(*updates: Update) -> Snapshot:
    snapshot = Snapshot()
    for update in updates:
        snapshot = apply(snapshot, update).snapshot
    return snapshot


def test_unknown_is_not_absent() -> None:
    address = ip_address("10.0.0.9")
    assert after().workload(API.uid) is Missing.UNKNOWN
    assert after().address("", address) is Missing.UNKNOWN
    assert after(Update(absent=("/10.0.0.9",))).address("", address) is Missing.ABSENT
    assert after(Update(absent=("/10.0.0.9",)), Update(workloads=(API,))).address("", address) == API
    assert after(Update(workloads=(API,)), Update(removed=(API.uid,))).address("", address) is Missing.UNKNOWN
    assert after(Update(workloads=(API,)), Update(removed=(API.uid,), absent=("/10.0.0.9",))).address("", address) is Missing.ABSENT
    assert after(Update(absent=("/10.0.0.9",)), Update(forgotten=("/10.0.0.9",))).address("", address) is Missing.UNKNOWN


def test_a_service_comes_before_a_workload_at_the_same_address() -> None:
    squatter = Workload(uid=WorkloadUID("w"), name="w", namespace="n", addresses=(ip_address("10.1.0.1"),))
    assert after(Update(workloads=(squatter,), services=(SERVICE,))).address("", ip_address("10.1.0.1")) == (SERVICE,)


def test_networks_are_apart() -> None:
    assert after(Update(workloads=(API,))).address("other", ip_address("10.0.0.9")) is Missing.UNKNOWN


def test_an_address_that_passes_from_pod_to_pod_belongs_to_the_latest() -> None:
    heir = Workload(uid=WorkloadUID("heir"), name="heir", namespace="shop", addresses=API.addresses)
    both = after(Update(workloads=(API,)), Update(workloads=(heir,)))
    assert both.workload_at("", API.addresses[0]) == heir
    assert apply(both, Update(removed=(API.uid,))).snapshot.workload_at("", API.addresses[0]) == heir
    assert apply(both, Update(removed=(heir.uid,))).snapshot.workload_at("", API.addresses[0]) == API


def test_the_nodes_address_is_no_pods_own() -> None:
    pods = [
        Workload(uid=WorkloadUID(name), name=name, namespace="n", addresses=API.addresses, network_mode=NetworkMode.HOST_NETWORK)
        for name in ("one", "two")
    ]
    assert after(Update(workloads=tuple(pods))).workload_at("", API.addresses[0]) is Missing.UNKNOWN, "it was not asked about"
    snapshot = after(Update(workloads=tuple(pods), absent=("/10.0.0.9",)))
    assert snapshot.workload_at("", API.addresses[0]) is Missing.ABSENT
    assert apply(snapshot, Update(removed=(pods[0].uid,))).snapshot.workload_at("", API.addresses[0]) is Missing.ABSENT


def test_blocks_of_addresses() -> None:
    block = Service("b", "n", "b", addresses=(NetworkAddress(ip_address("10.2.0.0"), prefix_bits=16),))
    narrow = Service("c", "n", "c", addresses=(NetworkAddress(ip_address("10.2.3.0"), prefix_bits=24),))
    unasked = after(Update(services=(block, narrow, SERVICE)))
    assert unasked.address("", ip_address("10.2.9.9")) is Missing.UNKNOWN
    snapshot = apply(unasked, Update(absent=("/10.2.9.9", "/10.2.3.9"))).snapshot
    assert snapshot.address("", ip_address("10.2.9.9")) == (block,)
    assert snapshot.address("", ip_address("10.2.3.9")) == (narrow,)
    assert snapshot.address("", ip_address("10.3.0.1")) is Missing.UNKNOWN
    assert snapshot.address("", ip_address("fd00::1")) is Missing.UNKNOWN


def test_a_key_that_was_answered_names_no_more_than_came_until_nobody_asks_for_it() -> None:
    vip = SERVICE.addresses[0].address
    before = after(Update(services=(SERVICE,)))
    assert before.workload_at("", vip) is Missing.UNKNOWN
    answered = apply(before, Update(answered=(SERVICE.addresses[0].key,)))
    assert answered.touched == {SERVICE.addresses[0].key}
    assert answered.snapshot.workload_at("", vip) is Missing.ABSENT
    assert apply(answered.snapshot, Update(answered=(SERVICE.addresses[0].key,))).touched == frozenset()
    assert apply(answered.snapshot, Update(forgotten=(SERVICE.addresses[0].key,))).snapshot.workload_at("", vip) is Missing.UNKNOWN


def test_members_follow_their_workloads_and_touch_the_service() -> None:
    joined = apply(after(Update(services=(SERVICE,))), Update(workloads=(API,)))
    assert list(joined.snapshot.members(SERVICE.key)) == [API]
    assert {SERVICE.key, API.uid, "/10.0.0.9"} <= joined.touched
    left = apply(joined.snapshot, Update(workloads=(Workload(uid=API.uid, name="api", namespace="shop"),)))
    assert list(left.snapshot.members(SERVICE.key)) == []
    assert {SERVICE.key, API.uid, "/10.0.0.9"} <= left.touched


def test_a_change_in_a_big_mesh_touches_and_copies_little() -> None:
    many = tuple(
        Workload(
            uid=WorkloadUID(f"w{n}"),
            name=f"w{n}",
            namespace="n",
            addresses=(ip_address((10 << 24) + n),),
            services={ServiceKey(f"n/s{n % 1000}"): ()},
        )
        for n in range(10_000)
    )
    before = after(Update(workloads=many))
    changed = apply(before, Update(workloads=(Workload(uid=WorkloadUID("w5"), name="w5", namespace="n", addresses=many[5].addresses),)))
    assert changed.touched == {"w5", "/10.0.0.5", "n/s5"}
    for index in ("workloads", "workload_addresses", "service_members"):
        old, new = getattr(before, index)._shards, getattr(changed.snapshot, index)._shards
        assert sum(one is not other for one, other in zip(old, new, strict=True)) == 1, index
    assert changed.snapshot.policies_by_key is before.policies_by_key


# ---- what a tracked answer depends on is touched whenever the answer changes

_uids = st.sampled_from([WorkloadUID("u1"), WorkloadUID("u2"), WorkloadUID("u3")])
_ips = st.sampled_from([ip_address("10.0.0.1"), ip_address("10.0.0.2"), ip_address("10.1.0.1")])
_workloads = st.builds(
    Workload,
    uid=_uids,
    name=st.just("w"),
    namespace=st.sampled_from(["a", "b"]),
    addresses=st.lists(_ips, max_size=2).map(tuple),
    network_mode=st.sampled_from(NetworkMode),
    services=st.dictionaries(st.sampled_from([ServiceKey("n/s1"), ServiceKey("n/s2")]), st.just(()), max_size=2),
)
_services = st.builds(
    Service,
    name=st.just("s"),
    namespace=st.just("n"),
    hostname=st.sampled_from(["s1", "s2"]),
    addresses=st.lists(st.builds(NetworkAddress, _ips, prefix_bits=st.sampled_from([None, 16, 32])), max_size=2).map(tuple),
)
_keys = st.sampled_from(["u1", "u2", "u3", "n/s1", "n/s2", "/10.0.0.1", "/10.0.0.2", "/10.1.0.1"])
_updates = st.builds(
    Update,
    workloads=st.lists(_workloads, max_size=2).map(tuple),
    services=st.lists(_services, max_size=2).map(tuple),
    removed=st.lists(_keys, max_size=2).map(tuple),
    absent=st.lists(_keys, max_size=2).map(tuple),
    forgotten=st.lists(_keys, max_size=2).map(tuple),
)


def _look(view: TrackedView, question: int) -> object:
    addresses = [ip_address("10.0.0.1"), ip_address("10.1.0.1")]
    match question:
        case 0:
            return view.workload(WorkloadUID("u1"))
        case 1 | 2:
            return view.address("", addresses[question - 1])
        case 3 | 4:
            return view.workload_at("", addresses[question - 3])
        case 5:
            return view.service(ServiceKey("n/s1"))
        case _:
            return sorted(view.members(ServiceKey("n/s1")), key=lambda workload: workload.uid)


@settings(max_examples=300, deadline=None)
@given(st.lists(_updates, min_size=1, max_size=5))
def test_nothing_changes_untouched(updates: list[Update]) -> None:
    snapshot = Snapshot()
    for update in updates:
        before = [(TrackedView(snapshot), question) for question in range(7)]
        answers = [_look(view, question) for view, question in before]
        applied = apply(snapshot, update)
        for (view, question), answer in zip(before, answers, strict=True):
            if view.depends_on.isdisjoint(applied.touched):
                assert _look(TrackedView(applied.snapshot), question) == answer
        snapshot = applied.snapshot


@settings(max_examples=200, deadline=None)
@given(st.lists(_updates, min_size=1, max_size=5))
def test_the_indexes_hold_what_the_resources_say(updates: list[Update]) -> None:
    snapshot = after(*updates)
    addresses = {f"{w.network}/{a}": set() for w in snapshot.workloads.values() for a in w.addresses}
    members: dict[ServiceKey, set[WorkloadUID]] = {}
    for workload in snapshot.workloads.values():
        for address in workload.addresses:
            addresses[f"{workload.network}/{address}"].add(workload.uid)
        for key in workload.services:
            members.setdefault(key, set()).add(workload.uid)
    assert {key: set(uids) for key, uids in snapshot.workload_addresses.items()} == addresses
    assert {key: set(uids) for key, uids in snapshot.service_members.items()} == members
    assert {key for keys in snapshot.service_addresses.values() for key in keys} == {
        s.key for s in snapshot.services.values() if s.addresses
    }
