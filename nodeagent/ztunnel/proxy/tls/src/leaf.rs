//! Reads certificates strictly: a leaf is a SPIFFE SVID of a workload or it is refused, an authority may sign or it is refused.
//!
//! Two readers see each certificate: webpki, which builds and verifies the chain but looks neither at key usage nor at other
//! kinds of names, and this one. "Verify one thing, use another" would need them to disagree about the same bytes, so a leaf
//! must be canonical DER (it encodes to the bytes it was decoded from), and the URI that this reader finds must be the one
//! that webpki finds.

use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName};

use crate::identity::Identity;
use crate::peer::PeerRefused;

/// What a leaf says, and when it holds.
pub(crate) struct Leaf {
    pub identity: Identity,
    pub validity: Validity,
}

/// Unix seconds, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub not_before_s: u64,
    pub not_after_s: u64,
}

impl Validity {
    pub(crate) fn holds(self, now_s: u64) -> bool {
        (self.not_before_s..=self.not_after_s).contains(&now_s)
    }
}

/// Reads the leaf of a workload.
pub(crate) fn read_leaf(der: &CertificateDer<'_>) -> Result<Leaf, PeerRefused> {
    let certificate = decode(der)?;
    let encoded = certificate.to_der().map_err(|_| PeerRefused::Malformed)?;
    if encoded != der.as_ref() {
        return Err(PeerRefused::Malformed);
    }
    let extensions = extensions(&certificate, &UNDERSTOOD_IN_LEAF)?;
    if find::<BasicConstraints>(extensions)?.is_some_and(|constraints| constraints.ca) {
        return Err(PeerRefused::LeafIsAuthority);
    }
    let usage = find::<KeyUsage>(extensions)?.ok_or(PeerRefused::KeyUsage)?;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(PeerRefused::KeyUsage);
    }
    let uri = only_uri(der, extensions)?;
    let identity = Identity::parse(&uri).map_err(PeerRefused::Identity)?;
    Ok(Leaf { identity, validity: validity(&certificate) })
}

/// Reads a certificate that signs others: a root, or an intermediate of a verified chain. Returns when it holds.
pub(crate) fn read_authority(der: &CertificateDer<'_>) -> Result<Validity, PeerRefused> {
    let certificate = decode(der)?;
    let extensions = extensions(&certificate, &UNDERSTOOD_IN_AUTHORITY)?;
    if !find::<BasicConstraints>(extensions)?.is_some_and(|constraints| constraints.ca) {
        return Err(PeerRefused::NotAuthority);
    }
    if find::<KeyUsage>(extensions)?.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(PeerRefused::NotAuthority);
    }
    Ok(validity(&certificate))
}

/// Whether a certificate names itself as its issuer, as roots do.
pub(crate) fn is_self_issued(der: &CertificateDer<'_>) -> Result<bool, PeerRefused> {
    let certificate = decode(der)?;
    Ok(certificate.tbs_certificate.issuer == certificate.tbs_certificate.subject)
}

fn decode(der: &CertificateDer<'_>) -> Result<Certificate, PeerRefused> {
    Certificate::from_der(der).map_err(|_| PeerRefused::Malformed)
}

fn validity(certificate: &Certificate) -> Validity {
    let validity = &certificate.tbs_certificate.validity;
    Validity {
        not_before_s: validity.not_before.to_unix_duration().as_secs(),
        not_after_s: validity.not_after.to_unix_duration().as_secs(),
    }
}

const UNDERSTOOD_IN_LEAF: [ObjectIdentifier; 4] = [SubjectAltName::OID, BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID];

/// Name constraints are webpki's to enforce.
const UNDERSTOOD_IN_AUTHORITY: [ObjectIdentifier; 5] =
    [SubjectAltName::OID, BasicConstraints::OID, KeyUsage::OID, ExtendedKeyUsage::OID, NameConstraints::OID];

/// The extensions, once it is known that none comes twice and that each critical one is `understood`.
fn extensions<'a>(certificate: &'a Certificate, understood: &[ObjectIdentifier]) -> Result<&'a [Extension], PeerRefused> {
    let tbs = &certificate.tbs_certificate;
    if tbs.version != Version::V3 {
        return Err(PeerRefused::Malformed);
    }
    let extensions = tbs.extensions.as_deref().unwrap_or_default();
    for (index, extension) in extensions.iter().enumerate() {
        if extensions[..index].iter().any(|earlier| earlier.extn_id == extension.extn_id) {
            return Err(PeerRefused::Malformed);
        }
        if extension.critical && !understood.contains(&extension.extn_id) {
            return Err(PeerRefused::CriticalExtension);
        }
    }
    Ok(extensions)
}

