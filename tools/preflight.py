"""Checks that this machine can run the mesh: root, and the kernel features it needs, each tried for real in a throw-away namespace."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable

RULES = """
table inet preflight {
  chain output { type nat hook output priority -100; meta l4proto tcp redirect to :15001; }
  chain prerouting { type filter hook prerouting priority -150; meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:15006; \
meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:15006; }
}
"""


def run(*command: str, stdin: str | None = None) -> None:
    """Runs a program; raises on failure."""
    subprocess.run(command, input=stdin, text=True, check=True, capture_output=True)


def main() -> int:
    """Prints what is missing, and what to do; exit code 0 if nothing is."""
    if os.geteuid() != 0:
        sys.stderr.write("root is needed: network namespaces, nftables and transparent sockets. Run it with sudo.\n")
        return 1
    namespace = f"preflight-{secrets.token_hex(3)}"
    inside = ("nsenter", f"--net=/run/netns/{namespace}", "--")
    checks: list[tuple[str, str, Callable[[], None]]] = [
        ("network namespaces", "CONFIG_NET_NS, and CAP_SYS_ADMIN", lambda: run("ip", "netns", "add", namespace)),
        (
            "veth devices",
            "modprobe veth",
            lambda: run("ip", "-n", namespace, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"),
        ),
        ("bridges", "modprobe bridge", lambda: run("ip", "-n", namespace, "link", "add", "bridge0", "type", "bridge")),
        (
            "nftables with REDIRECT and TPROXY, IPv4 and IPv6",
            "modprobe -a nf_tables nft_redir nft_tproxy nft_chain_nat",
            lambda: run(*inside, "nft", "-f", "-", stdin=RULES),
        ),
        ("tcp_fwmark_accept", "a kernel from 3.15 on", lambda: run(*inside, "sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=1")),
        (
            "policy routing by mark",
            "CONFIG_IP_MULTIPLE_TABLES",
            lambda: run("ip", "-n", namespace, "rule", "add", "fwmark", "1/1", "lookup", "100"),
        ),
        (
            "IPv6",
            "sysctl net.ipv6.conf.all.disable_ipv6=0",
            lambda: run("ip", "-n", namespace, "-6", "addr", "add", "fd00::1/64", "dev", "veth0"),
        ),
    ]
    missing = 0
    try:
        for name, remedy, check in checks:
            try:
                check()
            except (subprocess.CalledProcessError, FileNotFoundError) as error:
                detail = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
                sys.stderr.write(f"missing: {name} (try: {remedy})\n  {detail}\n")
                missing += 1
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
