"""Reads the terms of a capture from a workload's annotations: Istio's own, and one of ours.

What can't be followed is never guessed at: the workload is captured whole, and the problem is told.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv6Network, ip_network
from typing import Any, Final, TypeVar

import msgspec

from nodeagent.capture.terms import TOTAL, Network, Terms, of_host, ordered

FAIL_OPEN: Final = "nodemesh.io/fail-open"
DNS_CAPTURE: Final = "ambient.istio.io/dns-capture"
BYPASS_INBOUND: Final = "ambient.istio.io/bypass-inbound-capture"
TRAFFIC: Final = "traffic.sidecar.istio.io/"
_MAX_ITEMS: Final = 256
_SHOWN: Final = 60
T = TypeVar("T")


class _AnnotationError(ValueError):
    """A value that can't be followed."""


def read_terms(annotations: Mapping[str, str], *, cgroup: str = "") -> tuple[Terms, str]:
    """The terms and an empty text; or total capture, and what is wrong with each annotation that can't be followed."""
    fields: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in sorted(annotations.items()):
        if name.startswith(TRAFFIC) and name not in _READERS:
            problems.append(f"{name[:_SHOWN]} is not supported")
        elif name in _READERS:
            field, read = _READERS[name]
            try:
                made = read(value)
            except _AnnotationError as error:
                problems.append(f"{name}: {error}")
            else:
                # Who bypasses inbound capture has no ports to include; which of the two annotations is read last is of no matter.
                fields[field] = () if field == "include_inbound_ports" and fields.get(field) == () else made
    if problems:
        return Terms(cgroup=cgroup, dns=True), f"captured whole, since its annotations can't be followed: {'; '.join(problems)}"
    return msgspec.structs.replace(TOTAL, cgroup=cgroup, **{"dns": True, **fields}), ""


def read_host_terms(annotations: Mapping[str, str]) -> tuple[Terms, str]:
    """The same for a whole host, which without annotations is to be reached by SSH whatever becomes of the mesh."""
    terms, problem = read_terms(annotations)
    given = not problem and any(f"{TRAFFIC}{name}InboundPorts" in annotations for name in ("include", "exclude"))
    return of_host(terms, ports_given=given), problem


def _flag(text: str) -> bool:
    match text.strip():
        case "true":
            return True
        case "false" | "":
            return False
        case _:
            raise _AnnotationError(f'{_short(text)} must be "true" or "false"')


def _bypass(text: str) -> tuple[int, ...] | None:
    return () if _flag(text) else None


def _ports(text: str) -> tuple[int, ...]:
    return tuple(sorted({_port(item) for item in _items(text)}))


def _ports_or_all(text: str) -> tuple[int, ...] | None:
    return None if text.strip() == "*" else _ports(text)


def _ranges(text: str) -> tuple[str, ...]:
    return ordered(_range(item) for item in _items(text))


def _ranges_or_all(text: str) -> tuple[str, ...] | None:
    return None if text.strip() == "*" else _ranges(text)


def _items(text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if len(items) > _MAX_ITEMS:
        raise _AnnotationError(f"{len(items)} entries, at most {_MAX_ITEMS} are possible")
    return items


def _port(item: str) -> int:
    if not (item.isascii() and item.isdigit() and len(item) <= len("65535") and 0 < int(item) <= 65535):
        raise _AnnotationError(f"{_short(item)} is no port: 1 to 65535, separated by commas")
    return int(item)


def _range(item: str) -> Network:
    if "/" not in item:
        raise _AnnotationError(f"{_short(item)} is no range: write 10.1.2.3/32 or fd00::/8, separated by commas")
    try:
        made = ip_network(item, strict=False)
    except ValueError as error:
        raise _AnnotationError(f"{_short(item)} is no range: {error}") from error
    if isinstance(made, IPv6Network) and (made.network_address.ipv4_mapped or made.network_address.scope_id):
        raise _AnnotationError(f"{_short(item)}: write IPv4 ranges as such, and none with a zone")
    return made


def _short(text: str) -> str:
    return repr(text[:_SHOWN])


_READERS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    FAIL_OPEN: ("fail_open", _flag),
    DNS_CAPTURE: ("dns", _flag),
    BYPASS_INBOUND: ("include_inbound_ports", _bypass),
    f"{TRAFFIC}includeInboundPorts": ("include_inbound_ports", _ports_or_all),
    f"{TRAFFIC}excludeInboundPorts": ("exclude_inbound_ports", _ports),
    f"{TRAFFIC}includeOutboundPorts": ("include_outbound_ports", _ports),
    f"{TRAFFIC}excludeOutboundPorts": ("exclude_outbound_ports", _ports),
    f"{TRAFFIC}includeOutboundIPRanges": ("include_outbound_ranges", _ranges_or_all),
    f"{TRAFFIC}excludeOutboundIPRanges": ("exclude_outbound_ranges", _ranges),
}
"""By annotation, which field it sets, and how its value is read."""
