"""What is written about machines: tables of worlds and plans, and that carrying a plan out leaves nothing to plan."""

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.kinds import Kind, ObjectKey, WorkloadEntry
from control.model import vm
from control.model.mesh import Mesh
from control.model.settings import MeshSettings
from control.source import Remove, Upsert
from control.validation.document import read_object
from control.vm.entries import moment
from control.vm.machines import Connected
from control.vm.plan import REFRESH_S, STALE_S, Delete, Plan, Put, PutStatus, Terms, World, plan
from meshapi import wire
from meshapi.attendance import Health, Member
from meshapi.vm import GroupName, VMName
from meshapi.workload import Workload, decode_address
from tests.control.model.builders import parse

NOW_S = 1_800_000_000.0
WEB, API = GroupName("shop", "web"), GroupName("shop", "api")
ONE, TWO = VMName.make("one", (WEB,)), VMName.make("two", (WEB, API))
GROUPS = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: web, namespace: shop, annotations: {nodemesh.io/allowed-addresses: "10.9.0.0/16, fd09::/16"}}
spec:
  metadata: {labels: {app: web}, annotations: {a: b, nodemesh.io/node: forged, istio.io/autoRegistrationGroup: forged}}
  template: {serviceAccount: web, ports: {http: 8080}, locality: here/there, labels: {version: v1}}
  probe: {tcpSocket: {port: 8080}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: api, namespace: shop}
spec: {template: {}}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop}
spec: {nodeName: n1}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: "fd09::1"}]}
"""


class Here:
    """A controller's world, which takes the steps of its plans."""

    def __init__(self, text: str = GROUPS, terms: Terms | None = None) -> None:
        self.mesh = Mesh(MeshSettings())
        self.write(text)
        self.terms = terms or Terms("me", grace_s=60)
        self.connected: dict[VMName, Connected] = {}
        self.leaving: frozenset[VMName] = frozenset()
        self.now_s = NOW_S

    def write(self, text: str) -> None:
        self.mesh.apply([Upsert(item, origin=None, manifest={}) for item in parse(text)])  # type: ignore[arg-type]

    def connect(self, machine: VMName, source: str, *members: Member) -> None:
        self.connected[machine] = Connected(machine, source, self.now_s, members or tuple(Member(one) for one in machine.groups[:1]))

    def plan(self, terms: Terms | None = None) -> Plan:
        mesh = self.mesh
        world = World(
            connected=tuple(self.connected.values()),
            leaving=self.leaving,
            entries={one.key: (one, mesh.records[one.key].manifest) for one in mesh.store.registrations()},
            group=mesh.store.group,
            version=lambda _: "networking.istio.io/v1",
            holder=mesh.holder,
            exists=lambda key: key in mesh.records,
            network="",
            now_s=self.now_s,
        )
        return plan(world, terms or self.terms)

    def settle(self, terms: Terms | None = None) -> Plan:
        """Plans and does until nothing is left to do."""
        for _ in range(4):
            made = self.plan(terms)
            if not made.steps:
                return made
            for step in made.steps:
                self.do(step)
        raise AssertionError(made.steps)

    def do(self, step: Put | PutStatus | Delete) -> None:
        if isinstance(step, Delete):
            self.mesh.apply([Remove(step.key)])
            return
        document = read_object(msgspec.json.encode(step.manifest), step.key, "networking.istio.io/v1", "t", "istio-system")
        assert document.object is not None, document.findings
        self.mesh.apply([Upsert(document.object, document.origin, step.manifest)])

    def entries(self) -> dict[str, WorkloadEntry]:
        return {one.metadata.name: one for one in self.mesh.store.registrations()}


def test_a_machine_gets_an_entry_as_istio_makes_it() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    made = here.settle()
    assert made.entries == {(ONE, WEB): ObjectKey(Kind.WORKLOAD_ENTRY, "shop", "web-10.0.0.7")}
    manifest: dict[str, Any] = here.mesh.records[made.entries[ONE, WEB]].manifest
    assert manifest == {
        "apiVersion": "networking.istio.io/v1",
        "kind": "WorkloadEntry",
        "metadata": {
            "name": "web-10.0.0.7",
            "namespace": "shop",
            "creationTimestamp": "2027-01-15T08:00:00Z",
            "labels": {"app": "web", "version": "v1"},
            "annotations": {
                "a": "b",
                "istio.io/autoRegistrationGroup": "web",
                "nodemesh.io/node": "vm_one_shop_web",
                "ambient.istio.io/redirection": "enabled",
                "proxy.istio.io/health-checks-enabled": "true",
                "istio.io/workloadController": "me",
                "istio.io/connectedAt": "2027-01-15T08:00:00.000000Z",
                "nodemesh.io/seenAt": "2027-01-15T08:00:00.000000Z",
            },
        },
        "spec": {
            "address": "10.0.0.7",
            "ports": {"http": 8080},
            "labels": {"version": "v1", "app": "web"},
            "locality": "here/there",
            "serviceAccount": "web",
        },
    }


