"""The host: what the mesh needs of it, whether an agent runs or not. Every function blocks, for seconds at most."""

import os
import platform
import resource
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nodeagent.capture.base import Way
from nodeagent.capture.choice import choose, ways
from nodeagent.capture.ebpf import DIRECTORY
from nodeagent.doctor.check import Check, failed, ok, warning
from nodeagent.linux import cgroups, libc
from nodeagent.linux.errors import KernelError
from nodeagent.ztunnel.supervisor import BUNDLED

MEND_CLOCK: Final = "set the clock, and keep it by a time service (timedatectl set-ntp true)"
MAX_CLOCK_ERROR_S: Final = 30.0
_DAY_S: Final = 86400.0
MIN_FILES: Final = 16_384
"""A proxy needs two descriptors for each connection that it carries."""
_FULL: Final = 0.9
_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_NET: Final = Path("/sys/class/net")
_CONNTRACK: Final = Path("/proc/sys/net/netfilter")
MIN_MTU: Final = 1280
"""Of IPv6 (RFC 8200, 5)."""


def host_checks() -> Iterator[Check]:
    """One after the other, so that they can be shown as they come."""
    yield user()
    yield kernel()
    yield proxy()
    yield cgroup()
    yield from captures()
    yield clock()
    yield files()
    yield conntrack(_CONNTRACK)
    yield mtu(_NET)


def user() -> Check:
    if os.geteuid() == 0:
        return ok("user", "root")
    return failed("user", f"user {os.geteuid()} can't program the kernel", "run it as root")


def kernel() -> Check:
    name = f"{platform.system()} {platform.release()}"
    if _BTF.exists():
        return ok("kernel", f"{name}, with its types (BTF)")
    return warning("kernel", f"{name}, without its types (BTF)", "a kernel with CONFIG_DEBUG_INFO_BTF can be looked into by tools")


def proxy() -> Check:
    if os.access(BUNDLED, os.X_OK):
        return ok("proxy", str(BUNDLED))
    return failed("proxy", f"{BUNDLED} is not there", "install the package anew")


def cgroup() -> Check:
    try:
        return ok("cgroups", f"version 2 at {cgroups.root()}")
    except OSError as error:
        return failed("cgroups", str(error), "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2")


def captures() -> Iterator[Check]:
    """Each way to capture, tried in a network namespace made for it: connections in and out come to a proxy, and answers back."""
    works = []
    for way in ways():
        why = _tried(way)
        if not why:
            works.append(way)
            yield ok(f"capture {way}", "tried in a namespace of its own: connections come to the proxy in both directions")
        elif works:
            yield ok(f"capture {way}", f"not possible here, and not needed: {why}")
        else:
            yield warning(f"capture {way}", why, "the next best way is taken; docs/kernels.md says what each needs")
    if not works:
        yield failed("capture", "no way to capture works here", "a kernel of 5.10 or later with nftables, and the package libnftables1")


def _tried(way: Way) -> str:
    # Not where an agent has its pins: what is tried must not touch what is in force.
    pins = DIRECTORY.with_name(f"{DIRECTORY.name}-check-{os.getpid()}")
    try:
        choose(way, pins)
    except (OSError, KernelError) as error:
        return str(error)
    finally:
        if pins.is_dir():
            pins.rmdir()
    return ""


def clock(now_s: float | None = None) -> Check:
    """Certificates are judged by it: one that is behind takes good ones for not yet valid, one that is ahead for expired."""
    now_s = time.time() if now_s is None else now_s
    moment = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        built_s = Path(__file__).stat().st_mtime
        uncertain_s = libc.clock_uncertainty_s()
    except OSError as error:
        return warning("clock", f"{moment}; whether it is kept can't be told: {error}", MEND_CLOCK)
    if now_s < built_s - _DAY_S:
        return failed("clock", f"{moment} is before this program was made", MEND_CLOCK)
    if uncertain_s is None:
        return warning("clock", f"{moment}, kept by no time service", MEND_CLOCK)
    if uncertain_s > MAX_CLOCK_ERROR_S:
        return warning("clock", f"{moment}, {uncertain_s:.0f} s off at most", MEND_CLOCK)
    return ok("clock", f"{moment}, kept by a time service")


def files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= MIN_FILES:
        return ok("open files", f"up to {'any number' if hard == resource.RLIM_INFINITY else hard} of a process (now {soft})")
    return warning("open files", f"a process may have {hard}", f"raise the hard limit to {MIN_FILES} or more (LimitNOFILE= of a unit)")


def conntrack(directory: Path) -> Check:
    try:
        count, limit = (int((directory / name).read_text()) for name in ("nf_conntrack_count", "nf_conntrack_max"))
    except (OSError, ValueError):
        return ok("conntrack", "not in use")
    if limit and count >= _FULL * limit:
        mend = "raise net.netfilter.nf_conntrack_max: new connections are dropped when it is full (capture by ebpf needs none)"
        return warning("conntrack", f"{count} of {limit} entries are taken", mend)
    return ok("conntrack", f"{count} of {limit} entries are taken")


def mtu(directory: Path) -> Check:
    found = {}
    for device in sorted(directory.iterdir()) if directory.is_dir() else ():
        try:
            found[device.name] = int((device / "mtu").read_text())
        except (OSError, ValueError):
            continue
    small = {name: size for name, size in found.items() if size < MIN_MTU}
    if small:
        words = ", ".join(f"{name} {size}" for name, size in small.items())
        return warning("MTU", f"too small for IPv6: {words}", f"set {MIN_MTU} or more: ip link set DEVICE mtu 1500")
    sizes = sorted({size for name, size in found.items() if name != "lo"})
    return ok("MTU", f"{sizes[0]} to {sizes[-1]} bytes" if len(sizes) > 1 else f"{sizes[0] if sizes else 'no'} bytes")
