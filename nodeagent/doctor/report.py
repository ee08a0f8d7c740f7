"""The archive that `nodeagent bug-report` writes: what helps to understand a node, and no secret of it.

Each item is gathered by itself, within bounds of time and size; one that can't be had says why, in its place.
"""

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from nodeagent.doctor.secrets import scrubbed
from nodeagent.linux.errors import KernelError
from nodeagent.linux.programs import run

MAX_ITEM_BYTES: Final = 4 << 20
COMMAND_S: Final = 15.0
_PROC: Final = (
    "/proc/version",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/net/snmp",
    "/proc/net/netstat",
    "/proc/net/sockstat",
    "/proc/net/sockstat6",
    "/proc/mounts",
    "/etc/os-release",
)
_SYSCTLS: Final = (
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_fwmark_accept",
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/route_localnet",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "fs/file-nr",
    "kernel/unprivileged_bpf_disabled",
)
_COMMANDS: Final = {
    "network/addresses.txt": ("ip", "-details", "address"),
    "network/routes.txt": ("ip", "route", "show", "table", "all"),
    "network/rules.txt": ("ip", "rule"),
    "network/rules6.txt": ("ip", "-6", "rule"),
    "network/nftables.txt": ("nft", "list", "ruleset"),
    "network/iptables.txt": ("iptables-save",),
    "network/sockets.txt": ("ss", "--tcp", "--udp", "--all", "--numeric", "--processes"),
    "journal/agent.txt": ("journalctl", "--unit=nodemesh-agent", "--lines=5000", "--no-pager"),
    "journal/kernel.txt": ("journalctl", "--dmesg", "--lines=1000", "--no-pager"),
}
_PATHS: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Item(Struct, frozen=True):
    """A file of the archive, and how its text is had; it may raise OSError."""

    name: str
    read: Callable[[], str]


def host_items() -> Iterator[Item]:
    """What the host shows, whether an agent runs or not."""
    for path in _PROC:
        yield Item(f"host{path}", lambda path=path: Path(path).read_text())  # type: ignore[misc]
    yield Item("host/sysctls.txt", _sysctls)
    yield Item("host/pins.txt", _pins)
    for name, command in _COMMANDS.items():
        yield Item(name, lambda command=command: _said(command))  # type: ignore[misc]


def write(target: Path, items: Iterator[Item], told: Callable[[str], None]) -> int:
    """Writes the archive, mode 0600, and returns how many items could not be had; `told` hears of each item."""
    missing = 0
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for item in items:
            told(item.name)
            text, had = _text(item)
            missing += not had
            body = scrubbed(text[:MAX_ITEM_BYTES]).encode()[:MAX_ITEM_BYTES]
            entry = tarfile.TarInfo(f"{target.name.removesuffix('.tar.gz')}/{item.name}")
            entry.size, entry.mode, entry.mtime = len(body), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(body))
    return missing


def _text(item: Item) -> tuple[str, bool]:
    try:
        return item.read(), True
    except (OSError, KernelError, ValueError) as error:
        return f"could not be had: {error}\n", False


def _said(command: tuple[str, ...]) -> str:
    program = next((path for directory in _PATHS if (path := Path(directory, command[0])).exists()), None)
    if program is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    return run((str(program), *command[1:]), timeout_s=COMMAND_S)


def _sysctls() -> str:
    lines = []
    for name in _SYSCTLS:
        try:
            lines.append(f"{name.replace('/', '.')} = {Path('/proc/sys', name).read_text().strip()}")
        except OSError as error:
            lines.append(f"{name.replace('/', '.')}: {error.strerror}")
    return "\n".join(lines) + "\n"


def _pins() -> str:
    """What eBPF keeps for us."""
    root = Path("/sys/fs/bpf/nodemesh")
    return "".join(f"{path}\n" for path in sorted(root.rglob("*")))
