"""The controller's own TLS certificate: issued by its own authority, in memory only, renewed at half its life or with the issuer."""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control.ca.authority import Authority, Clock
from control.ca.issuer import Issuer
from control.ca.leaf import sign_leaf, validity

TTL_S = 24 * 3600
HOSTNAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z")
DEFAULT_HOSTNAMES = ("istiod.istio-system.svc", "nodemesh-controller", "localhost", "127.0.0.1", "::1")


def names(hostnames: Sequence[str]) -> x509.SubjectAlternativeName:
    """DNS names and addresses, each once; raises ValueError for what is neither."""
    return x509.SubjectAlternativeName([_name(hostname) for hostname in dict.fromkeys(hostnames)])


def _name(hostname: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(hostname))
    except ValueError:
        if not HOSTNAME.match(hostname):
            raise ValueError(f"{hostname[:100]!r} is neither a DNS name nor an address") from None
        return x509.DNSName(hostname)


class ServerCertificate:
    """What a listener shows. It holds no URI, so it never passes for a workload or an agent."""

    def __init__(self, authority: Authority, hostnames: Sequence[str], clock: Clock) -> None:
        self._authority = authority
        self._names = names(hostnames)
        self._clock = clock
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = authority.issuer
        self._renew()

    @property
    def key_pem(self) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def chain_pem(self) -> bytes:
        """Leaf and intermediates."""
        return self._leaf.public_bytes(Encoding.PEM) + b"".join(self._issuer.intermediates_pem)

    @property
    def issuer(self) -> Issuer:
        return self._issuer

    def refresh(self) -> bool:
        """Renews it if the issuer changed or half its life is over; whether it did."""
        if self._issuer is self._authority.issuer and self._clock() < self._renew_at_s:
            return False
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._renew()
        return True

    def _renew(self) -> None:
        now_s = self._clock()
        self._issuer = self._authority.issuer
        when = validity(asked_s=0, max_ttl_s=TTL_S, revoked_before_s=0, issuer=self._issuer, now_s=now_s)
        self._leaf = sign_leaf(self._issuer, self._key.public_key(), self._names, when)
        self._renew_at_s = (now_s + when.not_after_s) / 2
