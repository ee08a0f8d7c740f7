//! Alerts: the ones that we send, and what the peer's mean for us (RFC 8446, section 6).

use rustls::AlertDescription;

use crate::error::Class;

pub(crate) const CLOSE_NOTIFY: u8 = 0;
pub(crate) const UNEXPECTED_MESSAGE: u8 = 10;
pub(crate) const BAD_RECORD_MAC: u8 = 20;
pub(crate) const RECORD_OVERFLOW: u8 = 22;
pub(crate) const DECODE_ERROR: u8 = 50;
pub(crate) const INTERNAL_ERROR: u8 = 80;
pub(crate) const USER_CANCELED: u8 = 90;
pub(crate) const NO_APPLICATION_PROTOCOL: u8 = 120;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The content of an alert record.
pub(crate) fn encode(description: u8) -> [u8; 2] {
    [if description == CLOSE_NOTIFY { WARNING } else { FATAL }, description]
}

/// Whose fault an alert of the peer says it was, and in words.
pub(crate) fn received(description: u8) -> (Class, String) {
    let known = AlertDescription::from(description);
    let class = match known {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => Class::OurCertificate,
        _ => Class::PeerAlert,
    };
    (class, format!("the peer gave up with the alert {known:?}"))
}