def test_ipv6_and_the_network_stand_in_the_name() -> None:
    here = Here(GROUPS.replace("template: {}", "template: {network: net-2}"))
    here.connect(TWO, "fd00::7", Member(API))
    assert set(here.settle().entries.values()) == {ObjectKey(Kind.WORKLOAD_ENTRY, "shop", "api-fd00--7-net-2")}


@pytest.mark.parametrize(
    ("source", "member", "said"),
    [
        ("127.0.0.1", Member(WEB), "is loopback"),
        ("", Member(WEB), "is no IP address"),
        ("169.254.169.254", Member(WEB), "link-local"),
        ("10.0.0.7", Member(API), "its bundle was not made for it"),
        ("10.0.0.7", Member(GroupName("shop", "gone")), "its bundle was not made for it"),
        ("10.0.0.7", Member(WEB, "10.0.0.8"), "does not allow"),
        ("10.0.0.1", Member(WEB), "belongs to Pod shop/p"),
        ("10.96.0.1", Member(WEB), "belongs to Service shop/s"),
        ("10.0.0.7", Member(WEB, "10.9.0.1%eth0"), "zone"),
        ("10.0.0.7", Member(WEB, other_address="fd00::7"), "does not allow"),
        ("10.0.0.7", Member(WEB, other_address="10.9.0.1"), "must be of the other IP version"),
        ("10.0.0.7", Member(WEB, other_address="::1"), "is loopback"),
        ("10.0.0.7", Member(WEB, other_address="fd09::1"), "belongs to Pod shop/p"),
    ],
)
def test_what_a_machine_can_not_be(source: str, member: Member, said: str) -> None:
    here = Here(GROUPS + "---" + POD + "---" + SERVICE)
    here.connect(ONE, source, member)
    made = here.settle()
    assert said in made.problems[ONE, member.group]
    assert not here.entries()


def test_an_address_that_its_group_allows() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7", Member(WEB, "10.9.1.1"))
    assert not here.settle().problems
    assert set(here.entries()) == {"web-10.9.1.1"}


def test_an_address_of_each_ip_version() -> None:
    here = Here()
    here.connect(ONE, "fd00::7", Member(WEB, "10.9.1.1", other_address="fd00::7"))
    made = here.settle()
    assert not made.problems
    entry = here.entries()["web-10.9.1.1"]
    assert (entry.spec.address, vm.other_address(entry)) == ("10.9.1.1", "fd00::7")
    [served] = [here.mesh.get(wire.ADDRESS_TYPE, name) for name in here.mesh.resolve(wire.ADDRESS_TYPE, "/fd00::7")]
    assert served is not None
    workload = decode_address(served.body)
    assert isinstance(workload, Workload)
    assert workload.addresses == (ip_address("10.9.1.1"), ip_address("fd00::7"))
    here.connect(ONE, "fd00::7", Member(WEB, "10.9.1.1"))
    here.settle()
    assert not here.mesh.resolve(wire.ADDRESS_TYPE, "/fd00::7")


def test_that_an_entry_has_another_address_is_only_a_machine_s() -> None:
    kind = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
    annotations = '{nodemesh.io/other-address: "fd00::7"}'
    here = Here(f"{GROUPS}---\n{kind}metadata: {{name: w, namespace: shop, annotations: {annotations}}}\nspec: {{address: 10.0.0.7}}\n")
    assert here.mesh.resolve(wire.ADDRESS_TYPE, "/10.0.0.7")
    assert not here.mesh.resolve(wire.ADDRESS_TYPE, "/fd00::7")


def test_a_group_that_is_not_there() -> None:
    here = Here(POD)
    here.connect(ONE, "10.0.0.7")
    assert "there is no WorkloadGroup shop/web" in here.settle().problems[ONE, WEB]


def test_an_entry_that_a_person_wrote_is_left_alone() -> None:
    kind = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\n"
    here = Here(f"{GROUPS}---\n{kind}metadata: {{name: web-10.0.0.7, namespace: shop}}\nspec: {{address: 10.0.0.7}}\n")
    here.connect(ONE, "10.0.0.7")
    assert "was not made for a machine" in here.settle().problems[ONE, WEB]


