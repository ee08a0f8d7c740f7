//! What a handshake starts from: made once per certificate generation, shared by its connections, never built per connection.

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;

use crate::credentials::{Credentials, CredentialsError};
use crate::identity::Identity;
use crate::trust::Trust;
use crate::verifier::{OneCertificate, PeerVerifier};

pub(crate) const ALPN: &[u8] = b"h2";

/// AES-128-GCM first (AES-256 costs up to a fifth more), X25519 first, P-256 for peers that are restricted to NIST curves.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    })
});

pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

fn library(error: rustls::Error) -> CredentialsError {
    CredentialsError::Configuration(error.to_string())
}

/// Accepts connections as one identity. Cheap to clone.
#[derive(Clone)]
pub struct ServerConfig {
    pub(crate) inner: Arc<rustls::ServerConfig>,
    pub(crate) trust: Trust,
    identity: Identity,
}

impl ServerConfig {
    /// One per certificate generation. `clock` says when now is for the validity of certificates.
    pub fn new(credentials: &Credentials, trust: &Trust, clock: Arc<dyn TimeProvider>) -> Result<Self, CredentialsError> {
        let verifier =
            PeerVerifier { trust: trust.clone(), algorithms: provider().signature_verification_algorithms, expected: Arc::new([]) };
        let mut inner = rustls::ServerConfig::builder_with_details(provider().clone(), clock)
            .with_protocol_versions(&[&TLS13])
            .map_err(library)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OneCertificate(credentials.certified.clone())));
        inner.alpn_protocols = vec![ALPN.to_vec()];
        inner.ignore_client_order = true;
        inner.session_storage = Arc::new(NoServerSessionStorage {});
        inner.send_tls13_tickets = 0;
        inner.max_early_data_size = 0;
        inner.enable_secret_extraction = true;
        Ok(Self { inner: Arc::new(inner), trust: trust.clone(), identity: credentials.identity().clone() })
    }

    /// Who accepts.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Dials as one identity; [`ClientConfig::expecting`] says whom. Cheap to clone.
#[derive(Clone)]
pub struct ClientConfig {
    inner: Arc<rustls::ClientConfig>,
    trust: Trust,
    identity: Identity,
}

impl ClientConfig {
    /// One per certificate generation. `clock` says when now is for the validity of certificates. Expects nobody yet.
    pub fn new(credentials: &Credentials, trust: &Trust, clock: Arc<dyn TimeProvider>) -> Result<Self, CredentialsError> {
        let mut inner = rustls::ClientConfig::builder_with_details(provider().clone(), clock)
            .with_protocol_versions(&[&TLS13])
            .map_err(library)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier_expecting(trust, Arc::new([]))))
            .with_client_cert_resolver(Arc::new(OneCertificate(credentials.certified.clone())));
        inner.alpn_protocols = vec![ALPN.to_vec()];
        inner.enable_sni = false;
        inner.resumption = Resumption::disabled();
        inner.enable_early_data = false;
        inner.enable_secret_extraction = true;
        Ok(Self { inner: Arc::new(inner), trust: trust.clone(), identity: credentials.identity().clone() })
    }

    /// Who dials.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A configuration that accepts as server only one of `expected`. A copy of pointers; kept beside the pool's key.
    pub fn expecting(&self, expected: Arc<[Identity]>) -> Dial {
        let mut inner = rustls::ClientConfig::clone(&self.inner);
        inner.dangerous().set_certificate_verifier(Arc::new(verifier_expecting(&self.trust, expected)));
        Dial { inner: Arc::new(inner), trust: self.trust.clone() }
    }
}

/// Dials as one identity and accepts as server only who is expected. Cheap to clone.
#[derive(Clone)]
pub struct Dial {
    pub(crate) inner: Arc<rustls::ClientConfig>,
    pub(crate) trust: Trust,
}

fn verifier_expecting(trust: &Trust, expected: Arc<[Identity]>) -> PeerVerifier {
    PeerVerifier { trust: trust.clone(), algorithms: provider().signature_verification_algorithms, expected }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").finish_non_exhaustive()
    }
}
