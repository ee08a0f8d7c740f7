//! The record layer of TLS 1.3 (RFC 8446, section 5) under keys that a handshake agreed on: seals and opens in place.
//!
//! Not rustls' own, because that one copies: its unbuffered interface gives each record that it opens a vector of its own, and
//! seals into a vector that is then copied to the output. Here a record is opened where it was read and sealed where it is sent from.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// Bytes of plaintext that one record holds at most.
pub const MAX_PLAINTEXT_BYTES: usize = 1 << 14;
/// Bytes of a record ahead of its plaintext.
pub const RECORD_HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Bytes of a record besides its plaintext.
pub const RECORD_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + 1 + TAG_BYTES;
/// What follows the header of a sealed record: section 5.2 allows 256 bytes over the plaintext.
const MAX_SEALED_BYTES: usize = MAX_PLAINTEXT_BYTES + 256;

/// Records that one AES-GCM key may seal: section 5.5 allows 2^24.5; we change keys well before.
const MAX_RECORDS_PER_KEY: u64 = 1 << 23;

const LEGACY_VERSION: [u8; 2] = [3, 3];

/// The type of a record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Content {
    Alert = 21,
    Handshake = 22,
    ApplicationData = 23,
}

/// Why a record could not be read. The alert to answer with is section 6.2's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadRecord {
    /// Over the length that the standard allows.
    Overflow,
    /// Not a sealed record.
    Unexpected,
    /// Not sealed by the peer.
    Forged,
}

/// The bytes of the record that begins `bytes`, once its header is there; a header that cannot be one is refused before its body comes.
pub(crate) fn sealed_len(bytes: &[u8]) -> Result<Option<usize>, BadRecord> {
    let Some((header, _)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Ok(None);
    };
    if header[0] != Content::ApplicationData as u8 || header[1..3] != LEGACY_VERSION {
        return Err(BadRecord::Unexpected);
    }
    let body = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if body > MAX_SEALED_BYTES {
        return Err(BadRecord::Overflow);
    }
    Ok(Some(RECORD_HEADER_BYTES + body))
}

/// A key in one direction, and how many records it has sealed or opened.
struct TrafficKey {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    records: u64,
}

/// Secrets of a cipher suite that the configuration does not offer, or that the library cannot use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnusableSecrets;

impl TrafficKey {
    fn new((records, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, UnusableSecrets> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(UnusableSecrets),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| UnusableSecrets)?;
        let iv = iv.as_ref().try_into().map_err(|_| UnusableSecrets)?;
        Ok(Self { key: LessSafeKey::new(key), iv, records })
    }

    /// The nonce of the next record: the IV xor the record's number. Each number is given out once.
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.records.to_be_bytes()) {
            *byte ^= number;
        }
        self.records += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Opens the peer's records.
pub(crate) struct Opener(TrafficKey);

impl Opener {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, UnusableSecrets> {
        TrafficKey::new(secrets).map(Self)
    }

    /// As after as many records as one key should see.
    #[cfg(test)]
    pub(crate) fn wear_out(&mut self) {
        self.0.records = MAX_RECORDS_PER_KEY;
    }

    /// Opens a whole record in place: its content's type and plaintext. `record` is as long as [`sealed_len`] says.
    pub(crate) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(Content, &'a [u8]), BadRecord> {
        let (header, body) = record.split_first_chunk_mut::<RECORD_HEADER_BYTES>().ok_or(BadRecord::Unexpected)?;
        let nonce = self.0.next_nonce();
        let inner = self.0.key.open_in_place(nonce, Aad::from(*header), body).map_err(|_| BadRecord::Forged)?;
        // Behind the plaintext: its type, then padding of zeros.
        let end = inner.iter().rposition(|&byte| byte != 0).ok_or(BadRecord::Unexpected)?;
        if inner.len() > MAX_PLAINTEXT_BYTES + 1 {
            return Err(BadRecord::Overflow);
        }
        let content = match inner[end] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::ApplicationData,
            _ => return Err(BadRecord::Unexpected),
        };
        Ok((content, &inner[..end]))
    }
}

/// Seals our records.
pub(crate) struct Sealer(TrafficKey);

impl Sealer {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, UnusableSecrets> {
        TrafficKey::new(secrets).map(Self)
    }

    /// Whether the key has sealed as much as it should.
    pub(crate) fn is_worn(&self) -> bool {
        self.0.records >= MAX_RECORDS_PER_KEY
    }

    /// As after as many records as one key should seal.
    #[cfg(test)]
    pub(crate) fn wear_out(&mut self) {
        self.0.records = MAX_RECORDS_PER_KEY;
    }

