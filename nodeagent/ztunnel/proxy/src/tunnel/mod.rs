//! An HBONE tunnel, either role: one TLS connection with HTTP/2 in it, and the streams that it carries.
//!
//! One task drives it: reads the socket, opens records, and passes payload straight on to the applications' sockets. The task of
//! a stream that has read from its application seals and writes in the same turn; only what the socket does not take then is
//! left to the driver.

mod core;
mod drain;
mod drive;
mod gather;
mod liveness;
mod register;
mod relay;
mod stream;

pub use register::Tunnels;
pub use relay::relay;
pub use stream::{Stream, StreamGuard};

use self::core::Core;
use self::liveness::Liveness;
use crate::failure::{Failure, Flag};
use crate::limits::TunnelPermit;
use crate::signal::Signal;
use crate::sys;
use crate::worker::{Worker, Workload};
use hbone_codec::{CheckedConfig, Code, Config, Connection, HeaderBlock, OpenError, Role, StreamId};
use hbone_tls::{Engine, PeerCertificate};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A stream that has this much sealed and unsent ahead of it reads no more from its application.
const MAX_UNSENT_BYTES: usize = 256 << 10;
/// A tunnel that said nothing for this long is asked whether it is still there when it gets a new stream.
const QUIET: Duration = Duration::from_millis(100);

pub struct Tunnel {
    pub worker: Rc<Worker>,
    pub workload: Rc<Workload>,
    pub peer_address: SocketAddr,
    /// The kernel's number for its socket.
    pub socket: Option<u64>,
    role: Role,
    io: TcpStream,
    core: RefCell<Core>,
    streams: RefCell<HashMap<StreamId, Rc<Stream>>>,
    /// Streams that wait for the socket to take what is sealed.
    blocked: RefCell<Vec<Rc<Stream>>>,
    /// The driver has to look again.
    wake: Signal,
    /// Unsent bytes in the process's total.
    accounted: Cell<usize>,
    ended: RefCell<Option<Failure>>,
    peer: OnceCell<(Arc<PeerCertificate>, Arc<str>)>,
    liveness: Liveness,
    idle_since: Cell<Instant>,
    /// No route names its endpoint any more: to be closed when idle.
    retired: Cell<bool>,
    _permit: TunnelPermit,
}

/// What a tunnel is made of.
pub struct Parts {
    pub workload: Rc<Workload>,
    pub peer_address: SocketAddr,
    pub role: Role,
    pub io: TcpStream,
    pub engine: Engine,
    /// Sealed bytes to send first.
    pub out: Vec<u8>,
    pub permit: TunnelPermit,
}

impl Tunnel {
    pub fn new(worker: &Rc<Worker>, parts: Parts) -> Rc<Self> {
        let now = Instant::now();
        let codec = Connection::new(parts.role, codec_config(worker.settings().max_streams_per_tunnel), now);
        let tunnel = Rc::new(Self {
            worker: worker.clone(),
            workload: parts.workload,
            peer_address: parts.peer_address,
            socket: sys::cookie(&parts.io),
            role: parts.role,
            io: parts.io,
            core: RefCell::new(Core::new(parts.engine, codec, parts.out)),
            streams: RefCell::default(),
            blocked: RefCell::default(),
            wake: Signal::default(),
            accounted: Cell::new(0),
            ended: RefCell::default(),
            peer: OnceCell::new(),
            liveness: Liveness::new(now),
            idle_since: Cell::new(now),
            retired: Cell::new(false),
            _permit: parts.permit,
        });
        worker.tunnels.register(&tunnel);
        tunnel
    }

    /// The SPIFFE id of the peer, from its verified certificate; None before the handshake is complete.
    pub fn peer_identity(&self) -> Option<&Arc<str>> {
        self.peer.get().map(|(_, identity)| identity)
    }

    /// Opens a stream with a prebuilt block and the fields that differ.
    pub fn open(self: &Rc<Self>, block: &HeaderBlock, fields: &[(&str, &str)]) -> Result<StreamGuard, OpenError> {
        let id = self.core.borrow_mut().codec.open(block, fields)?;
        let stream = Stream::new(self, id);
        self.streams.borrow_mut().insert(id, stream.clone());
        self.ask_for_a_sign(QUIET);
        self.flush();
        Ok(StreamGuard::new(stream))
    }

