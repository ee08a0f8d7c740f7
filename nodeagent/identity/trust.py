"""Which roots are trusted and what is revoked: the bundles of the controller, or for a controller that sends none, files and chains."""

import logging
from collections.abc import Callable, Iterable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshapi.trust import Revocation, TrustBundle
from nodeagent.identity.certificate import UNREADABLE, is_root

log = logging.getLogger(__name__)

OnTrust = Callable[[Mapping[str, str], tuple[Revocation, ...]], None]
"""Gets the roots of each trust domain (PEM) and all revocations: the whole, each time."""


class Trust:
    """What is trusted now. A bundle of the own trust domain replaces the file's roots; without one they hold, with those of the chains."""

    def __init__(self, trust_domain: str, file_roots: Iterable[x509.Certificate]) -> None:
        self._trust_domain = trust_domain
        self._file_roots = tuple(file_roots)
        self._chain_roots: tuple[x509.Certificate, ...] = ()
        self._bundles: dict[str, tuple[x509.Certificate, ...]] = {}
        self._revocations: dict[str, tuple[Revocation, ...]] = {}
        self._listeners: list[OnTrust] = []

    def watch(self, on_trust: OnTrust) -> None:
        """Calls `on_trust` now and after each change."""
        self._listeners.append(on_trust)
        on_trust(self.roots_pem(), self.revocations)

    def apply(self, bundle: TrustBundle) -> None:
        """Takes a bundle as the whole truth of its trust domain; a root in it that can't be read is trusted by nobody."""
        roots = tuple(root for der in bundle.roots if (root := _read(der, bundle.trust_domain)) is not None)
        if (self._bundles.get(bundle.trust_domain), self._revocations.get(bundle.trust_domain)) != (roots, bundle.revocations):
            self._bundles[bundle.trust_domain] = roots
            self._revocations[bundle.trust_domain] = bundle.revocations
            self._tell()

    def forget(self, trust_domain: str) -> None:
        """The controller has no bundle of this trust domain any more."""
        if trust_domain in self._bundles:
            del self._bundles[trust_domain], self._revocations[trust_domain]
            self._tell()

    def add_chain_root(self, chain: Iterable[x509.Certificate]) -> None:
        """Takes the roots at the end of a chain that the authenticated controller sent, in place of those of the chain before.

        A chain ends in all that the controller trusts: what it has given up is trusted no more. Without effect once it sends bundles.
        """
        if self._trust_domain in self._bundles:
            return
        found = [root for root in chain if is_root(root)]
        roots = tuple(root for root in dict.fromkeys(found) if root not in self._file_roots)
        if found and roots != self._chain_roots:
            self._chain_roots = roots
            self._tell()

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The roots of the own trust domain."""
        bundle = self._bundles.get(self._trust_domain)
        return (*self._file_roots, *self._chain_roots) if bundle is None else bundle

    @property
    def controller_roots_pem(self) -> bytes:
        """What the controller's own certificate may chain to: the operator's file always counts, so that no bundle locks the agent out."""
        return "".join(_pem(root) for root in dict.fromkeys((*self._file_roots, *self.roots))).encode()

    @property
    def revocations(self) -> tuple[Revocation, ...]:
        return tuple(entry for entries in self._revocations.values() for entry in entries)

    def roots_pem(self) -> dict[str, str]:
        """By trust domain."""
        domains = {**self._bundles, self._trust_domain: self.roots}
        return {domain: "".join(_pem(root) for root in roots) for domain, roots in domains.items()}

    def is_revoked(self, identity: str, not_before_s: float) -> bool:
        """Whether peers refuse a certificate of `identity` that begins then."""
        return any(entry.identity == identity and not_before_s < entry.issued_before_s for entry in self.revocations)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self.roots_pem(), self.revocations)


def _read(der: bytes, trust_domain: str) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        log.error("a root of trust domain %s can't be read and is not trusted: %s", trust_domain, error)  # noqa: TRY400 - it says it all
        return None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")
