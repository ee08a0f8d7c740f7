//! Certificates, good and bad, and configurations made of them.

use std::sync::Arc;

use hbone_tls::{ClientConfig, Credentials, Dial, Identity, ServerConfig, TimeProvider, Trust, TrustStore};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

/// In January 2027.
pub const NOW_S: u64 = 1_800_000_000;
pub const DAY_S: u64 = 86_400;

#[derive(Debug)]
pub struct FixedClock;

impl TimeProvider for FixedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S)))
    }
}

pub fn at(unix_s: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix_s as i64).unwrap()
}

pub fn id(service_account: &str) -> Identity {
    Identity::parse(&uri(service_account)).unwrap()
}

pub fn uri(service_account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{service_account}")
}

pub fn uri_name(uri: &str) -> SanType {
    SanType::URI(Ia5String::try_from(uri).unwrap())
}

/// What a controller would issue.
pub fn svid(uri: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri_name(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.not_before = at(NOW_S - 10 * 365 * DAY_S);
    params.not_after = at(NOW_S + 10 * 365 * DAY_S);
    params
}

pub fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(NOW_S - 10 * 365 * DAY_S);
    params.not_after = at(NOW_S + 10 * 365 * DAY_S);
    params
}

/// A certificate with its key; may have signed others.
pub struct Issued {
    pub der: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Issued {
    pub fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self::new(certificate, params, key)
    }

    pub fn issue(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self::new(certificate, params, key)
    }

    fn new(certificate: rcgen::Certificate, params: CertificateParams, key: KeyPair) -> Self {
        let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
        Self { der: certificate.der().clone(), pem, key_pem, issuer: Issuer::new(params, key) }
    }
}

/// A mesh: its root, and the trust in it.
pub struct Mesh {
    pub root: Issued,
    pub trust: Trust,
}

impl Mesh {
    pub fn new() -> Self {
        let root = Issued::root(authority("root of cluster.local"));
        let trust = Trust::new(store(&root));
        Self { root, trust }
    }

    pub fn credentials(&self, service_account: &str) -> Credentials {
        let issued = self.root.issue(svid(&uri(service_account)));
        Credentials::from_pem(&id(service_account), &issued.pem, &issued.key_pem).unwrap()
    }

    pub fn server(&self, service_account: &str) -> ServerConfig {
        ServerConfig::new(&self.credentials(service_account), &self.trust, Arc::new(FixedClock)).unwrap()
    }

    pub fn client(&self, service_account: &str) -> ClientConfig {
        ClientConfig::new(&self.credentials(service_account), &self.trust, Arc::new(FixedClock)).unwrap()
    }

    pub fn dial(&self, service_account: &str, expected: &[&str]) -> Dial {
        self.client(service_account).expecting(expected.iter().map(|name| id(name)).collect())
    }
}

/// Trust in one root for cluster.local.
pub fn store(root: &Issued) -> TrustStore {
    TrustStore::new([("cluster.local", &root.pem)], []).0
}