fn find<'a, T: Decode<'a> + AssociatedOid>(extensions: &'a [Extension]) -> Result<Option<T>, PeerRefused> {
    extensions
        .iter()
        .find(|extension| extension.extn_id == T::OID)
        .map(|extension| T::from_der(extension.extn_value.as_bytes()).map_err(|_| PeerRefused::Malformed))
        .transpose()
}

/// The one name of a leaf: a URI, on which both readers agree.
fn only_uri(der: &CertificateDer<'_>, extensions: &[Extension]) -> Result<String, PeerRefused> {
    let names = find::<SubjectAltName>(extensions)?.ok_or(PeerRefused::Names)?;
    let [GeneralName::UniformResourceIdentifier(uri)] = names.0.as_slice() else {
        return Err(PeerRefused::Names);
    };
    let other_reader = webpki::EndEntityCert::try_from(der).map_err(|_| PeerRefused::Malformed)?;
    let mut uris = other_reader.valid_uri_names();
    if uris.next() != Some(uri.as_str()) || uris.next().is_some() {
        return Err(PeerRefused::Names);
    }
    Ok(uri.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Mesh, id, svid, uri};

    /// Tag and content of elements that follow each other.
    type Elements = Vec<(u8, Vec<u8>)>;

    fn elements(mut der: &[u8]) -> Elements {
        let mut elements = Vec::new();
        while let [tag, first, rest @ ..] = der {
            let (len, rest) = match first {
                0x81 => (usize::from(rest[0]), &rest[1..]),
                0x82 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                short => (usize::from(*short), rest),
            };
            elements.push((*tag, rest[..len].to_vec()));
            der = &rest[len..];
        }
        elements
    }

    fn joined(elements: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut der = Vec::new();
        for (tag, content) in elements {
            let len = u16::try_from(content.len()).unwrap().to_be_bytes();
            der.push(*tag);
            match content.len() {
                0..0x80 => der.push(len[1]),
                0x80..0x100 => der.extend_from_slice(&[0x81, len[1]]),
                _ => der.extend_from_slice(&[0x82, len[0], len[1]]),
            }
            der.extend_from_slice(content);
        }
        der
    }

    /// Changes what is inside the last element with `tag`.
    fn inside_last(der: &[u8], tag: u8, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut all = elements(der);
        let last = all.iter_mut().rfind(|element| element.0 == tag).unwrap();
        last.1 = change(&last.1);
        joined(&all)
    }

    /// Changes the elements of the extension that comes first in a certificate.
    fn with_first_extension(certificate: &[u8], change: impl FnOnce(&mut Elements)) -> Vec<u8> {
        let mut parts = elements(&elements(certificate)[0].1);
        parts[0].1 = inside_last(&parts[0].1, 0xa3, |wrapped| {
            inside_last(wrapped, 0x30, |extensions| {
                let mut all = elements(extensions);
                let mut first = elements(&all[0].1);
                change(&mut first);
                all[0].1 = joined(&first);
                joined(&all)
            })
        });
        joined(&[(0x30, joined(&parts))])
    }

    #[test]
    fn a_leaf_says_who_it_is_and_when_it_holds() {
        let leaf = read_leaf(&Mesh::new().root.issue(svid(&uri("a"))).der).unwrap();
        assert_eq!(leaf.identity, id("a"));
        assert!(leaf.validity.holds(leaf.validity.not_before_s) && !leaf.validity.holds(leaf.validity.not_before_s - 1));
        assert!(leaf.validity.holds(leaf.validity.not_after_s) && !leaf.validity.holds(leaf.validity.not_after_s + 1));
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        let issued = Mesh::new().root.issue(svid(&uri("a"))).der;
        let rewritten = |change: &dyn Fn(&mut Elements)| CertificateDer::from(with_first_extension(&issued, change));
        assert_eq!(rewritten(&|_| {}), issued, "the rewriting itself changes nothing");
        // "Not critical" is the default, which canonical DER leaves out; "critical" is 0xff and nothing else.
        for value in [0, 1] {
            let odd = rewritten(&|extension| {
                extension.retain(|element| element.0 != 1);
                extension.insert(1, (1, vec![value]));
            });
            assert!(matches!(read_leaf(&odd), Err(PeerRefused::Malformed)), "{value}");
        }
    }

    #[test]
    fn names_are_those_that_the_other_reader_finds() {
        let der = Mesh::new().root.issue(svid(&uri("a"))).der;
        assert_eq!(webpki::EndEntityCert::try_from(&der).unwrap().valid_uri_names().collect::<Vec<_>>(), [uri("a")]);
    }
}
