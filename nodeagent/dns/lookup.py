"""What a question means to a workload: the pure function that answers from the directory, or says that the mesh has no such name.

The rules are those of Istio's node proxy: short forms of the cluster's names are completed from the asker's namespace, and what a client's
resolver has appended (`example.com.shop.svc.cluster.local`) is taken off again, which saves it the rest of its search. A name that the
mesh does not know is never denied here, but passed on: who knows better is asked.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, Protocol

from meshapi.workload import HealthPolicy, IPAddress, Service, ServiceKey, Workload, WorkloadStatus
from nodeagent.dns.directory import Directory, Named
from nodeagent.dns.wire import (
    INTERNET,
    Answer,
    Code,
    Query,
    Record,
    Type,
    address_record,
    authority_record,
    is_name,
    name_record,
    service_record,
)
from nodeagent.policy.addresses import plain

TTL_S: Final = 30
MAX_ENDPOINTS: Final = 256
MAX_ALIASES: Final = 8
"""Names that lead to names, in one answer: more go in a circle."""
_SVC: Final = "svc"
_ADDRESS_TYPES: Final = {Type.A: 4, Type.AAAA: 6}
_REVERSE4: Final = ".in-addr.arpa"
_REVERSE6: Final = ".ip6.arpa"


class Endpoints(Protocol):
    """Where the endpoints of headless services are known."""

    def service(self, key: ServiceKey) -> Service | None: ...

    def members(self, key: ServiceKey) -> Iterable[Workload]: ...


class NeedsEndpoints(NamedTuple):
    """The answer is the addresses of this service's endpoints, which have not been asked for."""

    key: ServiceKey


class NeedsResolver(NamedTuple):
    """What was asked for is another word for `target`, which the mesh does not know: `told` leads there."""

    told: tuple[Record, ...]
    target: str


class Found(NamedTuple):
    """`pod`: the label of one endpoint, of a headless service. `alias`: under which name it was found, if the client is to be told."""

    named: Named
    pod: str = ""
    alias: str | None = None


def answer(query: Query, namespace: str, directory: Directory, endpoints: Endpoints) -> Answer | NeedsEndpoints | NeedsResolver | None:
    """The answer to a workload of `namespace`; None if the question is to be passed on."""
    if query.klass != INTERNET or not query.name:
        return None
    if query.type == Type.PTR:
        return _reverse(query.name, namespace, directory)
    if query.type == Type.SRV and query.name.startswith("_"):
        return _service(query.name, namespace, directory, endpoints)
    found = find(query.name, namespace, directory)
    if found is None:
        return None
    told = (name_record(Type.CNAME, found.alias),) if found.alias else ()
    while found.named.host.alias:
        target = found.named.host.alias
        told = (*told, name_record(Type.CNAME, target, found.alias))
        if query.type not in _ADDRESS_TYPES:
            return Answer(told)
        following = find_in_full(target, namespace, directory)
        if following is None:
            return NeedsResolver(told, target)
        if len(told) > MAX_ALIASES:
            return Answer(told, code=Code.FAILED)
        found = Found(following, alias=target)
    return _answer(query, found, told, directory.domain, endpoints)


def _answer(query: Query, found: Found, told: tuple[Record, ...], domain: str, endpoints: Endpoints) -> Answer | NeedsEndpoints | None:
    """What there is of a name that is no alias; `told`: how it came to be the one that is asked for."""
    named = found.named
    version = _ADDRESS_TYPES.get(query.type)  # type: ignore[call-overload]
    if version is None:
        return _of_other_type(query.type, found, domain)
    addresses: Iterable[IPAddress] = named.host.addresses
    if not named.host.addresses:
        if endpoints.service(named.key) is None:
            return NeedsEndpoints(named.key)
        members = [member for member in _usable(named, endpoints) if not found.pod or member.name == found.pod]
        if found.pod and not members:
            return None
        addresses = dict.fromkeys(plain(address) for member in members for address in member.addresses)
    records = tuple(address_record(address, found.alias) for address in addresses if address.version == version)
    return Answer(told + records[:MAX_ENDPOINTS], authority=() if records else _nothing(named, domain))


def find(name: str, namespace: str, directory: Directory) -> Found | None:
    """The host that a name means, of all that it may mean the first that there is; the longest of wildcards."""
    for form, is_pod, is_stripped in _forms(name, namespace, directory.domain):
        alias = form if is_stripped else None
        if is_pod:
            pod, _, service = form.partition(".")
            named = directory.find(service, namespace)
            if named is not None and not named.host.addresses and not named.host.alias:
                return Found(named, pod, alias)
        elif (named := find_in_full(form, namespace, directory)) is not None:
            return Found(named, alias=alias)
    return None


def find_in_full(name: str, namespace: str, directory: Directory) -> Named | None:
    """The host of a name that is complete."""
    return next((named for form in (name, *_wildcards(name)) if (named := directory.find(form, namespace)) is not None), None)


