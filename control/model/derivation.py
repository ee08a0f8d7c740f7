"""From one object to the resources it stands for, with what it claims and what there is to say about it."""

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import Struct

from control.kinds import (
    AuthorizationPolicy,
    EndpointSlice,
    Gateway,
    MeshObject,
    Node,
    ObjectKey,
    PeerAuthentication,
    Pod,
    Service,
    ServiceEntry,
    WorkloadEntry,
)
from control.model.authorization import convert
from control.model.claims import Claim
from control.model.peer_modes import port_policy, static_strict
from control.model.services import (
    aliased,
    bound_entry,
    entry_services,
    foreign_host,
    is_reached,
    kubernetes_service,
    named,
    named_ports,
    needs_addresses,
    with_addresses,
)
from control.model.settings import MeshSettings
from control.model.store import Store
from control.model.waypoint_guards import guard, guard_everywhere
from control.model.waypoint_reach import admitted
from control.model.workloads import entry_workload, inline_workloads, pod_workload, slice_workloads
from control.resources import TypeURL
from control.validation import values
from meshapi import wire, workload
from meshapi.authorization import Policy, encode_policy
from meshapi.names import Host, NamedPort
from meshapi.workload import AddressKey, NetworkMode, ServiceKey, address_key

ADDRESS = TypeURL(wire.ADDRESS_TYPE)
AUTHORIZATION = TypeURL(wire.AUTHORIZATION_TYPE)
ALIAS = TypeURL("nodemesh.names/alias")
"""Of names that stand for other names: served among the names of their namespace, and as nothing of its own."""


class Candidate(Struct, frozen=True):
    """A resource that will be there if its object wins what it claims.

    `aliases` are the addresses that name it, `services` those that it is a member of; `value` is what it encodes, if it is an address.
    """

    type_url: TypeURL
    name: str
    encode: Callable[[], bytes]
    claims: tuple[Claim, ...]
    aliases: tuple[AddressKey, ...] = ()
    services: tuple[ServiceKey, ...] = ()
    host: Host | None = None
    """What its name stands for in DNS, if it has one there."""
    value: workload.Workload | workload.Service | None = None


