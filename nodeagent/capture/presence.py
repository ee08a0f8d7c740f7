"""Whether the agent is there to answer a workload's questions to DNS, as the rules of its namespace note it: see `questions`, `chains`.

Rules by nft have a set for it; those by iptables a list of the kernel's (xt_recent), which belongs to the namespace, too.
"""

from contextlib import suppress
from pathlib import Path

from nodeagent.capture import questions
from nodeagent.capture.chains import RECENT
from nodeagent.capture.unit_rules import table_of
from nodeagent.linux import netlink, nftables
from nodeagent.linux.namespaces import Namespace
from nodeagent.linux.units import Unit


def say_away(namespace: Namespace) -> None:
    """Questions go to the workload's own resolvers from now on, for a minute at least. Blocks; raises OSError."""
    if isinstance(namespace, Unit):
        namespace.run(nftables.transact, questions.away(table_of(namespace.id)))
    else:
        namespace.run(_say_away)


def say_here(namespace: Namespace) -> None:
    """Questions come to the agent. Blocks; raises OSError."""
    if isinstance(namespace, Unit):
        namespace.run(nftables.transact, questions.present(table_of(namespace.id)))
    else:
        namespace.run(_say_here)


def _say_away() -> None:
    if (listed := _list()) is not None:
        for address in netlink.addresses():
            listed.write_text(f"+{address}\n")
    else:
        nftables.transact(questions.away())


def _say_here() -> None:
    if (listed := _list()) is not None:
        listed.write_text("/\n")
    else:
        nftables.transact(questions.present())


def _list() -> Path | None:
    """Where rules by iptables have noted it, if they do."""
    with suppress(OSError):
        path = Path("/proc/thread-self/net/xt_recent") / RECENT
        return path if path.exists() else None
    return None
