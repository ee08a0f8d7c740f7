"""Which certificates are no longer good: per identity, all that were issued before a moment.

Each machine that leaves is revoked, so these are forgotten when no certificate is left that they could be about. What is revoked of nodes
and workloads is an operator's word, and may be about tokens, or certificates of others who sign below the same root: it stays.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from control.ca.leaf import MAX_AGENT_TTL_S
from control.ca.records import RecordFile
from meshapi.spiffe import AgentIdentity, IdentityError, WorkloadIdentity
from meshapi.trust import Revocation
from meshapi.vm import parse_vm

Identity = WorkloadIdentity | AgentIdentity


_KEPT_S: Final = 2 * MAX_AGENT_TTL_S
"""Twice as long as the certificates live, so that a clock that was ahead for a while has nothing forgotten that still counts."""


def parse_identity(text: str) -> Identity:
    """Reads either form; raises IdentityError."""
    try:
        return AgentIdentity.parse(text)
    except IdentityError:
        return WorkloadIdentity.parse(text)


class Revocations:
    """The revocations in force, kept on disk."""

    def __init__(self, path: Path) -> None:
        self._file = RecordFile(path, Revocation)
        self._before_s: dict[str, int] = {record.identity: record.issued_before_s for record in self._file.load()}
        self._watchers: list[Callable[[], None]] = []

    def on_change(self, watcher: Callable[[], None]) -> None:
        self._watchers.append(watcher)

    def revoke(self, identity: Identity, now_s: float) -> Revocation:
        """Refuses every certificate of `identity` that was issued until now."""
        name = str(identity)
        # Strictly later than the last one: what was issued in the second of that one is refused now.
        record = Revocation(name, max(int(now_s), self._before_s.get(name, 0) + 1))
        needed = {one: before_s for one, before_s in self._before_s.items() if not _is_spent(one, before_s, now_s)}
        self._replace({**needed, name: record.issued_before_s})
        return record

    def undo(self, identity: str) -> bool:
        """Forgets the revocation of `identity`; whether there was one."""
        if identity not in self._before_s:
            return False
        self._replace({name: before_s for name, before_s in self._before_s.items() if name != identity})
        return True

    def before_s(self, identity: Identity) -> int:
        """Certificates of `identity` with an earlier notBefore are refused; 0 = none."""
        return self._before_s.get(str(identity), 0)

    def all(self) -> tuple[Revocation, ...]:
        return tuple(Revocation(name, before_s) for name, before_s in sorted(self._before_s.items()))

    def of_workloads(self) -> tuple[Revocation, ...]:
        """Those that agents and proxies must know: an agent's own identity is accepted by the controller alone."""
        return tuple(record for record in self.all() if isinstance(parse_identity(record.identity), WorkloadIdentity))

    def take(self, records: Iterable[Revocation]) -> None:
        """These are the revocations now, and no others."""
        self._replace({record.identity: record.issued_before_s for record in records})

    def _replace(self, before_s: dict[str, int]) -> None:
        self._file.store(tuple(Revocation(name, value) for name, value in sorted(before_s.items())))
        self._before_s = before_s
        for watcher in self._watchers:
            watcher()


def _is_spent(identity: str, before_s: int, now_s: float) -> bool:
    """Whether every certificate of a machine that it is about has expired."""
    parsed = parse_identity(identity)
    return isinstance(parsed, AgentIdentity) and parse_vm(parsed.node) is not None and before_s + _KEPT_S < now_s
