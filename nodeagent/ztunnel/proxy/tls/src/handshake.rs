//! The handshake, by rustls: records go in one at a time, so that not a byte behind its last one is touched by it.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{CommonState, ConnectionTrafficSecrets, Error, ExtractedSecrets};

use crate::config::{Dial, ServerConfig};
use crate::error::{Class, Stage, TlsError};
use crate::record::RECORD_HEADER_BYTES;

/// Bytes that a whole handshake may take from a peer: two certificate chains of the largest size that rustls reads.
const MAX_HANDSHAKE_BYTES: usize = 1 << 17;

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What is left of rustls once the handshake is complete: it derives the keys that follow.
pub(crate) enum KeySchedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl KeySchedule {
    pub(crate) fn is_client(&self) -> bool {
        matches!(self, Self::Client(_))
    }

    pub(crate) fn next_sending(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    pub(crate) fn next_receiving(&mut self) -> Result<(u64, ConnectionTrafficSecrets), Error> {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// A handshake under way.
pub(crate) struct Handshake {
    connection: Connection,
    /// What rustls has not yet discarded, and behind `record_start` the record that is still coming.
    buffer: Vec<u8>,
    record_start: usize,
    taken_bytes: usize,
}

impl Handshake {
    pub(crate) fn accept(config: &ServerConfig) -> Result<Self, TlsError> {
        UnbufferedServerConnection::new(config.inner.clone())
            .map(|connection| Self::new(Connection::Server(connection)))
            .map_err(|error| describe(&error))
    }

    /// Also writes the first flight.
    pub(crate) fn dial(config: &Dial, out: &mut Vec<u8>) -> Result<Self, TlsError> {
        // rustls wants a name, sends none (SNI is off) and gives it to a verifier that looks at none.
        let no_name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4])));
        let connection = UnbufferedClientConnection::new(config.inner.clone(), no_name).map_err(|error| describe(&error))?;
        let mut handshake = Self::new(Connection::Client(connection));
        handshake.pump(out)?;
        Ok(handshake)
    }

    fn new(connection: Connection) -> Self {
        Self { connection, buffer: Vec::new(), record_start: 0, taken_bytes: 0 }
    }

    /// Takes records from `input` until the handshake is complete or the input is used up; returns what is left of the input.
    pub(crate) fn receive<'i>(&mut self, mut input: &'i mut [u8], out: &mut Vec<u8>) -> Result<&'i mut [u8], TlsError> {
        while !input.is_empty() && self.is_handshaking() {
            let wanted = self.missing_bytes().min(input.len());
            let (taken, rest) = input.split_at_mut(wanted);
            input = rest;
            self.taken_bytes += wanted;
            if self.taken_bytes > MAX_HANDSHAKE_BYTES {
                return Err(TlsError::protocol(Stage::Handshake, "the peer's handshake is too long"));
            }
            self.buffer.extend_from_slice(taken);
            let is_whole = self.missing_bytes() == 0;
            // Also at the end of a header, which rustls refuses at once if it is none.
            if is_whole || self.buffer.len() - self.record_start == RECORD_HEADER_BYTES {
                if is_whole {
                    self.record_start = self.buffer.len();
                }
                self.pump(out)?;
            }
        }
        Ok(input)
    }

    /// What the current record still lacks; of one whose header is incomplete, what that lacks.
    fn missing_bytes(&self) -> usize {
        let record = &self.buffer[self.record_start..];
        match record.get(3..RECORD_HEADER_BYTES) {
            Some(len) => RECORD_HEADER_BYTES + usize::from(u16::from_be_bytes([len[0], len[1]])) - record.len(),
            None => RECORD_HEADER_BYTES - record.len(),
        }
    }

    /// Runs rustls until it has nothing to send and waits for the peer.
    fn pump(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let failed = loop {
            match self.step(out) {
                Step::More => {}
                Step::Blocked => return Ok(()),
                Step::Failed(error) => break error,
            }
        };
        // rustls may have queued an alert that says why. It is taken and no more: rustls panics if it reads the bad bytes again.
        while self.common().wants_write() {
            if let Step::Failed(_) = self.step(out) {
                break;
            }
        }
        Err(failed)
    }

    fn step(&mut self, out: &mut Vec<u8>) -> Step {
        let (discard, step) = match &mut self.connection {
            Connection::Client(connection) => take_step(connection.process_tls_records(&mut self.buffer), out),
            Connection::Server(connection) => take_step(connection.process_tls_records(&mut self.buffer), out),
        };
        self.buffer.drain(..discard);
        self.record_start = self.record_start.saturating_sub(discard);
        step
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// What was agreed: the peer's chain, the protocol.
    pub(crate) fn common(&self) -> &CommonState {
        match &self.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        }
    }

    /// Takes the keys out of a handshake that is complete.
    pub(crate) fn into_keys(self) -> Result<(ExtractedSecrets, KeySchedule), TlsError> {
        match self.connection {
            Connection::Client(connection) => {
                connection.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, KeySchedule::Client(kernel)))
            }
            Connection::Server(connection) => {
                connection.dangerous_into_kernel_connection().map(|(secrets, kernel)| (secrets, KeySchedule::Server(kernel)))
            }
        }
        .map_err(|error| describe(&error))
    }
}

enum Step {
    More,
    Blocked,
    Failed(TlsError),
}

/// Does what rustls asks for next; returns how many bytes of the buffer it is done with.
fn take_step<D>(status: UnbufferedStatus<'_, '_, D>, out: &mut Vec<u8>) -> (usize, Step) {
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = out.len();
            if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) {
                out.resize(start + required_size, 0);
            }
            match data.encode(&mut out[start..]) {
                Ok(_) => Step::More,
                Err(error) => Step::Failed(TlsError::internal(Stage::Handshake, error.to_string())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::More
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Step::Blocked,
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            let reason = "the peer closed before the handshake was complete".to_owned();
            Step::Failed(TlsError { stage: Stage::Handshake, class: Class::PeerAlert, reason })
        }
        Ok(_) => Step::Failed(TlsError::protocol(Stage::Handshake, "the peer sent data before the handshake was complete")),
        Err(error) => Step::Failed(describe(&error)),
    };
    (status.discard, step)
}

/// Puts an error of rustls into our classes.
fn describe(error: &Error) -> TlsError {
    let (class, reason) = match error {
        Error::InvalidCertificate(rustls::CertificateError::Other(reason)) => (Class::PeerCertificate, reason.to_string()),
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => (Class::PeerCertificate, error.to_string()),
        Error::AlertReceived(alert) => crate::alert::received((*alert).into()),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::InvalidMessage(_)
        | Error::PeerIncompatible(_)
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord
        | Error::DecryptError
        | Error::NoApplicationProtocol => (Class::Protocol, error.to_string()),
        _ => (Class::Internal, error.to_string()),
    };
    TlsError { stage: Stage::Handshake, class, reason }
}
