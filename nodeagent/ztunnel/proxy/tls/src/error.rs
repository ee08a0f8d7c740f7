//! What ends a TLS connection: at which stage, whose fault, and why in words.

use std::fmt;

/// Where in the life of a connection it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before both sides had proved who they are; no application byte was delivered or sent.
    Handshake,
    /// After it.
    Records,
}

/// Whose fault it was: decides the response flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The peer's certificate was refused (flag `SI`).
    PeerCertificate,
    /// The peer refused our certificate (flag `SI`).
    OurCertificate,
    /// The peer broke the protocol, or speaks none that we accept (flag `DPE`).
    Protocol,
    /// The peer gave up with an alert that is not about a certificate (flag `UF` when dialling).
    PeerAlert,
    /// Ours: a key or a library failed.
    Internal,
}

/// A TLS connection ended. The output buffer may hold an alert that should still be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// Where it happened.
    pub stage: Stage,
    /// Whose fault.
    pub class: Class,
    /// Why, for a person to read. Holds no secret.
    pub reason: String,
}

impl TlsError {
    pub(crate) fn protocol(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, class: Class::Protocol, reason: reason.into() }
    }

    pub(crate) fn internal(stage: Stage, reason: impl Into<String>) -> Self {
        Self { stage, class: Class::Internal, reason: reason.into() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Handshake => "TLS handshake",
            Stage::Records => "TLS",
        };
        write!(f, "{stage}: {}", self.reason)
    }
}

impl std::error::Error for TlsError {}