def _forms(name: str, namespace: str, domain: str) -> Iterator[tuple[str, bool, bool]]:
    """What a name may mean: in full, whether its first label is a pod, and whether a search domain was taken off it."""
    yield name, False, False
    yield from ((full, is_pod, False) for full, is_pod in _completed(name, namespace, domain))
    for search in (f".{namespace}.{_SVC}.{domain}", f".{_SVC}.{domain}", f".{domain}"):
        if name.endswith(search):
            stripped = name.removesuffix(search)
            yield stripped, False, True
            yield from ((full, is_pod, True) for full, is_pod in _completed(stripped, namespace, domain))


def _completed(name: str, namespace: str, domain: str) -> Iterator[tuple[str, bool]]:
    """The names of the cluster that a short form stands for, and whether as a pod of a headless service."""
    svc = f"{_SVC}.{domain}"
    match name.split("."):
        case [_]:
            yield f"{name}.{namespace}.{svc}", False
        case [_, _]:
            yield f"{name}.{svc}", False
            yield f"{name}.{namespace}.{svc}", True
        case [_, _, third]:
            if third == _SVC:
                yield f"{name}.{domain}", False
            yield f"{name}.{svc}", True
        case [_, _, _, "svc"]:
            yield f"{name}.{domain}", True
        case [_, _, _, "svc", *rest] if ".".join(rest) == domain:
            yield name, True


def _wildcards(name: str) -> Iterator[str]:
    _, _, rest = name.partition(".")
    while rest:
        yield f"*.{rest}"
        _, _, rest = rest.partition(".")


def _of_other_type(kind: int, found: Found, domain: str) -> Answer | None:
    """Beside addresses, a name of the cluster has nothing. Others have owners elsewhere, who are asked; but not for hints of addresses."""
    if _is_of_cluster(found.named, domain) or kind in {Type.HTTPS, Type.SVCB, Type.CNAME}:
        return Answer(authority=_nothing(found.named, domain))
    return None


def _is_of_cluster(named: Named, domain: str) -> bool:
    return named.host.hostname.endswith(f".{_SVC}.{domain}")


def _nothing(named: Named, domain: str) -> tuple[Record, ...]:
    zone = domain if _is_of_cluster(named, domain) else named.host.hostname.removeprefix("*.")
    return (authority_record(zone, TTL_S),)


def _usable(named: Named, endpoints: Endpoints) -> list[Workload]:
    """The endpoints that may be called, in an order that does not change while they do not."""
    service = endpoints.service(named.key)
    balancing = service.load_balancing if service else None
    whole = balancing is not None and balancing.health_policy is HealthPolicy.ALLOW_ALL
    members = (member for member in endpoints.members(named.key) if whole or member.status is WorkloadStatus.HEALTHY)
    return sorted(members, key=lambda member: member.uid)


def _service(name: str, namespace: str, directory: Directory, endpoints: Endpoints) -> Answer | NeedsEndpoints | None:
    """`_port._tcp.name` (RFC 2782)."""
    port_label, _, rest = name.partition(".")
    protocol, _, host = rest.partition(".")
    found = find(host, namespace, directory) if protocol in {"_tcp", "_udp"} else None
    if found is None or found.pod or found.named.host.hostname.startswith("*"):
        return None
    named = found.named
    port = next((one for one in named.host.ports if one.name.lower() == port_label[1:] and one.udp == (protocol == "_udp")), None)
    if port is None:
        return None
    target = named.host.hostname
    if named.host.addresses:
        extra = tuple(address_record(address, target) for address in named.host.addresses)
        return Answer((service_record(target, port.number),), extra=extra)
    if port.udp and not port.target:
        return None
    if endpoints.service(named.key) is None:
        return NeedsEndpoints(named.key)
    records, extras = [], []
    for member in _usable(named, endpoints)[:MAX_ENDPOINTS]:
        number = port.target if port.udp else _port_of(member, named.key, port.number)
        own = f"{member.name}.{target}"
        if number and is_name(own):
            records.append(service_record(own, number))
            extras += [address_record(plain(address), own) for address in member.addresses]
    return Answer(tuple(records), extra=tuple(extras), authority=() if records else _nothing(named, directory.domain))


def _port_of(member: Workload, service: ServiceKey, number: int) -> int:
    """Where a member has a port of the service; 0 if it has not."""
    return next((port.target or number for port in member.services.get(service, ()) if port.service == number), 0)


def _reverse(name: str, namespace: str, directory: Directory) -> Answer | None:
    address = _reversed_address(name)
    named = directory.at(address, namespace) if address is not None else None
    return Answer((name_record(Type.PTR, named.host.hostname),)) if named is not None else None


def _reversed_address(name: str) -> IPAddress | None:
    try:
        if name.endswith(_REVERSE4):
            return IPv4Address(".".join(reversed(name.removesuffix(_REVERSE4).split("."))))
        if name.endswith(_REVERSE6):
            digits = name.removesuffix(_REVERSE6).split(".")
            if len(digits) == 32 and all(len(digit) == 1 for digit in digits):
                return IPv6Address(int("".join(reversed(digits)), 16))
    except ValueError:
        return None
    return None
