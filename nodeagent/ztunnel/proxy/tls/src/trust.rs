//! Whom we believe: the roots of each trust domain, what is revoked, and the verification of a peer's certificate against them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::config::provider;
use crate::identity::{Identity, is_trust_domain};
use crate::leaf::{Validity, read_authority, read_leaf};
use crate::peer::{PeerCertificate, PeerRefused, Role};

/// The roots of one trust domain. `validity[i]` is that of `anchors[i]`: webpki looks at no root's validity.
#[derive(Default)]
struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    validity: Vec<Validity>,
}

impl Roots {
    fn holds(&self, anchor: &TrustAnchor<'_>, now_s: u64) -> bool {
        self.anchors.iter().zip(&self.validity).any(|(root, validity)| root == anchor && validity.holds(now_s))
    }
}

/// The roots of each trust domain and what is revoked. Immutable.
pub struct TrustStore {
    roots: HashMap<String, Roots>,
    issued_before_s: HashMap<Identity, u64>,
}

/// Roots that cannot be used, and so are trusted by nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustStoreError {
    /// Which.
    pub trust_domain: String,
    /// Why, in words.
    pub reason: String,
}

impl fmt::Display for TrustStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "roots of {:?}: {}", self.trust_domain, self.reason)
    }
}

impl std::error::Error for TrustStoreError {}

impl TrustStore {
    /// `roots` are (trust domain, PEM of its certificates, may be empty); `revoked` are (identity, issued before, in Unix seconds).
    ///
    /// What cannot be used is left out and named beside the store: to keep the store before it instead would keep in force what
    /// this one withdraws.
    pub fn new<D: AsRef<str>, P: AsRef<str>>(
        roots: impl IntoIterator<Item = (D, P)>,
        revoked: impl IntoIterator<Item = (Identity, u64)>,
    ) -> (Self, Vec<TrustStoreError>) {
        let mut store = Self { roots: HashMap::new(), issued_before_s: HashMap::new() };
        let mut unusable = Vec::new();
        for (trust_domain, pem) in roots {
            let trust_domain = trust_domain.as_ref();
            let refuse = |reason| TrustStoreError { trust_domain: trust_domain.to_owned(), reason };
            if !is_trust_domain(trust_domain) {
                unusable.push(refuse("this is no name of a trust domain".to_owned()));
                continue;
            }
            let (parsed, reasons) = parse_roots(pem.as_ref());
            unusable.extend(reasons.into_iter().map(refuse));
            if !parsed.anchors.is_empty() {
                store.roots.insert(trust_domain.to_owned(), parsed);
            }
        }
        for (identity, before_s) in revoked {
            let latest = store.issued_before_s.entry(identity).or_default();
            *latest = before_s.max(*latest);
        }
        (store, unusable)
    }

    /// Verifies a chain (leaf first) and returns who the leaf is and until when (Unix seconds) it is valid.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now_s: u64,
    ) -> Result<(Identity, u64), PeerRefused> {
        let read = read_leaf(leaf)?;
        let identity = read.identity;
        let roots = self.roots.get(identity.trust_domain()).ok_or_else(|| PeerRefused::UnknownTrustDomain(identity.clone()))?;
        verify_chain(leaf, intermediates, roots, role, now_s).map_err(|error| PeerRefused::Chain(identity.clone(), in_words(&error)))?;
        if self.issued_before_s.get(&identity).is_some_and(|&before_s| read.validity.not_before_s < before_s) {
            return Err(PeerRefused::Revoked(identity));
        }
        Ok((identity, read.validity.not_after_s))
    }
}

impl fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustStore").field("trust_domains", &self.roots.keys()).field("revoked", &self.issued_before_s.len()).finish()
    }
}

