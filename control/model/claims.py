"""Who may have what only one can have: an address, or a resource's name. The claimant that ranks first has it, whatever came first."""

from collections.abc import Iterable
from typing import Final

from control.kinds import Kind, MeshObject, ObjectKey, Service

Claim = str
"""`address <network>/<ip>` or `<type> <name>`."""
Rank = tuple[int, bool, tuple[bool, str, str, str]]

# What the cluster itself assigns goes before what somebody states in a resource.
_TRUST: Final = {Kind.NODE: 0, Kind.SERVICE: 1, Kind.POD: 2, Kind.WORKLOAD_ENTRY: 3, Kind.SERVICE_ENTRY: 4}
_LAST: Final = 5


def rank(item: MeshObject) -> Rank:
    """Orders claimants: by kind, those that are going away last, then the oldest, then by name."""
    meta = item.metadata
    # An alias has a name and nothing else: whoever describes what is behind the name goes before it.
    trust = _LAST if isinstance(item, Service) and item.external else _TRUST.get(item.kind_of, _LAST)
    return trust, bool(meta.deletion_timestamp), meta.age_rank


class Claims:
    """All claims and their claimants."""

    def __init__(self) -> None:
        self._claimants: dict[Claim, dict[ObjectKey, Rank]] = {}
        self._of: dict[ObjectKey, frozenset[Claim]] = {}

    def put(self, key: ObjectKey, claims: Iterable[Claim], order: Rank) -> set[ObjectKey]:
        """Replaces the claims of an object; returns everyone who has a stake in what it claims or claimed."""
        before = self._of.pop(key, frozenset())
        after = frozenset(claims)
        rivals = {rival for claim in before for rival in self._claimants[claim]}
        for claim in before - after:
            del self._claimants[claim][key]
            if not self._claimants[claim]:
                del self._claimants[claim]
        for claim in after:
            self._claimants.setdefault(claim, {})[key] = order
            rivals.update(self._claimants[claim])
        if after:
            self._of[key] = after
        return rivals | {key}

    def holder(self, claim: Claim) -> ObjectKey | None:
        """Who has it; None if nobody claims it."""
        return self.winner(claim) if claim in self._claimants else None

    def winner(self, claim: Claim) -> ObjectKey:
        """Who has it, of those that claim it."""
        return min(self._claimants[claim].items(), key=lambda entry: (entry[1], entry[0]))[0]
