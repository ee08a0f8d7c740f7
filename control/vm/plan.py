"""What is to be written about machines, as a pure function of who is connected and which entries are there.

An entry belongs to the controller to which its machine connected last. That one says when it went; the leader removes what has been gone
for the time of grace, and takes what a controller that died has left behind for gone. Nothing else ever deletes an entry but the machine
itself, when it leaves, moves to another address, or gives up a group.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct

from control.kinds import Kind, ObjectKey, WorkloadEntry, WorkloadGroup
from control.model import vm
from control.validation.document import Manifest
from control.vm.entries import (
    RegistrationError,
    address_of,
    entry_for,
    entry_name,
    in_charge,
    merged,
    moment,
    other_address_of,
    says,
    seconds,
    with_health,
)
from control.vm.machines import Connected
from meshapi.attendance import Member
from meshapi.vm import GroupName, VMName
from meshapi.workload import AddressKey, address_key

REFRESH_S: Final = 300.0
STALE_S: Final = 3 * REFRESH_S
AHEAD_S: Final = 60.0


class Terms(Struct, frozen=True):
    """Who plans. `alone`: nobody else is in charge of any entry. `leading`: it is for this controller to remove what is over."""

    controller: str
    grace_s: float
    leading: bool = True
    alone: bool = True


@dataclass(frozen=True)
class World:
    """What is there. `entries`: those of machines, with what was written; `version`: of the API that a group was read in;
    `holder`: who has an address."""

    connected: Collection[Connected]
    leaving: frozenset[VMName]
    entries: dict[ObjectKey, tuple[WorkloadEntry, Manifest]]
    group: Callable[[GroupName], WorkloadGroup | None]
    version: Callable[[GroupName], str]
    holder: Callable[[AddressKey], ObjectKey | None]
    exists: Callable[[ObjectKey], bool]
    network: str
    now_s: float


class Put(Struct, frozen=True):
    """Create, or replace the version that the manifest names."""

    key: ObjectKey
    manifest: Manifest


class PutStatus(Struct, frozen=True):
    """The same of its status."""

    key: ObjectKey
    manifest: Manifest


class Delete(Struct, frozen=True):
    """The version that the manifest names."""

    key: ObjectKey
    manifest: Manifest


Step = Put | PutStatus | Delete


@dataclass
class Plan:
    """`steps` in order; `entries`: which one each member has, `problems` why it has none."""

    steps: list[Step] = field(default_factory=list)
    entries: dict[tuple[VMName, GroupName], ObjectKey] = field(default_factory=dict)
    problems: dict[tuple[VMName, GroupName], str] = field(default_factory=dict)


def plan(world: World, terms: Terms) -> Plan:
    """Level-triggered: once all steps are done, the next plan has none."""
    made = Plan()
    kept: set[ObjectKey] = set()
    taken: dict[AddressKey, ObjectKey] = {}
    for connected in (one for one in world.connected if one.machine not in world.leaving):
        for member in connected.members:
            try:
                key = _place(world, connected, member, taken)
                made.entries[connected.machine, member.group] = key
                made.steps += _registered(world, terms, connected, member, key)
                kept.add(key)
            except RegistrationError as error:
                made.problems[connected.machine, member.group] = str(error)
    present = {connected.machine.node for connected in world.connected}
    gone = {machine.node for machine in world.leaving}
    for key, (entry, manifest) in world.entries.items():
        if key in kept:
            continue
        node = vm.node_of(entry)
        if node in gone or (node in present and _is_ours(entry, terms)):
            made.steps.append(Delete(key, manifest))
        elif node not in present:
            made.steps += _away(world, terms, key)
    return made


def _group(world: World, connected: Connected, member: Member) -> WorkloadGroup:
    if member.group not in connected.machine.groups:
        raise RegistrationError(f"the machine may not join {member.group}: its bundle was not made for it")
    group = world.group(member.group)
    if group is None:
        raise RegistrationError(f"there is no WorkloadGroup {member.group}")
    return group


def _place(world: World, connected: Connected, member: Member, taken: dict[AddressKey, ObjectKey]) -> ObjectKey:
    """Which entry the member has; raises RegistrationError if it can have none. Of two at one address, the first has it: `taken`."""
    group = _group(world, connected, member)
    address = address_of(member, connected.source, group)
    key = ObjectKey(Kind.WORKLOAD_ENTRY, member.group.namespace, entry_name(group, address))
    present = world.entries.get(key)
    if present is None and world.exists(key):
        raise RegistrationError(f"{key} is there, and was not made for a machine")
    if present is not None and vm.node_of(present[0]) != connected.machine.node and vm.CONNECTED_AT in present[0].metadata.annotations:
        raise RegistrationError(f"{key} is the machine's {vm.node_of(present[0])}, which is connected")
    if member.shares_address:
        return key
    other = other_address_of(member, connected.source, group)
    network = group.spec.template.network or world.network
    places = {address_key(network, one): one for one in (address, other) if one is not None}
    for place, one in places.items():
        holder = taken.get(place, world.holder(place))
        if holder is not None and holder != key and not _passing(world, holder, connected, member):
            raise RegistrationError(f"the address {one} belongs to {holder}")
    taken |= dict.fromkeys(places, key)
    return key


def _passing(world: World, holder: ObjectKey, connected: Connected, member: Member) -> bool:
    """Whether the address is that of a former entry of this very member."""
    found = world.entries.get(holder)
    return found is not None and vm.node_of(found[0]) == connected.machine.node and vm.group_of(found[0]) == member.group


def _registered(world: World, terms: Terms, connected: Connected, member: Member, key: ObjectKey) -> list[Step]:
    found = world.entries.get(key)
    if found is not None and _is_newer_elsewhere(found[0], terms, connected):
        return []
    group = _group(world, connected, member)
    wanted = entry_for(connected, member, group, world.version(member.group))
    whole = merged(wanted, found[1] if found else None, key, world.now_s)
    whole = in_charge(whole, {vm.CONTROLLER: terms.controller, vm.CONNECTED_AT: moment(connected.since_s), vm.SEEN_AT: moment(world.now_s)})
    if found is None:
        return [Put(key, whole)]
    entry, manifest = found
    # Who is alone has nobody who would ask whether it lives.
    silent = not terms.alone and _age_s(entry, vm.SEEN_AT, world.now_s) >= REFRESH_S
    if says(manifest) != says(whole) or silent:
        return [Put(key, whole)]
    status = with_health(entry, manifest, member, world.now_s)
    return [] if status is None else [PutStatus(key, status)]


def _away(world: World, terms: Terms, key: ObjectKey) -> list[Step]:
    """Of an entry whose machine is not connected here."""
    entry, manifest = world.entries[key]
    name = vm.group_of(entry)
    if terms.leading and (name is None or world.group(name) is None):
        return [Delete(key, manifest)]
    if vm.CONNECTED_AT in entry.metadata.annotations:
        died = terms.leading and _age_s(entry, vm.SEEN_AT, world.now_s) >= STALE_S
        if not (_is_ours(entry, terms) or died):
            return []
        controller = entry.metadata.annotations.get(vm.CONTROLLER, terms.controller)
        return [Put(key, in_charge(manifest, {vm.CONTROLLER: controller, vm.DISCONNECTED_AT: moment(world.now_s)}))]
    over = _age_s(entry, vm.DISCONNECTED_AT, world.now_s) >= terms.grace_s
    return [Delete(key, manifest)] if over and terms.leading else []


def _is_ours(entry: WorkloadEntry, terms: Terms) -> bool:
    return terms.alone or entry.metadata.annotations.get(vm.CONTROLLER) == terms.controller


def _is_newer_elsewhere(entry: WorkloadEntry, terms: Terms, connected: Connected) -> bool:
    """Whether the machine has connected to another controller since: this connection is one that does not know yet that it is over."""
    since_s = seconds(entry.metadata.annotations.get(vm.CONNECTED_AT))
    return not _is_ours(entry, terms) and since_s is not None and since_s > connected.since_s


def _age_s(entry: WorkloadEntry, annotation: str, now_s: float) -> float:
    """Since then; for ever where it does not say, or says what a clock that is far ahead would."""
    at_s = seconds(entry.metadata.annotations.get(annotation))
    return float("inf") if at_s is None or at_s > now_s + AHEAD_S else now_s - at_s
