"""A pod and a client in network namespaces of their own, joined by a veth pair; gone when the test is."""

import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from nodeagent.linux.namespaces import Namespace


@dataclass
class Side:
    """One of the two: its namespace and its addresses."""

    name: str
    namespace: Namespace
    addresses: dict[int, str] = field(default_factory=dict)

    def open_socket(self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        made = self.namespace.run(socket.socket, family, kind, protocol)
        made.settimeout(5)
        return made

    def dial(self, address: str, port: int, timeout_s: float = 3.0) -> socket.socket:
        made = self.open_socket(family_of(address))
        made.settimeout(timeout_s)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        return made

    def has_link_address(self) -> bool:
        """Whether its device has its IPv6 address of the link, for good."""
        listed = self.shell("ip", "-6", "address", "show", "dev", "eth0", "scope", "link")
        return "inet6" in listed and "tentative" not in listed

    def shell(self, *command: str, check: bool = True, stdin: str = "") -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *command], check=False, capture_output=True, text=True, input=stdin, timeout=10
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@dataclass
class Pair:
    pod: Side
    client: Side


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def pair(*, ipv4: bool = True, ipv6: bool = True) -> Iterator[Pair]:
    """Builds both, with forwarding off and duplicate address detection off, so that addresses can be used at once."""
    tag = secrets.token_hex(4)
    names = {"pod": f"nm-{tag}-pod", "client": f"nm-{tag}-cli"}
    opened: list[Namespace] = []
    try:
        for name in names.values():
            _ip("netns", "add", name)
            opened.append(Namespace.open(f"/run/netns/{name}"))
            # Of link-local addresses, too: they would come to the routes seconds later.
            sysctls = [f"net.ipv6.conf.{which}.accept_dad=0" for which in ("all", "default")]
            Side(name, opened[-1]).shell("sysctl", "-qw", *sysctls)
        _ip("-n", names["pod"], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names["client"])
        sides = []
        for index, (name, namespace) in enumerate(zip(names.values(), opened, strict=True), start=1):
            side = Side(name, namespace)
            if not ipv6:
                side.shell("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
            _ip("-n", name, "link", "set", "lo", "up")
            if ipv4:
                side.addresses[socket.AF_INET] = f"10.77.0.{index}"
                _ip("-n", name, "address", "add", f"10.77.0.{index}/24", "dev", "eth0")
            if ipv6:
                side.addresses[socket.AF_INET6] = f"fd77::{index}"
                _ip("-n", name, "address", "add", f"fd77::{index}/64", "dev", "eth0", "nodad")
            _ip("-n", name, "link", "set", "eth0", "up")
            sides.append(side)
        yield Pair(*sides)
    finally:
        for namespace in opened:
            namespace.close()
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=10)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr} (the tests need root)"


def refused(attempt: Callable[[], object]) -> bool:
    """Whether the attempt ended in a refusal, a reset or no answer, and not in success."""
    try:
        attempt()
    except OSError:
        return True
    return False
