"""What a service of the bookshop tells of itself, by its own count, and how it is told to misbehave."""

from collections import Counter
from collections.abc import Iterable
from urllib.parse import urlencode

from msgspec import Struct, field


class Account(Struct):
    """Of one process since its start."""

    received: dict[str, int] = field(default_factory=dict)
    """Requests by the path that was served."""
    made: dict[str, dict[str, int]] = field(default_factory=dict)
    """Its own calls: by host, then by the answer's status ("0": none)."""

    @property
    def total(self) -> int:
        return sum(self.received.values())

    def receive(self, path: str) -> None:
        """Counts a request."""
        self.received[path] = self.received.get(path, 0) + 1

    def make(self, host: str, status: int) -> None:
        """Counts a call of its own."""
        answers = self.made.setdefault(host, {})
        answers[str(status)] = answers.get(str(status), 0) + 1


class Conduct(Struct, frozen=True):
    """How it answers: after `delay_s`; of every `of` requests the first `fail` with `status`."""

    delay_s: float = 0.0
    fail: int = 0
    of: int = 1
    status: int = 500

    def fails(self, number: int) -> bool:
        """Whether the request of this number (from 0) does."""
        return number % self.of < self.fail

    @property
    def query(self) -> str:
        """As the service's control socket takes it."""
        return urlencode({"delay_s": self.delay_s, "fail": self.fail, "of": self.of, "status": self.status})


def calls(accounts: Iterable[Account]) -> Counter[tuple[str, int]]:
    """What several have called, by host and status."""
    counted: Counter[tuple[str, int]] = Counter()
    for account in accounts:
        for host, answers in account.made.items():
            counted.update({(host, int(status)): count for status, count in answers.items()})
    return counted
