"""An intermediate of this controller's own below the authority that an operator gave, if that one's certificate allows any.

It lives in memory only: each start makes another, and nothing but this process can sign with it. So what one controller has signed can be
told from what another has, and a given key is used once for each start and renewal, not for each workload.
"""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from control.ca.issuer import Issuer, IssuerError, issued
from control.ca.own_root import BACKDATE, INTERMEDIATE_LIFETIME, RENEW_INTERMEDIATE_BEFORE, SIGNING_USAGE
from control.ca.x509_errors import NOT_ISSUED, UNREADABLE


def why_none_below(given: Issuer) -> str:
    """What keeps an authority from having another one below it, in words; empty if nothing does."""
    for depth, certificate in enumerate(_path(given), start=1):
        name = certificate.subject.rfc4514_string() or "(no subject)"
        try:
            allowed = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
            limits = any(one.oid == x509.NameConstraints.oid for one in certificate.extensions)
        except UNREADABLE as error:
            return f"{name}: {error}"
        if allowed is not None and allowed < depth:
            return f"the path length of {name} is {allowed}"
        if limits:
            # They hold for the names of authorities, too, and not every verifier reads them alike.
            return f"{name} constrains names"
    return ""


def issuer_below(given: Issuer, trust_domain: str, now_s: float) -> Issuer:
    """A new key with a certificate that the given one signs. Raises IssuerError."""
    now = datetime.fromtimestamp(now_s, UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    above = given.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"nodemesh issuer of {trust_domain}"[:64])]))
        .issuer_name(given.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATE, given.certificate.not_valid_before_utc))
        .not_valid_after(min(now + INTERMEDIATE_LIFETIME, *(one.not_valid_after_utc for one in _path(given))))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(SIGNING_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), critical=False)
        .sign(given.key, hashes.SHA256())
    )
    try:
        certificate.verify_directly_issued_by(given.certificate)
    except NOT_ISSUED as error:
        raise IssuerError(f"the given authority signs nothing that verifies: {error}") from error
    return Issuer(key=key, certificate=certificate, intermediates=(certificate, *given.intermediates), roots=given.roots)


def should_renew(own: Issuer, given: Issuer, now_s: float) -> bool:
    """Whether it nears its end, and another one would last longer."""
    end = own.certificate.not_valid_after_utc
    near = end.timestamp() - now_s <= RENEW_INTERMEDIATE_BEFORE.total_seconds()
    return near and end < min(one.not_valid_after_utc for one in _path(given))


def _path(given: Issuer) -> tuple[x509.Certificate, ...]:
    """From the signing certificate up to its root."""
    if not given.intermediates:
        return (given.certificate,)
    top = given.intermediates[-1]
    return (*given.intermediates, next(root for root in given.roots if issued(root, top)))
