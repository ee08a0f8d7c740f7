//! One stream of a tunnel: what has come for its application and is not delivered yet, and how it was answered or ended.

use super::Tunnel;
use crate::failure::{Failure, Flag};
use crate::signal::Signal;
use crate::sys;
use crate::worker::Conn;
use hbone_codec::{Code, StreamId};
use std::cell::{Cell, OnceCell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::rc::Rc;
use tokio::net::TcpStream;

/// Bytes already passed on are cut off from what is kept when they are this many, and most of it.
const COMPACT_BYTES: usize = 64 << 10;

/// How a stream ended both ways at once.
#[derive(Clone)]
pub enum Gone {
    /// All that came is complete.
    Complete,
    Broken(Failure),
}

/// How an answer of HTTP/1 begins.
const HTTP_ANSWER: &[u8] = b"HTTP/1.";

/// The application's side: its socket, and the connection that counts.
pub struct Application {
    pub socket: TcpStream,
    pub conn: Rc<Conn>,
}

/// Payload that the application's socket did not take yet; counted in the process's total.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    start: usize,
}

pub struct Stream {
    pub id: StreamId,
    pub tunnel: Rc<Tunnel>,
    application: OnceCell<Application>,
    pending: RefCell<Pending>,
    answer: Cell<Option<u16>>,
    ended: Cell<bool>,
    /// The other end is a waypoint, which may read what it carries.
    by_waypoint: Cell<bool>,
    /// Whether what came began as an answer of HTTP/1; None: nothing came.
    answers_http: Cell<Option<bool>>,
    /// The peer did not look at it, so that it may be tried again elsewhere.
    refused: Cell<bool>,
    gone: RefCell<Option<Gone>>,
    /// Something came from the tunnel.
    news: Signal,
    /// The tunnel may take more.
    room: Signal,
}

/// What there is to do for the direction towards the application.
pub enum Next {
    Write,
    End,
    Gone(Gone),
    Wait,
}

impl Stream {
    pub fn new(tunnel: &Rc<Tunnel>, id: StreamId) -> Rc<Self> {
        Rc::new(Self {
            id,
            tunnel: tunnel.clone(),
            application: OnceCell::new(),
            pending: RefCell::default(),
            answer: Cell::new(None),
            ended: Cell::new(false),
            by_waypoint: Cell::new(false),
            answers_http: Cell::new(None),
            refused: Cell::new(false),
            gone: RefCell::default(),
            news: Signal::default(),
            room: Signal::default(),
        })
    }

    pub fn goes_by_waypoint(&self) {
        self.by_waypoint.set(true);
    }

    /// From now on payload goes there.
    pub fn attach(&self, socket: TcpStream, conn: Rc<Conn>) -> &Application {
        self.application.get_or_init(|| Application { socket, conn })
    }

