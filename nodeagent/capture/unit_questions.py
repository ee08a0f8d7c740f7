"""Whether a process group's questions to DNS can be brought to the agent, and by what: how nft names its cgroup, where its host asks."""

import re
from functools import cache
from pathlib import Path
from typing import Final

from nodeagent.capture.terms import Terms
from nodeagent.capture.unit_rules import PORTS, Asking, script
from nodeagent.linux import cgroups, nftables
from nodeagent.linux.namespaces import run_in_empty
from nodeagent.linux.units import Unit

RESOLVERS: Final = Path("/etc/resolv.conf")
_NFT_ROOT: Final = Path("/sys/fs/cgroup")
"""From there on nft's library names cgroups."""
_NFT_PATH: Final = re.compile(r"[A-Za-z0-9@_.:/\\-]+")
"""What needs no other form in nft's words."""
_WHY_NOT: Final = "it asks its own resolvers"


def asking_of(unit: Unit, terms: Terms, resolvers: Path) -> tuple[Asking | None, str]:
    """What brings its questions to the agent; and if nothing does, though it should, why, in words. Blocks."""
    if not terms.dns:
        return None, ""
    path = Path(unit.path)
    if not path.is_relative_to(_NFT_ROOT) or not _NFT_PATH.fullmatch(unit.path) or cgroups.id_at(path) != unit.id:
        return None, f"{_WHY_NOT}: nftables can't name its cgroup"
    level = len(path.relative_to(cgroups.root()).parts)
    asking = Asking(str(path.relative_to(_NFT_ROOT)), level, resolves_at_loopback(resolvers))
    refused = _refusal(asking)
    return (None, f"{_WHY_NOT}: {refused}") if refused else (asking, "")


def resolves_at_loopback(resolvers: Path) -> bool:
    """Whether the host asks a resolver of its own, such as systemd's stub: what stands in its resolv.conf."""
    try:
        words = [line.split() for line in resolvers.read_text(errors="replace").splitlines()]
    except OSError:
        return False
    return any(len(one) > 1 and one[0] == "nameserver" and (one[1].startswith("127.") or one[1] == "::1") for one in words)


@cache
def _refusal(asking: Asking) -> str:
    """Why this kernel or this library does not take the rules for it; empty if they do."""
    try:
        run_in_empty(nftables.transact, script(0, PORTS.start, asking=asking))
    except OSError as error:
        return str(error)
    return ""
