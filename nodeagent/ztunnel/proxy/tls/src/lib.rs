//! The TLS of HBONE: who a peer is, and records in and out, without I/O.
//!
//! Mutual TLS 1.3 with ALPN `h2` between SPIFFE identities. rustls does the handshake; once it is complete the keys move to this
//! crate's record layer ([`Engine`]), which decrypts in the caller's read buffer and seals in the caller's write buffer.
//!
//! - [`Identity`]: a parsed SPIFFE id.
//! - [`TrustStore`], [`Trust`]: the roots of each trust domain and what is revoked; the handle that all configurations read.
//! - [`Credentials`]: the certificate and key of one identity.
//! - [`ServerConfig`], [`ClientConfig`], [`Dial`]: made once per certificate generation, a [`Dial`] once per set of expected identities.
//! - [`Engine`]: one connection.
//! - [`PeerCertificate`]: the verified peer of a connection; [`Trust::still_valid`] verifies it again.

#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as hbone_tls;

mod alert;
mod config;
mod credentials;
mod engine;
mod error;
mod handshake;
mod identity;
mod leaf;
mod open;
mod peer;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../tests/tls/pki.rs"]
mod pki;
mod post_handshake;
mod record;
mod trust;
mod verifier;

pub use config::{ClientConfig, Dial, ServerConfig};
pub use credentials::{Credentials, CredentialsError};
pub use engine::{Engine, State};
pub use error::{Class, Stage, TlsError};
pub use identity::{Identity, IdentityError};
pub use peer::{PeerCertificate, PeerRefused, Role};
pub use record::{MAX_PLAINTEXT_BYTES, RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES};
pub use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
pub use trust::{Trust, TrustStore, TrustStoreError};
