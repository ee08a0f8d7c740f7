"""Checks of WorkloadGroup beyond its types."""

from collections.abc import Iterator
from ipaddress import ip_network

from control.kinds import WorkloadGroup
from control.kinds.groups import HTTPProbe, ReadinessProbe
from control.model.vm import ALLOWED_ADDRESSES, allowed_addresses
from control.validation import values
from control.validation.core_checks import Path, attempt, attempt_port, label_remarks
from control.validation.finding import Remark, warning

_WAYS = ("httpGet", "tcpSocket", "exec", "grpc")
_MAX_S = 3600


def workload_group_remarks(group: WorkloadGroup) -> Iterator[Remark]:
    spec = group.spec
    yield from label_remarks(spec.metadata.labels, ("spec", "metadata", "labels"))
    template: Path = ("spec", "template")
    if spec.template.address:
        yield warning((*template, "address"), "has no effect: each workload has its own", "remove it")
    for name, number in spec.template.ports.items():
        yield from attempt_port(number, (*template, "ports", name))
    yield from label_remarks(spec.template.labels, (*template, "labels"))
    if spec.template.locality:
        yield from attempt(values.locality, spec.template.locality, (*template, "locality"))
    if spec.template.network:
        yield from attempt(values.object_name, spec.template.network, (*template, "network"))
    yield from attempt(values.object_name, group.service_account, (*template, "serviceAccount"))
    if not 0 <= spec.template.weight < 1 << 32:
        yield Remark((*template, "weight"), f"weight {spec.template.weight} is out of range")
    for text in allowed_addresses(group):
        yield from attempt(ip_network, text, ("metadata", "annotations", ALLOWED_ADDRESSES), "blocks like 10.0.0.0/24, with commas between")
    if spec.probe is not None:
        yield from _probe_remarks(spec.probe, ("spec", "probe"))


def _probe_remarks(probe: ReadinessProbe, path: Path) -> Iterator[Remark]:
    given = [name for name, way in zip(_WAYS, (probe.http_get, probe.tcp_socket, probe.exec, probe.grpc), strict=True) if way is not None]
    if len(given) != 1:
        yield Remark(path, f"a probe is one of {', '.join(_WAYS)}, not {' and '.join(given) or 'none of them'}")
    for name in ("initial_delay_seconds", "timeout_seconds", "period_seconds", "success_threshold", "failure_threshold"):
        if not 0 <= getattr(probe, name) <= _MAX_S:
            yield Remark(path, f"{name.replace('_', ' ')}: must be 0 to {_MAX_S}")
    if probe.http_get is not None:
        yield from _http_remarks(probe.http_get, (*path, "httpGet"))
    for name, call in (("tcpSocket", probe.tcp_socket), ("grpc", probe.grpc)):
        if call is not None:
            yield from attempt_port(call.port, (*path, name, "port"))
    if probe.exec is not None:
        command = probe.exec.command
        if not command or not command[0].startswith("/") or "\0" in "".join(command):
            yield Remark((*path, "exec", "command"), "needs a program by its whole path", "no shell reads it: begin it with /")


def _http_remarks(probe: HTTPProbe, path: Path) -> Iterator[Remark]:
    yield from attempt_port(probe.port, (*path, "port"))
    if probe.scheme not in {"", "HTTP", "HTTPS"}:
        yield Remark((*path, "scheme"), f"{probe.scheme[:40]!r} is neither HTTP nor HTTPS")
    # What would end a line of the request could add another.
    if any(not (text := header.name + header.value).isascii() or not text.isprintable() for header in probe.http_headers):
        yield Remark((*path, "httpHeaders"), "a header with what no header can have")
    if not probe.path.isprintable() or " " in probe.path:
        yield Remark((*path, "path"), "a path with what no path can have")
