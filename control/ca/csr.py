"""What a certificate request must be before its key is certified: a P-256 key that its sender holds, and the one name it is authorised for.

Istio's agents (ztunnel: empty subject, one extension, one URI) send exactly this. Nothing but the public key is taken from it.
"""

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from control.ca.refusal import MalformedError
from control.ca.x509_errors import UNREADABLE

MAX_CSR_BYTES = 16 * 1024


def check_csr(pem: str, identity: str) -> ec.EllipticCurvePublicKey:
    """Returns the public key of a request for `identity`; raises MalformedError with the check that failed."""
    if len(pem) > MAX_CSR_BYTES:
        raise MalformedError("csr-size", f"the request has {len(pem)} characters, more than {MAX_CSR_BYTES}")
    try:
        csr = x509.load_pem_x509_csr(pem.encode("ascii"))
        return _checked(csr, identity)
    # Parsing is lazy: a bad name or extension shows only when it is looked at.
    except UNREADABLE as error:
        raise MalformedError("csr-form", f"no certificate request: {str(error)[:200]}") from error


def _checked(csr: x509.CertificateSigningRequest, identity: str) -> ec.EllipticCurvePublicKey:
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise MalformedError("csr-key", "the key must be an elliptic curve key on P-256")
    if not csr.is_signature_valid:
        raise MalformedError("csr-signature", "the request is not signed with its own key")
    if any(attribute.value for attribute in csr.subject):
        raise MalformedError("csr-subject", "the subject must be empty")
    if any(attribute.oid != EXTENSION_REQUEST for attribute in csr.attributes):
        raise MalformedError("csr-attributes", "only requested extensions may stand in it")
    extensions = list(csr.extensions)
    if len(extensions) != 1 or not isinstance(extensions[0].value, x509.SubjectAlternativeName):
        raise MalformedError("csr-extensions", "must hold one extension, the subject alternative name")
    names = list(extensions[0].value)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise MalformedError("csr-names", f"must name one URI and nothing else, not {len(names)} names")
    if names[0].value != identity:
        raise MalformedError("csr-identity", "names another identity than the one it was authorised for")
    return key


EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
