//! One TLS connection without I/O: the caller reads and writes the socket, the engine turns records into plaintext and back.
//!
//! Memory: an open connection that is idle holds its keys and the peer's certificate. It has no buffers: the caller reads into
//! one that its connections share, records are opened in place there, and only the beginning of a record whose end has not
//! come is kept. Sealed records are written straight into the caller's output buffer.

use std::sync::Arc;

use crate::alert;
use crate::config::{ALPN, Dial, ServerConfig};
use crate::error::{Class, Stage, TlsError};
use crate::handshake::Handshake;
use crate::leaf::read_leaf;
use crate::open::Open;
use crate::peer::{PeerCertificate, Role};

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing may be sealed yet and nothing was delivered.
    Handshaking,
    /// Both directions are open, and [`Engine::peer`] says who the peer is.
    Ready,
    /// The peer ended its direction; ours is open until [`Engine::close`].
    PeerClosed,
}

enum Phase {
    Handshake(Box<Handshake>),
    Open(Box<Open>),
    Ended(TlsError),
}

/// One TLS connection.
pub struct Engine {
    phase: Phase,
    role_of_peer: Role,
    /// Read before the handshake, so never later than what its verification used.
    trust_generation: u64,
    peer: Option<Arc<PeerCertificate>>,
}

impl Engine {
    /// Accepts a connection.
    pub fn server(config: &ServerConfig) -> Result<Self, TlsError> {
        let trust_generation = config.trust.generation();
        let handshake = Handshake::accept(config)?;
        Ok(Self::new(handshake, Role::Client, trust_generation))
    }

    /// Dials, and appends the first flight to `out`.
    pub fn client(config: &Dial, out: &mut Vec<u8>) -> Result<Self, TlsError> {
        let trust_generation = config.trust.generation();
        let handshake = Handshake::dial(config, out)?;
        Ok(Self::new(handshake, Role::Server, trust_generation))
    }

    fn new(handshake: Handshake, role_of_peer: Role, trust_generation: u64) -> Self {
        Self { phase: Phase::Handshake(Box::new(handshake)), role_of_peer, trust_generation, peer: None }
    }

    /// Takes bytes that came from the peer, all of them, and hands out the plaintext of each record as it is opened.
    ///
    /// `input` may be cut anywhere, and is overwritten. Plaintext lies in it, or in `joined` where its record began in an earlier
    /// input, so that the caller may gather what is handed out and use it after the call. Whatever must go to the peer (flights, alerts, changes of keys) is appended to
    /// `out`, also when an error is returned. Nothing is handed out before the state is [`State::Ready`], but the same call may
    /// complete the handshake and hand out plaintext. After an error the connection is over, and each call returns that error again.
    ///
    /// The end of the TCP stream is the caller's to see: unless the state is [`State::PeerClosed`], it is a truncation.
    pub fn receive<'i>(
        &mut self,
        input: &'i mut [u8],
        joined: &'i mut Vec<u8>,
        out: &mut Vec<u8>,
        mut on_plain: impl FnMut(&'i [u8]),
    ) -> Result<State, TlsError> {
        let result = self.advance(input, joined, out, &mut on_plain);
        if let Err(error) = &result {
            self.phase = Phase::Ended(error.clone());
        }
        result
    }

    fn advance<'i>(
        &mut self,
        mut input: &'i mut [u8],
        joined: &'i mut Vec<u8>,
        out: &mut Vec<u8>,
        on_plain: &mut impl FnMut(&'i [u8]),
    ) -> Result<State, TlsError> {
        if let Phase::Handshake(handshake) = &mut self.phase {
            input = handshake.receive(input, out)?;
            if handshake.is_handshaking() {
                return Ok(State::Handshaking);
            }
            self.complete(out)?;
        }
        self.open()?.receive(input, joined, out, on_plain)?;
        Ok(self.state())
    }

    /// Goes from the handshake to records.
    fn complete(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let ended = Phase::Ended(TlsError::internal(Stage::Handshake, "the handshake could not be completed"));
        let Phase::Handshake(handshake) = std::mem::replace(&mut self.phase, ended) else {
            return Err(not_open());
        };
        let has_alpn = handshake.common().alpn_protocol() == Some(ALPN);
        let peer = self.read_peer(&handshake);
        let (secrets, keys) = handshake.into_keys()?;
        let mut open = Open::new(secrets, keys)?;
        // rustls refuses a peer whose protocols are others, but not one that names none.
        if !has_alpn {
            open.send_alert(alert::NO_APPLICATION_PROTOCOL, out)?;
            return Err(TlsError::protocol(Stage::Handshake, "the peer did not agree on the protocol h2"));
        }
        self.peer = Some(Arc::new(peer?));
        self.phase = Phase::Open(Box::new(open));
        Ok(())
    }