def test_a_machine_does_not_take_the_place_of_one_that_is_there() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    here.connect(TWO, "10.0.0.7")
    assert "which is connected" in here.settle().problems[TWO, WEB]
    del here.connected[ONE]
    assert not here.settle().problems
    assert here.entries()["web-10.0.0.7"].metadata.annotations[vm.NODE] == TWO.node


def test_two_members_at_one_address() -> None:
    here = Here()
    here.connect(TWO, "10.0.0.7", Member(WEB), Member(API))
    assert "belongs to" in here.settle().problems[TWO, API]
    here.connect(TWO, "10.0.0.7", Member(WEB), Member(API, shares_address=True))
    assert not here.settle().problems
    assert set(here.entries()) == {"web-10.0.0.7", "api-10.0.0.7"}


def test_who_moves_has_one_entry() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    here.connect(ONE, "10.0.0.8")
    here.settle()
    assert set(here.entries()) == {"web-10.0.0.8"}


def test_a_short_absence_costs_nothing_and_a_long_one_the_entry() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    here.connected.clear()
    here.settle()
    assert vm.DISCONNECTED_AT in here.entries()["web-10.0.0.7"].metadata.annotations
    here.now_s += 59
    here.connect(ONE, "10.0.0.7")
    here.settle()
    assert vm.DISCONNECTED_AT not in here.entries()["web-10.0.0.7"].metadata.annotations
    here.connected.clear()
    here.settle()
    here.now_s += 60
    here.settle()
    assert not here.entries()


def test_who_leaves_is_gone_at_once() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    here.connected.clear()
    here.leaving = frozenset({ONE})
    here.settle()
    assert not here.entries()


def test_a_member_that_is_given_up_and_a_group_that_goes() -> None:
    here = Here()
    here.connect(TWO, "10.0.0.7", Member(WEB), Member(API, shares_address=True))
    here.settle()
    here.connect(TWO, "10.0.0.7", Member(WEB))
    here.settle()
    assert set(here.entries()) == {"web-10.0.0.7"}
    here.mesh.apply([Remove(ObjectKey(Kind.WORKLOAD_GROUP, "shop", "web"))])
    here.settle()
    assert not here.entries()


def test_without_its_group_an_entry_goes_with_its_machine_away_too() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    here.connected.clear()
    here.mesh.apply([Remove(ObjectKey(Kind.WORKLOAD_GROUP, "shop", "web"))])
    here.settle()
    assert not here.entries()


@pytest.mark.parametrize("text", ["", "yesterday", "9999-99-99T00:00:00Z", "0001-01-01T00:00:00", "x" * 5000])
def test_entries_that_somebody_wrote_in_our_manner_break_nothing(text: str) -> None:
    here = Here()
    annotations = {vm.GROUP: "web", vm.NODE: text or "n1", vm.CONNECTED_AT: text, vm.SEEN_AT: text, vm.CONTROLLER: text}
    for more in (annotations, {**annotations, vm.DISCONNECTED_AT: text}, {vm.GROUP: "gone", vm.NODE: "vm_a_b_c"}):
        manifest = {"metadata": {"name": "w", "namespace": "shop", "annotations": more}, "spec": {"address": "10.0.0.7"}, "status": []}
        here.do(Put(ObjectKey(Kind.WORKLOAD_ENTRY, "shop", "w"), manifest | {"status": {"conditions": [{}]}}))
        here.connect(ONE, "10.0.0.7")
        here.settle()
        here.connected.clear()
        here.settle()
        here.now_s += 100
        here.settle()
        assert not here.entries()


def test_health_stands_in_the_entry() -> None:
    here = Here()
    for health, message, status in ((Health.UNHEALTHY, "refused", "False"), (Health.HEALTHY, "", "True"), (Health.UNKNOWN, "", "True")):
        here.connect(ONE, "10.0.0.7", Member(WEB, health=health, message=message))
        here.settle()
        (condition,) = here.mesh.records[ObjectKey(Kind.WORKLOAD_ENTRY, "shop", "web-10.0.0.7")].manifest["status"]["conditions"]
        assert (condition["type"], condition["status"]) == ("Healthy", status)
        assert condition.get("message", "") == message
        assert vm.healthy(here.entries()["web-10.0.0.7"]) == (status == "True")


