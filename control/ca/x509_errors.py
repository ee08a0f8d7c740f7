"""What reading a certificate or a request may raise: the library has no common error, and reads lazily, so also on access."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
NOT_ISSUED = (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm)
"""What `verify_directly_issued_by` raises for a certificate that another did not sign."""
