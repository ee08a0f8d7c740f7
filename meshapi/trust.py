"""Which certificates are trusted, as immutable values, and their protobuf form."""

from google.protobuf.message import DecodeError
from msgspec import Struct

from meshapi.decoding import ModelError
from meshapi.proto import trust_pb2 as pb
from meshapi.spiffe import IdentityError, WorkloadIdentity, check_trust_domain


class Revocation(Struct, frozen=True, order=True):
    """Certificates of `identity` (`spiffe://…`) whose notBefore is earlier than `issued_before_s` (Unix seconds) are refused."""

    identity: str
    issued_before_s: int


class TrustBundle(Struct, frozen=True):
    """The roots (DER) of a trust domain and what is revoked in it."""

    trust_domain: str
    roots: tuple[bytes, ...]
    revocations: tuple[Revocation, ...] = ()


def encode_trust(bundle: TrustBundle) -> bytes:
    """Serializes a bundle, deterministically."""
    message = pb.TrustBundle(
        trust_domain=bundle.trust_domain,
        roots=bundle.roots,
        revocations=[pb.Revocation(identity=entry.identity, issued_before=entry.issued_before_s) for entry in bundle.revocations],
    )
    return message.SerializeToString(deterministic=True)


def decode_trust(body: bytes) -> TrustBundle:
    """Parses a bundle; raises ModelError. A bundle without roots is one (it trusts nobody)."""
    try:
        message = pb.TrustBundle.FromString(body)
        check_trust_domain(message.trust_domain)
        for entry in message.revocations:
            WorkloadIdentity.parse(entry.identity)
    except (DecodeError, IdentityError) as error:
        raise ModelError(f"no TrustBundle: {error}") from error
    return TrustBundle(
        trust_domain=message.trust_domain,
        roots=tuple(message.roots),
        revocations=tuple(Revocation(entry.identity, entry.issued_before) for entry in message.revocations),
    )