    /// Takes payload for the application: what its socket takes at once is passed on (how much is returned), the rest is kept.
    pub fn deliver(&self, pieces: &[IoSlice<'_>]) -> usize {
        let total = pieces.iter().map(|piece| piece.len()).sum();
        if self.is_gone() {
            return total;
        }
        if self.answers_http.get().is_none() {
            self.answers_http.set(pieces.iter().find(|piece| !piece.is_empty()).map(|first| first.starts_with(HTTP_ANSWER)));
        }
        let written = match self.application.get().filter(|_| self.pending_bytes() == 0) {
            Some(application) => self.write(application, pieces).unwrap_or(total),
            None => 0,
        };
        if written < total {
            self.keep(pieces, written, total - written);
            self.news.raise();
        }
        written
    }

    /// Keeps `bytes` of the pieces, those behind the first `skip`.
    fn keep(&self, pieces: &[IoSlice<'_>], mut skip: usize, bytes: usize) {
        let worker = &self.tunnel.worker;
        if !worker.usage.keep(&self.tunnel.workload.spec().usage, bytes as u64, worker.settings().max_buffered_bytes) {
            self.end_both(Gone::Broken(Failure::new(Flag::UO, "too many bytes wait for applications")));
            return;
        }
        let mut pending = self.pending.borrow_mut();
        pending.bytes.reserve(bytes);
        for piece in pieces {
            let rest = piece.get(skip..).unwrap_or_default();
            pending.bytes.extend_from_slice(rest);
            skip -= piece.len() - rest.len();
        }
    }

    /// Writes to the application; None when it is gone, and the stream with it.
    fn write(&self, application: &Application, pieces: &[IoSlice<'_>]) -> Option<usize> {
        match application.socket.try_write_vectored(pieces) {
            Ok(written) => {
                application.conn.count_to_application(written);
                Some(written)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(error) => {
                self.end_both(Gone::Broken(Failure::reset(format!("writing to the application: {error}"))));
                None
            }
        }
    }

    /// Writes what was kept, and lets the peer send as much again.
    pub fn write_pending(&self, application: &Application) {
        let mut pending = self.pending.borrow_mut();
        let Some(written) = self.write(application, &[IoSlice::new(&pending.bytes[pending.start..])]) else { return };
        pending.start += written;
        if pending.start == pending.bytes.len() {
            *pending = Pending::default();
        } else if pending.start > COMPACT_BYTES && pending.start * 2 > pending.bytes.len() {
            let start = std::mem::take(&mut pending.start);
            pending.bytes.drain(..start);
        }
        drop(pending);
        if written > 0 {
            self.let_go(written);
            self.tunnel.core.borrow_mut().codec.release(self.id, written);
            self.tunnel.flush();
        }
    }

    fn let_go(&self, bytes: usize) {
        self.tunnel.worker.usage.let_go(&self.tunnel.workload.spec().usage, bytes as u64);
    }

    fn pending_bytes(&self) -> usize {
        let pending = self.pending.borrow();
        pending.bytes.len() - pending.start
    }

    pub fn next(&self) -> Next {
        match &*self.gone.borrow() {
            Some(gone @ Gone::Broken(_)) => Next::Gone(gone.clone()),
            _ if self.pending_bytes() > 0 => Next::Write,
            Some(gone) => Next::Gone(gone.clone()),
            None if self.ended.get() => Next::End,
            None => Next::Wait,
        }
    }

    pub fn answered(&self, status: u16) {
        self.answer.set(Some(status));
        self.news.raise();
    }

    /// The peer sends no more.
    pub fn ended(&self) {
        self.ended.set(true);
        self.news.raise();
    }

    /// The stream is gone both ways. Behind the peer's end a reset only says that it takes no more, and must not destroy what
    /// came in full: Envoy ends a stream so (CONNECT_ERROR) when its application has closed first.
    pub fn reset(&self, code: Code) {
        self.refused.set(code == Code::REFUSED_STREAM);
        self.end_both(if self.ended.get() || code.is_end_of_stream() || self.is_closed_http(code) {
            Gone::Complete
        } else {
            Gone::Broken(Failure::reset(format!("the stream was reset: {code}")))
        });
    }

    /// An Envoy that closes a connection of HTTP behind an answer (`connection: close`, HTTP/1.0) has nothing but a reset to say so in a
    /// tunnel. HTTP shows itself whether an answer is whole; of all else such a reset says that it is not.
    fn is_closed_http(&self, code: Code) -> bool {
        code == Code::CONNECT_ERROR && self.by_waypoint.get() && self.answers_http.get() == Some(true)
    }

    /// The tunnel is gone. What came in full before is still worth delivering.
    pub fn tunnel_ended(&self, reason: &Failure) {
        self.end_both(if self.ended.get() { Gone::Complete } else { Gone::Broken(reason.clone()) });
    }

    fn end_both(&self, gone: Gone) {
        self.gone.borrow_mut().get_or_insert(gone);
        self.news.raise();
        self.room.raise();
    }

    pub fn was_refused(&self) -> bool {
        self.refused.get()
    }

    /// How the stream ended both ways, if it has.
    pub fn gone(&self) -> Option<Gone> {
        self.gone.borrow().clone()
    }

    pub fn is_gone(&self) -> bool {
        self.gone.borrow().is_some()
    }

    pub fn may_send(&self) {
        self.room.raise();
    }

    pub fn news(&self) -> impl Future<Output = ()> + '_ {
        self.news.wait()
    }

    pub fn room(&self) -> impl Future<Output = ()> + '_ {
        self.room.wait()
    }

    /// Waits until the stream is gone with its tunnel. Waits in the place of `room`.
    pub async fn cut_off(&self) {
        while !(self.tunnel.has_ended() && self.is_gone()) {
            self.room.wait().await;
        }
    }

    /// Waits until the stream is gone.
    pub async fn given_up(&self) {
        while !self.is_gone() {
            self.news.wait().await;
        }
    }

    /// Waits for the status of a stream that we opened; Err: the stream is gone without one.
    pub async fn answer(&self) -> Result<u16, Failure> {
        loop {
            if let Some(status) = self.answer.get() {
                return Ok(status);
            }
            match &*self.gone.borrow() {
                Some(Gone::Broken(failure)) => return Err(failure.clone()),
                Some(Gone::Complete) => return Err(Failure::reset("the stream ended without an answer")),
                None => {}
            }
            self.news.wait().await;
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.let_go(self.pending_bytes());
    }
}

/// Owned by the task of a stream: when that ends, by whatever way, so does the stream.
pub struct StreamGuard {
    stream: Rc<Stream>,
    clean: Cell<bool>,
}

impl StreamGuard {
    pub fn new(stream: Rc<Stream>) -> Self {
        Self { stream, clean: Cell::new(false) }
    }

    /// Both directions have ended, or a refusal was sent: nothing is to be reset.
    pub fn finish(&self) {
        self.clean.set(true);
    }
}

impl Deref for StreamGuard {
    type Target = Rc<Stream>;

    fn deref(&self) -> &Rc<Stream> {
        &self.stream
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        if let Some(application) = self.stream.application.get().filter(|_| !self.clean.get()) {
            sys::reset_on_close(&application.socket);
        }
        self.stream.tunnel.stream_over(&self.stream, self.clean.get());
    }
}