    /// Makes room in `out` for a record's header; its plaintext is appended next, then [`Sealer::finish`] seals it.
    pub(crate) fn start(out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        start
    }

    /// Seals what `out` holds behind the header at `start`; at most [`MAX_PLAINTEXT_BYTES`].
    ///
    /// If it fails, the record is taken out of `out`: what was not sealed must not be sent.
    pub(crate) fn finish(&mut self, content: Content, out: &mut Vec<u8>, start: usize) -> Result<(), UnusableSecrets> {
        let sealed = self.seal(content, out, start);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    fn seal(&mut self, content: Content, out: &mut Vec<u8>, start: usize) -> Result<(), UnusableSecrets> {
        let body = start + RECORD_HEADER_BYTES;
        let plain_len = out.len().checked_sub(body).filter(|&len| len <= MAX_PLAINTEXT_BYTES).ok_or(UnusableSecrets)?;
        let sealed_len = u16::try_from(plain_len + 1 + TAG_BYTES).map_err(|_| UnusableSecrets)?.to_be_bytes();
        let header = [Content::ApplicationData as u8, LEGACY_VERSION[0], LEGACY_VERSION[1], sealed_len[0], sealed_len[1]];
        out[start..body].copy_from_slice(&header);
        out.push(content as u8);
        let nonce = self.0.next_nonce();
        let tag = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[body..]).map_err(|_| UnusableSecrets)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn keys() -> (Sealer, Opener) {
        let secrets = || (0, ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([7; 32]), iv: Iv::from([9; NONCE_LEN]) });
        (Sealer::new(secrets()).unwrap(), Opener::new(secrets()).unwrap())
    }

    /// Seals `inner` as it is, without adding a type.
    fn seal_raw(sealer: &mut Sealer, inner: &[u8]) -> Vec<u8> {
        let len = (inner.len() + TAG_BYTES) as u16;
        let mut record = vec![23, 3, 3, (len >> 8) as u8, len as u8];
        record.extend_from_slice(inner);
        let header: [u8; RECORD_HEADER_BYTES] = record[..RECORD_HEADER_BYTES].try_into().unwrap();
        let nonce = sealer.0.next_nonce();
        let tag = sealer.0.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut record[RECORD_HEADER_BYTES..]).unwrap();
        record.extend_from_slice(tag.as_ref());
        record
    }

    #[test]
    fn padding_is_taken_off_and_zeros_of_the_plaintext_stay() {
        let (mut sealer, mut opener) = keys();
        let mut record = seal_raw(&mut sealer, &[1, 0, 0, 23, 0, 0, 0]);
        assert_eq!(opener.open(&mut record), Ok((Content::ApplicationData, &[1, 0, 0][..])));
        let mut record = seal_raw(&mut sealer, &[23]);
        assert_eq!(opener.open(&mut record), Ok((Content::ApplicationData, &[][..])));
    }

    #[test]
    fn a_record_without_a_known_type_is_refused() {
        let (mut sealer, mut opener) = keys();
        for inner in [&[0; 40][..], &[], &[1, 2, 20], &[1, 2, 24]] {
            let mut record = seal_raw(&mut sealer, inner);
            assert_eq!(opener.open(&mut record), Err(BadRecord::Unexpected), "{inner:?}");
        }
    }

    #[test]
    fn plaintext_over_the_limit_is_refused_with_and_without_padding() {
        let (mut sealer, mut opener) = keys();
        let mut inner = vec![1; MAX_PLAINTEXT_BYTES];
        inner.push(23);
        assert!(opener.open(&mut seal_raw(&mut sealer, &inner)).is_ok());
        inner.push(0);
        assert_eq!(opener.open(&mut seal_raw(&mut sealer, &inner)), Err(BadRecord::Overflow));
    }

    #[test]
    fn no_two_records_share_a_nonce() {
        let (mut sealer, _) = keys();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(*sealer.0.next_nonce().as_ref()));
        }
    }

    #[test]
    fn a_header_is_judged_as_soon_as_it_is_there() {
        assert_eq!(sealed_len(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(sealed_len(&[23, 3, 3, 0, 17]), Ok(Some(22)));
        assert_eq!(sealed_len(&[23, 3, 3, 0x41, 0]), Ok(Some(MAX_SEALED_BYTES + RECORD_HEADER_BYTES)));
        assert_eq!(sealed_len(&[23, 3, 3, 0x41, 1]), Err(BadRecord::Overflow));
        assert_eq!(sealed_len(&[22, 3, 3, 0, 17]), Err(BadRecord::Unexpected));
    }
}
