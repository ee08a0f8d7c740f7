//! A peer: what is known of one that was verified, and why one was refused.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use crate::identity::{Identity, IdentityError};

/// The side that the peer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It dialled us.
    Client,
    /// We dialled it.
    Server,
}

/// Why a peer's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRefused {
    /// Not a canonical X.509 v3 certificate.
    Malformed,
    /// A critical extension that is not understood here.
    CriticalExtension,
    /// A certificate that may sign others never authenticates.
    LeafIsAuthority,
    /// A certificate signed another and may not.
    NotAuthority,
    /// Key usage is missing, lacks digitalSignature, or lets it sign certificates.
    KeyUsage,
    /// Not exactly one name, or not a URI.
    Names,
    /// The URI is no identity of a workload.
    Identity(IdentityError),
    /// No roots are known for the trust domain.
    UnknownTrustDomain(Identity),
    /// The chain does not verify.
    Chain(Identity, String),
    /// Issued before the time from which certificates of this identity are accepted.
    Revoked(Identity),
    /// Someone else than was dialled.
    Unexpected(Identity, Arc<[Identity]>),
}

impl fmt::Display for PeerRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the peer's certificate is not canonical X.509 version 3"),
            Self::CriticalExtension => f.write_str("the peer's certificate has a critical extension that is not understood"),
            Self::LeafIsAuthority => f.write_str("the peer's certificate is one of an authority"),
            Self::NotAuthority => f.write_str("a certificate in the peer's chain may not sign others"),
            Self::KeyUsage => f.write_str("the key usage of the peer's certificate is not digitalSignature alone among signing uses"),
            Self::Names => f.write_str("the peer's certificate has not exactly one name, a SPIFFE id"),
            Self::Identity(error) => write!(f, "the peer's certificate: {error}"),
            Self::UnknownTrustDomain(peer) => write!(f, "no roots for the trust domain of {peer}"),
            Self::Chain(peer, reason) => write!(f, "the certificate of {peer}: {reason}"),
            Self::Revoked(peer) => write!(f, "the certificate of {peer} is revoked"),
            Self::Unexpected(peer, expected) => write!(f, "the peer is {peer}, expected was one of {expected:?}"),
        }
    }
}

impl std::error::Error for PeerRefused {}

/// The verified certificate of a peer.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub(crate) identity: Identity,
    pub(crate) role: Role,
    /// Leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) not_after_s: u64,
    pub(crate) trust_generation: u64,
}

impl PeerCertificate {
    /// Who the peer is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The Unix second after which the leaf, and so the connection, is no longer valid.
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// The generation of [`Trust`] under which it was verified, or an earlier one.
    pub fn trust_generation(&self) -> u64 {
        self.trust_generation
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCertificate")
            .field("identity", &self.identity)
            .field("role", &self.role)
            .field("certificates", &self.chain.len())
            .field("not_after_s", &self.not_after_s)
            .finish_non_exhaustive()
    }
}
