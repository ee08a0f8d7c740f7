//! SPIFFE ids: parsing refuses whatever is not exactly the form that workloads of a mesh carry.
//!
//! The same rules as `meshapi/spiffe.py`; `tests/corpus/spiffe.txt` holds both to the same verdicts.

use std::fmt;
use std::sync::Arc;

const MAX_ID_BYTES: usize = 2048;
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const SCHEME: &str = "spiffe://";

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    uri: Arc<str>,
    trust_domain_end: u16,
    namespace_end: u16,
}

/// A string that is no identity of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// Over 2048 bytes.
    TooLong,
    /// Does not begin with `spiffe://`.
    Scheme,
    /// Not 1 to 255 of `a-z 0-9 . _ -`.
    TrustDomain,
    /// A path segment that is empty, `.`, `..`, or has other characters than letters, digits, `.`, `_`, `-`.
    Segment,
    /// Not `/ns/<namespace>/sa/<service account>`.
    Form,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the SPIFFE id is longer than 2048 bytes",
            Self::Scheme => "the SPIFFE id does not begin with spiffe://",
            Self::TrustDomain => "the trust domain is not 1 to 255 of a-z 0-9 . _ -",
            Self::Segment => "a path segment of the SPIFFE id is empty, . or .., or has characters other than letters, digits, . _ -",
            Self::Form => "the SPIFFE id is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>",
        })
    }
}

impl std::error::Error for IdentityError {}

impl Identity {
    /// Reads the URI form.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        if text.len() > MAX_ID_BYTES {
            return Err(IdentityError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(IdentityError::Form)?;
        if !is_trust_domain(trust_domain) {
            return Err(IdentityError::TrustDomain);
        }
        if !path.split('/').all(is_segment) {
            return Err(IdentityError::Segment);
        }
        let mut segments = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(_), None) =
            (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(IdentityError::Form);
        };
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + "/ns/".len() + namespace.len();
        // Both are below MAX_ID_BYTES, so they fit.
        Ok(Self { uri: text.into(), trust_domain_end: trust_domain_end as u16, namespace_end: namespace_end as u16 })
    }

    /// The whole, as in certificates.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..usize::from(self.trust_domain_end)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[usize::from(self.trust_domain_end) + "/ns/".len()..usize::from(self.namespace_end)]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.uri[usize::from(self.namespace_end) + "/sa/".len()..]
    }
}

/// Whether `name` is a trust domain by the SPIFFE standard (section 2.1).
pub(crate) fn is_trust_domain(name: &str) -> bool {
    (1..=MAX_TRUST_DOMAIN_BYTES).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl std::str::FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
