//! The state of a tunnel that needs no waiting: TLS, HTTP/2, and sealed bytes that the socket has not taken.

use crate::buffers::Buffers;
use crate::failure::{Failure, Flag};
use hbone_codec::{Code, Connection};
use hbone_tls::{Class, Engine, State, TlsError};
use std::io;
use tokio::net::TcpStream;

pub struct Core {
    pub engine: Engine,
    pub codec: Connection,
    pub out: Vec<u8>,
    written: usize,
}

impl Core {
    pub fn new(engine: Engine, codec: Connection, out: Vec<u8>) -> Self {
        Self { engine, codec, out, written: 0 }
    }

    pub fn unsent(&self) -> usize {
        self.out.len() - self.written
    }

    pub fn is_open(&self) -> bool {
        self.engine.state() != State::Handshaking
    }

    /// Seals control frames that wait, if records can be sealed yet.
    pub fn seal_control(&mut self, buffers: &Buffers) -> Result<(), Failure> {
        if !self.codec.has_control() || !self.is_open() {
            return Ok(());
        }
        let mut frames = buffers.take();
        self.codec.take_control(&mut frames);
        let sealed = self.engine.seal(&frames, &mut self.out);
        buffers.give(frames);
        sealed.map_err(|error| tls_failure(&error))
    }

    /// Seals control frames and writes; true when nothing is left unsent.
    pub fn flush(&mut self, io: &TcpStream, buffers: &Buffers) -> Result<bool, Failure> {
        // While the socket takes no more, control frames stay where their amount is bounded.
        if self.unsent() == 0 {
            self.seal_control(buffers)?;
        }
        while self.unsent() > 0 {
            match io.try_write(&self.out[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Failure::reset(format!("writing to the tunnel: {error}"))),
            }
        }
        self.written = 0;
        buffers.give(std::mem::take(&mut self.out));
        if self.codec.has_control() && self.is_open() {
            return self.flush(io, buffers);
        }
        Ok(true)
    }
}

impl Core {
    /// GOAWAY and close_notify, as far as the socket takes them now.
    pub fn say_goodbye(&mut self, io: &TcpStream, buffers: &Buffers) -> Result<(), Failure> {
        self.codec.close(Code::NO_ERROR);
        self.seal_control(buffers)?;
        self.engine.close(&mut self.out).map_err(|error| tls_failure(&error))?;
        self.flush(io, buffers).map(|_| ())
    }
}

/// The failure that a TLS error is.
pub fn tls_failure(error: &TlsError) -> Failure {
    let flag = match error.class {
        Class::PeerCertificate | Class::OurCertificate => Flag::SI,
        Class::Protocol => Flag::DPE,
        Class::PeerAlert | Class::Internal => Flag::UF,
    };
    Failure::new(flag, error.to_string())
}
