"""Taking away from the machine what a way of capturing needs, so that it is not there: no switch of ours is asked."""

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from nodeagent.capture.base import Way

MODPROBE = Path("/etc/modprobe.d/missing.conf")
BPF = "bpf"
NEEDS = {
    Way.EBPF: BPF,
    Way.NFTABLES: "nft_tproxy",
    Way.REDIRECT: "nf_tables",
    Way.IPTABLES: "ip_tables",
}
"""Of each way what no lower one needs: the system call, or a module of the kernel."""

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_NR_BPF = 321
_LOAD_NUMBER, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _DENY = 0x7FFF0000, 0x00050000 | 1  # EPERM


def without(ways: Sequence[Way]) -> list[str]:
    """Makes these impossible from now on, others possible; returns the words to put before a command that must not have them either."""
    taken = [NEEDS[way] for way in ways]
    lines = [f"install {module} /bin/false\n" for module in taken if module != BPF]
    MODPROBE.write_text("".join(lines))
    return [sys.executable, "-m", "tests.kernels.guest.missing"] if BPF in taken else []


def main() -> None:
    """Becomes the program in its arguments, for which bpf(2) is not permitted: as a container runtime's or a unit's filter has it."""
    program = struct.pack("=HBBI", _LOAD_NUMBER, 0, 0, 0)
    program += struct.pack("=HBBI", _JUMP_IF_EQUAL, 0, 1, _NR_BPF)
    program += struct.pack("=HBBI", _RETURN, 0, 0, _DENY) + struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW)
    instructions = ctypes.create_string_buffer(program)
    header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - becoming another program is what this is for


if __name__ == "__main__":
    main()
