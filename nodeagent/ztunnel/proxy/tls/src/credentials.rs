//! The certificate and key of one identity: what does not fit together exactly is refused before it is ever shown to a peer.

use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroize;

use crate::identity::Identity;
use crate::leaf::{is_self_issued, read_leaf};
use crate::peer::PeerRefused;

/// A certificate chain and its key. `Debug` shows the identity alone.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    not_after_s: u64,
    pub(crate) certified: Arc<CertifiedKey>,
}

/// Credentials that cannot be used. Never quotes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsError {
    /// The PEM of the chain cannot be read.
    Chain(String),
    /// The leaf is not one of a workload.
    Leaf(PeerRefused),
    /// The leaf is of someone else.
    OtherIdentity(Identity),
    /// The key cannot be read, or is not ECDSA P-256.
    Key,
    /// The key is not that of the leaf.
    KeyMismatch,
    /// The library refused to make a configuration of it.
    Configuration(String),
}

impl fmt::Display for CredentialsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(reason) => write!(f, "the certificate chain cannot be read: {reason}"),
            Self::Leaf(reason) => write!(f, "our certificate would be refused by a peer: {reason}"),
            Self::OtherIdentity(identity) => write!(f, "the certificate is that of {identity}"),
            Self::Key => f.write_str("the private key cannot be read or is not ECDSA P-256"),
            Self::KeyMismatch => f.write_str("the private key is not that of the certificate"),
            Self::Configuration(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for CredentialsError {}

impl Credentials {
    /// Reads the PEM of a chain (leaf first; roots at its end are not sent) and of its key, which must be those of `identity`.
    ///
    /// The caller wipes `key_pem`; every copy made here is wiped, or owned by the cryptographic library, which wipes its own.
    pub fn from_pem(identity: &Identity, chain_pem: &str, key_pem: &str) -> Result<Self, CredentialsError> {
        let mut chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| CredentialsError::Chain(error.to_string()))?;
        let first = chain.first().ok_or_else(|| CredentialsError::Chain("it holds no certificate".to_owned()))?;
        let leaf = read_leaf(first).map_err(CredentialsError::Leaf)?;
        if leaf.identity != *identity {
            return Err(CredentialsError::OtherIdentity(leaf.identity));
        }
        while chain.len() > 1 && is_self_issued(&chain[chain.len() - 1]).map_err(CredentialsError::Leaf)? {
            chain.pop();
        }
        let certified = CertifiedKey::new(chain, read_key(key_pem)?);
        certified.keys_match().map_err(|_| CredentialsError::KeyMismatch)?;
        Ok(Self { identity: leaf.identity, not_after_s: leaf.validity.not_after_s, certified: Arc::new(certified) })
    }

    /// Whose they are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last Unix second at which a peer will accept them.
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }
}

fn read_key(key_pem: &str) -> Result<Arc<dyn rustls::sign::SigningKey>, CredentialsError> {
    let mut der = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| CredentialsError::Key)?;
    let key = any_ecdsa_type(&der).map_err(|_| CredentialsError::Key);
    der.zeroize();
    let key = key?;
    key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).ok_or(CredentialsError::Key)?;
    Ok(key)
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}