class Derived(Struct, frozen=True):
    """What an object amounts to. `claims` are its own, without a resource; `refused` errors, `notes` limits of what was accepted."""

    candidates: tuple[Candidate, ...] = ()
    claims: tuple[Claim, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def all_claims(self) -> list[Claim]:
        return [*self.claims, *(claim for candidate in self.candidates for claim in candidate.claims)]


def derive(item: MeshObject, store: Store, settings: MeshSettings) -> Derived:
    """The resources of an object, given all others."""
    match item:
        case Pod():
            pod = pod_workload(item, store.surroundings(item), settings)
            return Derived((_workload(pod),) if pod else ())
        case WorkloadEntry():
            return Derived((_workload(entry_workload(item, store.surroundings(item), settings)),))
        case ServiceEntry():
            return _service_entry(item, store, settings)
        case EndpointSlice():
            service = store.slice_service(item)
            return Derived(tuple(_workload(one) for one in slice_workloads(item, service, settings)) if service else ())
        case Service():
            return Derived(_of_service(item, store, settings))
        case Gateway():
            return Derived(_guard(item, store))
        case Node():
            addresses = [values.address(entry.address) for entry in item.status.addresses if entry.type == "InternalIP"]
            return Derived(claims=tuple(address_claim(address_key(settings.network, address)) for address in addresses))
        case AuthorizationPolicy():
            converted = convert(item, settings.root_namespace)
            note = (converted.unenforceable,) if converted.unenforceable else ()
            return Derived((_policy(converted.policy),) if converted.policy else (), notes=note)
        case PeerAuthentication():
            policy = port_policy(item, store.policies.parent_mode(item.metadata.namespace))
            return Derived((_policy(policy),) if policy else ())
    return Derived()


def derive_static_strict(store: Store, settings: MeshSettings) -> Derived:
    """The policy for STRICT, there as soon as any PeerAuthentication is."""
    return Derived((_policy(static_strict(settings.root_namespace)),) if store.policies.needs_static_strict else ())


def rivals_text(claim: Claim, holder: ObjectKey, namespace: str) -> str:
    """How to say in a namespace that another object has what one there claims.

    Who may write entries could else ask address by address how all that runs in the cluster is called.
    """
    winner = f"a {holder.kind} of namespace {holder.namespace}" if holder.namespace not in {"", namespace} else str(holder)
    what, _, name = claim.partition(" ")
    return f"the address {name.partition('/')[2]} belongs to {winner}" if what == "address" else f"{name} is already defined by {winner}"


def _service_entry(entry: ServiceEntry, store: Store, settings: MeshSettings) -> Derived:
    namespace = entry.metadata.namespace
    made = tuple(_reached(service, entry, store) for service in entry_services(entry, settings))
    if needs_addresses(entry):
        made = tuple(_with_handed_out(service, store, settings) if is_reached(entry, service) else service for service in made)
    ports = tuple(NamedPort(port.number, port.name) for port in bound_entry(entry, settings).ports)
    services = tuple(_service(service, named(service, ports, settings)) for service in made)
    names = tuple(claim for service in services for claim in service.claims if not claim.startswith("address "))
    # The endpoints go with the hosts: where another object has the name, they must not be added to it.
    workloads = tuple(_workload(one, names) for one in inline_workloads(entry, store.surroundings(entry), settings))
    refused = tuple(why for host in entry.spec.hosts if (why := foreign_host(host, namespace, settings.domain)) is not None)
    return Derived(services + (workloads if services else ()) + _guard(entry, store), refused=refused)


def _reached(service: workload.Service, item: Service | ServiceEntry, store: Store) -> workload.Service:
    """A service with the waypoint that its callers go through."""
    bound = store.waypoints.of(item.key)
    if bound.binding.waypoint is None:
        return service
    # A gateway, too, is kept from going around what policies protect.
    by_ingress = bound.ingress or bound.guarded
    return msgspec.structs.replace(service, waypoint=bound.binding.waypoint.address, ingress_use_waypoint=by_ingress)


def _guard(item: Service | ServiceEntry | Gateway, store: Store) -> tuple[Candidate, ...]:
    """What lets nobody in but the waypoint, where policies for waypoints protect the object."""
    bound = store.waypoints.of(item.key)
    if not bound.guarded:
        return ()
    if not isinstance(item, Gateway):
        return (_policy(guard(item.key, admitted(store, item))),)
    own = bound.binding.waypoint
    return (_policy(guard_everywhere(item.key, own.principals if own is not None else ())),)


def _with_handed_out(service: workload.Service, store: Store, settings: MeshSettings) -> workload.Service:
    """A service with the addresses that its host was given for want of its own."""
    given = store.handed_out.addresses(service.key)
    return with_addresses(service, given, settings) if given else service


def _kubernetes_service(item: Service, store: Store, settings: MeshSettings) -> Candidate:
    service = _reached(kubernetes_service(item, settings), item, store)
    return _service(service, named(service, named_ports(item, settings), settings))


def _of_service(item: Service, store: Store, settings: MeshSettings) -> tuple[Candidate, ...]:
    return _alias(item, settings) if item.external else (_kubernetes_service(item, store, settings), *_guard(item, store))


def _alias(item: Service, settings: MeshSettings) -> tuple[Candidate, ...]:
    """A name and nothing behind it."""
    host = aliased(item, settings)
    key = workload.service_key(item.metadata.namespace, host.hostname) if host else ""
    return (Candidate(ALIAS, key, bytes, (f"service {key}",), host=host),) if host else ()


def _workload(one: workload.Workload, claims: tuple[Claim, ...] = ()) -> Candidate:
    # A host-network workload shares its node's address: the address is not its own, nor is it found by it.
    own = one.network_mode is NetworkMode.STANDARD
    aliases = tuple(dict.fromkeys(address_key(one.network, address) for address in one.addresses)) if own else ()
    return Candidate(
        ADDRESS,
        one.uid,
        partial(workload.encode_workload, one),
        (*claims, *(address_claim(alias) for alias in aliases)),
        aliases,
        tuple(sorted(one.services)),
        value=one,
    )


def _service(service: workload.Service, host: Host | None) -> Candidate:
    aliases = tuple(dict.fromkeys(address.key for address in service.addresses))
    claims = (f"service {service.key}", *(address_claim(alias) for alias in aliases))
    return Candidate(ADDRESS, service.key, partial(workload.encode_service, service), claims, aliases, host=host, value=service)


def _policy(policy: Policy) -> Candidate:
    return Candidate(AUTHORIZATION, policy.key, partial(encode_policy, policy), ())


def address_claim(key: AddressKey) -> Claim:
    """How an address is claimed."""
    return f"address {key}"
