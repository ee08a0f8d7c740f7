"""A clock that the test owns, an authority in memory and a store in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.identity.authority import AuthorityError
from nodeagent.identity.clock import Clock
from nodeagent.identity.store import StoredIdentity
from tests.nodeagent.identity.pki import DAY_S, Authority, Leaf, authority

Answer = Callable[[str, ec.EllipticCurvePublicKey], tuple[bytes, ...]]
START_S = 1_800_000_000.0


@dataclass
class Time:
    """Wall and monotonic time, moved by hand."""

    wall_s: float = START_S
    now_s: float = 1000.0

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_s, lambda: self.now_s)

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.now_s += seconds


@dataclass
class FakeAuthority:
    """Signs at once, or what `answer` says; `gate` holds requests back; `error` refuses them."""

    time: Time
    root: Authority = field(default_factory=lambda: authority("root", START_S))
    error: str | None = None
    gate: asyncio.Event | None = None
    answer: Answer | None = None
    asked: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0

    async def sign(self, request_pem: str, *, on_behalf_of: str | None = None) -> tuple[str, ...]:
        request = x509.load_pem_x509_csr(request_pem.encode())
        [name] = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert isinstance(name, x509.UniformResourceIdentifier)
        assert on_behalf_of in {None, name.value}
        self.asked.append(name.value)
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.busy -= 1
        if self.error is not None:
            raise AuthorityError(self.error)
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        chain = self.answer(name.value, key) if self.answer is not None else (self.leaf(name.value, key), self.root.pem)
        return tuple(part.decode() for part in chain)

    def leaf(self, identity: str, key: ec.EllipticCurvePublicKey) -> bytes:
        return self.root.sign(key, svid(identity, self.time.wall_s))


def svid(identity: str, now_s: float) -> Leaf:
    """A day's certificate, back-dated by a minute."""
    return Leaf((x509.UniformResourceIdentifier(identity),), now_s - 60, now_s - 60 + DAY_S)


@dataclass
class FakeStore:
    records: dict[str, StoredIdentity] = field(default_factory=dict)
    error: OSError | None = None

    def load(self) -> list[StoredIdentity]:
        return list(self.records.values())

    def save(self, record: StoredIdentity) -> None:
        if self.error is not None:
            raise self.error
        self.records[record.identity] = record

    def forget(self, identity: str) -> None:
        self.records.pop(identity, None)
