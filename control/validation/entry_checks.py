"""Checks of ServiceEntry and WorkloadEntry beyond their types, as far as one object can be judged alone."""

from collections.abc import Iterator

from control.kinds import ServiceEntry, WorkloadEntry
from control.kinds.networking import EntryWorkload
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.finding import Remark, warning

_RESOLUTIONS = ("NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN")


def service_entry_remarks(entry: ServiceEntry) -> Iterator[Remark]:
    spec = entry.spec
    if not spec.hosts:
        yield Remark(("spec", "hosts"), "needs a host")
    for index, host in enumerate(spec.hosts):
        yield from attempt(values.host, host, ("spec", "hosts", index))
        if host in spec.hosts[:index]:
            yield Remark(("spec", "hosts", index), f"the host {host} stands here twice")
        if spec.resolution.startswith("DNS") and host.startswith("*") and not spec.endpoints:
            yield Remark(("spec", "hosts", index), f"{host} can't be looked up in DNS", "list endpoints, or use resolution NONE")
    for index, text in enumerate(spec.addresses):
        yield from attempt(values.single_address, text, ("spec", "addresses", index))
        yield from _handed_out_remarks(text, ("spec", "addresses", index))
    if spec.resolution not in _RESOLUTIONS:
        yield Remark(("spec", "resolution"), f"unknown resolution {spec.resolution[:40]!r}", "one of " + ", ".join(_RESOLUTIONS))
    yield from _port_remarks(entry)
    yield from _endpoint_remarks(entry)
    if any(target not in {"*", "."} for target in spec.export_to):
        yield warning(("spec", "exportTo"), "only * and . can be expressed: visible in its own namespace only")


def _handed_out_remarks(text: str, path: Path) -> Iterator[Remark]:
    try:
        address = values.single_address(text)
    except ValueError:
        return
    if values.is_handed_out(address):
        yield warning(path, f"{text} is of a range that the mesh hands out: it is not used, and hosts get an address by themselves")


def _port_remarks(entry: ServiceEntry) -> Iterator[Remark]:
    seen: set[int] = set()
    for index, port in enumerate(entry.spec.ports):
        path: Path = ("spec", "ports", index)
        yield from attempt_port(port.number, path)
        if port.target_port:
            yield from attempt_port(port.target_port, path)
        if port.number in seen:
            yield Remark(path, f"port {port.number} stands here twice")
        seen.add(port.number)


def _endpoint_remarks(entry: ServiceEntry) -> Iterator[Remark]:
    spec = entry.spec
    if spec.workload_selector is not None:
        path: Path = ("spec", "workloadSelector")
        if spec.endpoints:
            yield Remark(path, "has both endpoints and a workloadSelector", "keep one of them")
        if not spec.workload_selector.labels:
            yield Remark(path, "a selector without labels selects nothing", "give it labels")
        yield from label_remarks(spec.workload_selector.labels, (*path, "labels"))
    if spec.endpoints and spec.resolution == "NONE":
        yield Remark(("spec", "endpoints"), "resolution NONE takes no endpoints", "use resolution STATIC or DNS")
    seen: set[str] = set()
    for index, endpoint in enumerate(spec.endpoints):
        yield from endpoint_remarks(endpoint, ("spec", "endpoints", index))
        if endpoint.address in seen:
            yield Remark(("spec", "endpoints", index), f"the address {endpoint.address[:80]} stands here twice")
        seen.add(endpoint.address)


def workload_entry_remarks(entry: WorkloadEntry) -> Iterator[Remark]:
    yield from endpoint_remarks(entry.spec, ("spec",))


def endpoint_remarks(endpoint: EntryWorkload, path: Path) -> Iterator[Remark]:
    """One endpoint, in an entry of its own or inline."""
    yield from attempt(address_or_host, endpoint.address, (*path, "address"))
    for name, number in endpoint.ports.items():
        yield from attempt_port(number, (*path, "ports", name))
    yield from label_remarks(endpoint.labels, (*path, "labels"))
    if endpoint.locality:
        yield from attempt(values.locality, endpoint.locality, (*path, "locality"))
    if endpoint.service_account:
        yield from attempt(values.object_name, endpoint.service_account, (*path, "serviceAccount"))
    if not 0 <= endpoint.weight < 1 << 32:
        yield Remark((*path, "weight"), f"weight {endpoint.weight} is out of range")
    # `/` would let a network name run into the address behind it.
    if endpoint.network:
        yield from attempt(values.object_name, endpoint.network, (*path, "network"))


def address_or_host(text: str) -> None:
    """An address that may be served, or a host name; never a path or a wildcard."""
    if ":" in text or text.replace(".", "").isdecimal():
        values.serving_address(text)
    elif values.host(text).startswith("*"):
        raise ValueError(f"{text[:80]!r} can't be an endpoint's address")