    /// Waits for the status of a stream; an error that is silent means that the peer gave no sign of life at all.
    pub async fn answer(&self, stream: &Stream) -> Result<u16, Failure> {
        let patience = self.worker.deadlines().attempt;
        let mut pause = QUIET;
        loop {
            let until = self.liveness.silent_at(patience).unwrap_or_else(|| Instant::now() + pause);
            if let Ok(answer) = tokio::time::timeout_at(until.into(), stream.answer()).await {
                return answer;
            }
            if self.is_silent() {
                return Err(Failure::silent(Flag::UF, "the other side is silent"));
            }
            let asked = self.ask_for_a_sign(QUIET);
            if asked {
                self.flush();
            }
            pause = if asked { patience } else { QUIET };
        }
    }

    /// Has a PING go out with the next flush if nothing came for `quiet`; whether it does.
    fn ask_for_a_sign(&self, quiet: Duration) -> bool {
        let ask = self.liveness.ask(Instant::now(), quiet);
        if ask {
            self.core.borrow_mut().codec.ping(*b"nodemesh");
        }
        ask
    }

    /// Whether a PING has waited too long for new streams to rely on this tunnel; those that are open wait for longer.
    fn is_silent(&self) -> bool {
        self.liveness.is_silent(Instant::now(), self.worker.deadlines().attempt)
    }

    /// Answers a request; an error means that its stream is gone.
    pub fn respond(&self, stream: StreamId, status: u16) -> Result<(), Failure> {
        let answered = self.core.borrow_mut().codec.respond(stream, status);
        self.flush();
        answered.map_err(|_| Failure::reset("the client gave up before the answer"))
    }

    /// Streams that may be opened now.
    pub fn available_streams(&self) -> usize {
        if self.has_ended() || self.retired.get() || self.is_silent() {
            return 0;
        }
        let own_limit = (self.worker.settings().max_streams_per_tunnel as usize).saturating_sub(self.open_streams());
        self.core.borrow().codec.available_streams().min(own_limit)
    }

    pub fn open_streams(&self) -> usize {
        self.streams.borrow().len()
    }

    /// More bytes wait for the socket than it takes at once: another tunnel would go faster.
    pub fn is_busy(&self) -> bool {
        self.core.borrow().unsent() > MAX_UNSENT_BYTES / 4
    }

    pub fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    pub fn retire(&self, retired: bool) {
        self.retired.set(retired);
    }

    pub fn is_idle(&self) -> bool {
        self.streams.borrow().is_empty()
    }

    /// Ends the tunnel and all that it carries. The first reason stays.
    pub fn end(&self, failure: Failure) {
        self.ended.borrow_mut().get_or_insert(failure);
        self.wake.raise();
    }

    /// Ends it in order: the peer is told.
    pub fn close(&self, code: Code, failure: Failure) {
        self.core.borrow_mut().codec.close(code);
        self.end(failure);
    }

    /// Seals control frames that wait and writes what the socket takes.
    fn flush(&self) {
        let written = {
            let mut core = self.core.borrow_mut();
            let written = core.flush(&self.io, &self.worker.buffers);
            self.account(core.unsent());
            written
        };
        match written {
            Ok(true) => self.unblock(),
            Ok(false) => self.wake.raise(),
            Err(failure) => self.end(failure),
        }
    }

    /// Keeps the process's total of buffered bytes up to date with what this tunnel has not sent.
    fn account(&self, unsent: usize) {
        let before = self.accounted.replace(unsent);
        let total = &self.worker.usage.buffered_bytes;
        match unsent.checked_sub(before) {
            Some(0) => {}
            Some(more) => total.add(more as u64),
            None => total.remove((before - unsent) as u64),
        }
    }

    /// Whether a stream may add to what is sealed and unsent.
    fn has_room(&self, unsent: usize) -> bool {
        let total_is_high = || self.worker.usage.buffered_bytes.get() >= self.worker.settings().max_buffered_bytes;
        unsent == 0 || (unsent <= MAX_UNSENT_BYTES && !total_is_high())
    }

    fn unblock(&self) {
        for stream in self.blocked.take() {
            stream.may_send();
        }
    }

    /// A stream's task is over; `clean` if both directions ended.
    fn stream_over(&self, stream: &Stream, clean: bool) {
        self.streams.borrow_mut().remove(&stream.id);
        if !clean {
            self.core.borrow_mut().codec.reset(stream.id, Code::CONNECT_ERROR);
            self.flush();
        }
        if self.is_idle() {
            self.idle_since.set(Instant::now());
            self.wake.raise();
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.account(0);
    }
}

fn codec_config(max_streams: u32) -> CheckedConfig {
    let config = Config { max_streams: max_streams.min(100_000), ..Config::default() };
    config.check().expect("the defaults are within their bounds")
}

/// The flag of an error that the peer's protocol made.
fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::new(Flag::DPE, error.to_string())
}