/// The certificates that can be used, and why the others cannot.
fn parse_roots(pem: &str) -> (Roots, Vec<String>) {
    let (mut roots, mut reasons) = (Roots::default(), Vec::new());
    for (index, der) in CertificateDer::pem_slice_iter(pem.as_bytes()).enumerate() {
        let Ok(der) = der else {
            // Where the next one would begin is not known.
            reasons.push(format!("certificate {index} and what follows cannot be read"));
            return (roots, reasons);
        };
        match parse_root(&der) {
            Ok((anchor, validity)) => {
                roots.anchors.push(anchor);
                roots.validity.push(validity);
            }
            Err(reason) => reasons.push(format!("certificate {index}: {reason}")),
        }
    }
    if roots.anchors.is_empty() && reasons.is_empty() && !pem.trim().is_empty() {
        reasons.push("this holds no certificate".to_owned());
    }
    (roots, reasons)
}

fn parse_root(der: &CertificateDer<'_>) -> Result<(TrustAnchor<'static>, Validity), String> {
    let validity = read_authority(der).map_err(|_| "not one of an authority".to_owned())?;
    let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| error.to_string())?;
    Ok((anchor.to_owned(), validity))
}

fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    role: Role,
    now_s: u64,
) -> Result<(), webpki::Error> {
    let certificate = EndEntityCert::try_from(leaf)?;
    let usage = match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    // What webpki leaves out: the key usage of issuers, and when a root holds.
    let may_sign = |path: &VerifiedPath<'_>| {
        if !roots.holds(path.anchor(), now_s) {
            return Err(webpki::Error::UnknownIssuer);
        }
        let mut issuers = path.intermediate_certificates();
        if issuers.any(|issuer| read_authority(&issuer.der()).is_err()) { Err(webpki::Error::EndEntityUsedAsCa) } else { Ok(()) }
    };
    let algorithms = provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s));
    certificate.verify_for_usage(algorithms, &roots.anchors, intermediates, now, usage, None, Some(&may_sign)).map(|_| ())
}

/// What an operator can act on, in words.
fn in_words(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { time, not_after } => format!("expired {} s ago", time.as_secs() - not_after.as_secs()),
        webpki::Error::CertNotValidYet { time, not_before } => {
            format!("not valid for another {} s (do the clocks agree?)", not_before.as_secs() - time.as_secs())
        }
        webpki::Error::UnknownIssuer => "no valid root of its trust domain signed it".to_owned(),
        webpki::Error::InvalidSignatureForPublicKey => "a signature in its chain is wrong".to_owned(),
        webpki::Error::EndEntityUsedAsCa => "signed by a certificate that may not sign".to_owned(),
        webpki::Error::RequiredEkuNotFoundContext(_) => "its extended key usage does not fit the side that it is on".to_owned(),
        other => format!("its chain does not verify: {other}"),
    }
}

/// The trust in force: one handle that every configuration reads at each handshake, so that a change is seen at once.
#[derive(Clone)]
pub struct Trust {
    current: Arc<RwLock<(u64, Arc<TrustStore>)>>,
}

impl Trust {
    /// A handle that holds `store`, at generation 1.
    pub fn new(store: TrustStore) -> Self {
        Self { current: Arc::new(RwLock::new((1, Arc::new(store)))) }
    }

    /// Puts `store` in force and returns the new generation.
    ///
    /// The caller then asks [`Trust::still_valid`] about every open connection, and about a connection that became ready
    /// meanwhile: once it is registered, if its [`PeerCertificate::trust_generation`] is not [`Trust::generation`].
    pub fn replace(&self, store: TrustStore) -> u64 {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, Arc::new(store));
        current.0
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.snapshot().0
    }

    /// Verifies the peer of an open connection again, at `now_s` (Unix seconds).
    pub fn still_valid(&self, peer: &PeerCertificate, now_s: u64) -> Result<(), PeerRefused> {
        let (leaf, intermediates) = peer.chain.split_first().ok_or(PeerRefused::Malformed)?;
        self.snapshot().1.verify(leaf, intermediates, peer.role, now_s).map(|_| ())
    }

    pub(crate) fn snapshot(&self) -> (u64, Arc<TrustStore>) {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (generation, store) = self.snapshot();
        f.debug_struct("Trust").field("generation", &generation).field("store", &store).finish()
    }
}