    /// Reads the leaf that was just verified, with the reader that the verification used.
    fn read_peer(&self, handshake: &Handshake) -> Result<PeerCertificate, TlsError> {
        let refused = |reason: String| TlsError { stage: Stage::Handshake, class: Class::PeerCertificate, reason };
        let chain = handshake.common().peer_certificates().unwrap_or_default();
        let first = chain.first().ok_or_else(|| refused("the peer showed no certificate".to_owned()))?;
        let leaf = read_leaf(first).map_err(|reason| refused(reason.to_string()))?;
        Ok(PeerCertificate {
            identity: leaf.identity,
            role: self.role_of_peer,
            chain: chain.to_vec(),
            not_after_s: leaf.validity.not_after_s,
            trust_generation: self.trust_generation,
        })
    }

    fn open(&mut self) -> Result<&mut Open, TlsError> {
        match &mut self.phase {
            Phase::Open(open) => Ok(open),
            Phase::Handshake(_) => Err(not_open()),
            Phase::Ended(error) => Err(error.clone()),
        }
    }

    /// Where the connection is. Nothing more comes from one that failed: it is as closed.
    pub fn state(&self) -> State {
        match &self.phase {
            Phase::Handshake(_) => State::Handshaking,
            Phase::Open(open) if !open.peer_closed => State::Ready,
            Phase::Open(_) | Phase::Ended(_) => State::PeerClosed,
        }
    }

    /// Who the peer is, once the handshake is complete.
    pub fn peer(&self) -> Option<&Arc<PeerCertificate>> {
        self.peer.as_ref()
    }

    /// Bytes held of input that is incomplete: none of an idle connection, up to 50 KB of one that dribbles.
    pub fn buffered_bytes(&self) -> usize {
        match &self.phase {
            Phase::Handshake(handshake) => handshake.buffered_bytes(),
            Phase::Open(open) => open.buffered_bytes(),
            Phase::Ended(_) => 0,
        }
    }

    /// Appends `plain` to `out` as sealed records, each as full as can be.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.open()?.seal(&[plain], out)
    }

    /// As [`Engine::seal`], of several slices as if they were one: a frame's header and its payload share a record.
    pub fn seal_parts(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.open()?.seal(parts, out)
    }

    /// Begins a record in `out` whose plaintext the caller appends next, at most [`crate::MAX_PLAINTEXT_BYTES`], without a copy.
    ///
    /// Returns what [`Engine::finish_record`] takes. Nothing else of this engine may write to `out` in between.
    pub fn start_record(&mut self, out: &mut Vec<u8>) -> Result<usize, TlsError> {
        self.open()?.start_record(out)
    }

    /// Seals in place what was appended to `out` since [`Engine::start_record`] returned `start`; nothing appended, nothing sent.
    ///
    /// If it fails, `out` is cut back to `start`. A caller that gives up before this call does the same.
    pub fn finish_record(&mut self, out: &mut Vec<u8>, start: usize) -> Result<(), TlsError> {
        self.open()?.finish_record(out, start)
    }

    /// Ends our direction: appends `close_notify` to `out`, once. Before the handshake is complete there is nothing to say.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        match &mut self.phase {
            Phase::Open(open) => open.close(out),
            Phase::Handshake(_) | Phase::Ended(_) => Ok(()),
        }
    }
}

fn not_open() -> TlsError {
    TlsError::internal(Stage::Handshake, "the handshake is not complete")
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("state", &self.state()).field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki;

    fn open(engine: &mut Engine) -> &mut Open {
        engine.open().unwrap()
    }

    #[test]
    fn a_worn_key_is_changed_before_the_next_record() {
        let mesh = pki::Mesh::new();
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut client = Engine::client(&mesh.dial("a", &["b"]), &mut to_server).unwrap();
        let mut server = Engine::server(&mesh.server("b")).unwrap();
        server.receive(&mut to_server, &mut Vec::new(), &mut to_client, |_| {}).unwrap();
        to_server.clear();
        client.receive(&mut to_client, &mut Vec::new(), &mut to_server, |_| {}).unwrap();
        server.receive(&mut to_server, &mut Vec::new(), &mut Vec::new(), |_| {}).unwrap();

        open(&mut client).wear_out_sending();
        open(&mut server).wear_out_receiving();
        for round in 0..3 {
            let (mut records, mut answer, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
            client.seal(b"data", &mut records).unwrap();
            let expected = if round == 0 { 2 * crate::RECORD_OVERHEAD_BYTES + 5 + 4 } else { crate::RECORD_OVERHEAD_BYTES + 4 };
            assert_eq!(records.len(), expected, "round {round}");
            server.receive(&mut records, &mut Vec::new(), &mut answer, |plain| delivered.extend_from_slice(plain)).unwrap();
            assert_eq!((delivered.as_slice(), answer.is_empty()), (&b"data"[..], true));
        }
    }
}
