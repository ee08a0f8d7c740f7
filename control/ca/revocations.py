"""Which certificates are no longer good: per identity, all that were issued before a moment."""

from collections.abc import Callable, Iterable
from pathlib import Path

from control.ca.records import RecordFile
from meshapi.spiffe import AgentIdentity, IdentityError, WorkloadIdentity
from meshapi.trust import Revocation

Identity = WorkloadIdentity | AgentIdentity


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
        self._replace({**self._before_s, name: record.issued_before_s})
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