def test_others_conditions_stay() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    key = ObjectKey(Kind.WORKLOAD_ENTRY, "shop", "web-10.0.0.7")
    manifest = here.mesh.records[key].manifest | {"status": {"conditions": [{"type": "nodemesh.io/Accepted", "status": "True"}]}}
    here.do(PutStatus(key, manifest))
    here.connect(ONE, "10.0.0.7", Member(WEB, health=Health.HEALTHY))
    here.settle()
    assert [one["type"] for one in here.mesh.records[key].manifest["status"]["conditions"]] == ["nodemesh.io/Accepted", "Healthy"]


# ---- several controllers

A, B = Terms("a", 60, leading=True, alone=False), Terms("b", 60, leading=False, alone=False)


def test_the_controller_of_the_newest_connection_is_in_charge() -> None:
    here = Here(terms=A)
    here.connect(ONE, "10.0.0.7")
    here.settle(A)
    old = dict(here.connected)
    here.now_s += 5
    here.connect(ONE, "10.0.0.7")
    here.settle(B)
    entry = here.entries()["web-10.0.0.7"]
    assert entry.metadata.annotations[vm.CONTROLLER] == "b"
    # The first has not heard yet that its connection is over; when it does, that is no news of the machine.
    here.connected = old
    assert not here.plan(A).steps
    here.connected = {}
    assert not here.plan(A).steps


def test_who_is_not_in_charge_changes_nothing_and_only_the_leader_removes() -> None:
    here = Here(terms=B)
    here.connect(ONE, "10.0.0.7")
    here.settle(B)
    here.connected.clear()
    assert not here.plan(A).steps
    here.settle(B)
    here.now_s += 61
    assert not here.plan(B).steps
    assert [type(step) for step in here.plan(A).steps] == [Delete]


def test_what_a_controller_that_died_left_behind() -> None:
    here = Here(terms=B)
    here.connect(ONE, "10.0.0.7")
    here.settle(B)
    here.connected.clear()
    here.now_s += STALE_S - 1
    assert not here.plan(A).steps
    here.now_s += 1
    here.settle(A)
    assert vm.DISCONNECTED_AT in here.entries()["web-10.0.0.7"].metadata.annotations
    here.now_s += 60
    here.settle(A)
    assert not here.entries()


def test_a_connection_is_written_again_now_and_then_and_not_more() -> None:
    here = Here(terms=A)
    here.connect(ONE, "10.0.0.7")
    here.settle(A)
    here.now_s += REFRESH_S - 1
    assert not here.plan(A).steps
    here.now_s += 1
    (step,) = here.plan(A).steps
    assert step.manifest["metadata"]["annotations"][vm.SEEN_AT] == moment(here.now_s)


def test_a_clock_that_was_ahead_keeps_nobody_for_long() -> None:
    here = Here()
    here.connect(ONE, "10.0.0.7")
    here.settle()
    here.connected.clear()
    here.now_s += 7 * 86400
    here.settle()
    here.now_s = NOW_S + 10
    here.settle()
    assert not here.entries()


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.sampled_from([ONE, TWO]), st.sampled_from(["10.0.0.1", "10.0.0.7", "fd00::1", "127.0.0.1"])),
        st.tuples(st.just("disconnect"), st.sampled_from([ONE, TWO]), st.just("")),
        st.tuples(st.just("leave"), st.sampled_from([ONE, TWO]), st.just("")),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 61.0, 1000.0]), st.just("")),
        st.tuples(st.just("pod"), st.booleans(), st.just("")),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_whatever_happens_it_settles_and_nobody_has_what_is_not_his(events: list[tuple[str, Any, str]]) -> None:
    here = Here()
    for what, who, where in events:
        here.leaving = frozenset()
        match what:
            case "connect":
                here.connect(who, where, *(Member(group) for group in who.groups))
            case "disconnect":
                here.connected.pop(who, None)
            case "leave":
                here.connected.pop(who, None)
                here.leaving = frozenset({who})
            case "wait":
                here.now_s += who
            case "pod" if who:
                here.write(POD)
            case "pod":
                here.mesh.apply([Remove(ObjectKey(Kind.POD, "shop", "p"))])
        made = here.settle()
        entries = here.mesh.store.registrations()
        for machine, group in made.entries:
            assert group in machine.groups
        for entry in entries:
            assert here.mesh.served(entry.key) or here.mesh.lost(entry.key, here.mesh.derived[entry.key].all_claims)
        addresses = [entry.spec.address for entry in entries]
        assert len(addresses) == len(set(addresses))
    here.connected.clear()
    here.settle()
    here.now_s += 61
    here.settle()
    assert not here.entries()
