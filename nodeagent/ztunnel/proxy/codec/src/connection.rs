//! The connection: everything that the caller calls.

use std::time::Instant;

use crate::{CheckedConfig, Code, ConnectionError, Event, HeaderBlock, OpenError, SendError, StreamId};

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens tunnels.
    Client,
    /// Answers them.
    Server,
}

/// What the peer announced; the defaults of RFC 9113 until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Largest DATA payload that it takes.
    pub max_frame_bytes: u32,
    /// Streams that we may have open.
    pub max_streams: u32,
    /// Window of a new stream.
    pub initial_window_bytes: u32,
    /// Largest header list that it takes.
    pub max_header_list_bytes: u32,
}

/// One side of an HTTP/2 connection that carries CONNECT tunnels.
#[derive(Debug)]
pub struct Connection {}

impl Connection {
    /// A new connection. Its opening (client preface, SETTINGS, WINDOW_UPDATE) is in the control output at once.
    #[must_use]
    pub fn new(role: Role, config: CheckedConfig, now: Instant) -> Self {
        let _ = (role, config, now);
        unimplemented!()
    }

    /// Take the next event from `input`, moving `input` past what it took; `None` when all is taken.
    /// Call until `None`: one frame may yield several events.
    ///
    /// # Errors
    /// The peer broke the protocol or floods us. The connection is over: every later call gives the same error.
    pub fn receive<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Result<Option<Event<'i>>, ConnectionError> {
        let _ = (input, now);
        unimplemented!()
    }

    /// Open a tunnel: the prebuilt `block`, then the `rest` of the fields, which differ from stream to stream.
    ///
    /// # Errors
    /// The connection takes no stream (now, or any more), or the headers cannot be sent.
    pub fn open(&mut self, block: &HeaderBlock, rest: &[(&str, &str)]) -> Result<StreamId, OpenError> {
        let _ = (block, rest);
        unimplemented!()
    }

    /// Answer a request. With 2xx the tunnel is open. Any other status refuses it: the stream ends both ways and is forgotten.
    ///
    /// # Errors
    /// The stream is closed or answered already, or the status is none.
    pub fn respond(&mut self, stream: StreamId, status: u16) -> Result<(), SendError> {
        let _ = (stream, status);
        unimplemented!()
    }

    /// How many payload bytes one frame on `stream` may carry now: bounded by both windows and the peer's frame size.
    /// Zero means that `Event::Writable` will follow.
    ///
    /// # Errors
    /// The stream is closed, or not answered with 2xx yet.
    pub fn sendable(&mut self, stream: StreamId) -> Result<usize, SendError> {
        let _ = stream;
        unimplemented!()
    }

    /// Append DATA frames to `out` (control output that waits goes ahead of them) and return how much of `payload` they took.
    /// When less than all, `Event::Writable` will follow. `end` takes effect only if all was taken.
    ///
    /// # Errors
    /// The stream is closed, or not answered with 2xx yet.
    pub fn send_data(&mut self, stream: StreamId, payload: &[u8], end: bool, out: &mut Vec<u8>) -> Result<usize, SendError> {
        let _ = (stream, payload, end, out);
        unimplemented!()
    }

    /// The header of one DATA frame, for payload that was read right behind nine reserved bytes.
    /// Order: `take_control`, `sendable`, read that much at most, `frame_header`.
    ///
    /// # Errors
    /// As `sendable`; also when `payload_bytes` is more than it allowed, or the stream's HEADERS were not taken yet.
    pub fn frame_header(&mut self, stream: StreamId, payload_bytes: usize, end: bool) -> Result<[u8; 9], SendError> {
        let _ = (stream, payload_bytes, end);
        unimplemented!()
    }

    /// Say that `bytes` of the stream's data were passed on, so that the peer may send as much again.
    /// A stream that is gone is ignored.
    pub fn release(&mut self, stream: StreamId, bytes: usize) {
        let _ = (stream, bytes);
        unimplemented!()
    }

    /// End the stream both ways and forget it, with all that was not released. No event follows.
    pub fn reset(&mut self, stream: StreamId, code: Code) {
        let _ = (stream, code);
        unimplemented!()
    }

    /// Take no new streams and let those that are open finish (GOAWAY in two steps, so that none is lost on the way).
    pub fn drain(&mut self) {
        unimplemented!()
    }

    /// Queue the final GOAWAY: `is_closed` from now on.
    pub fn close(&mut self, code: Code) {
        let _ = code;
        unimplemented!()
    }

    /// Queue a PING; `Event::Pong` brings the payload back.
    pub fn ping(&mut self, payload: [u8; 8]) {
        let _ = payload;
        unimplemented!()
    }

    /// Append all waiting control output to `out`.
    pub fn take_control(&mut self, out: &mut Vec<u8>) {
        let _ = out;
        unimplemented!()
    }

    /// Whether control output waits to be taken.
    #[must_use]
    pub fn has_control(&self) -> bool {
        unimplemented!()
    }

    /// Streams that are open in at least one direction.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        unimplemented!()
    }

    /// How many more streams `open` would open now: zero while the peer's SETTINGS are missing, while draining, and for servers.
    #[must_use]
    pub fn available_streams(&self) -> usize {
        unimplemented!()
    }

    /// Whether the peer's preface and first SETTINGS have come: the caller holds the deadline.
    #[must_use]
    pub fn is_established(&self) -> bool {
        unimplemented!()
    }

    /// Whether the peer acknowledged our SETTINGS: the caller holds the deadline, the code is [`Code::SETTINGS_TIMEOUT`].
    #[must_use]
    pub fn is_settings_acknowledged(&self) -> bool {
        unimplemented!()
    }

    /// Whether one side said GOAWAY, so that no new stream comes.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        unimplemented!()
    }

    /// Whether the connection is of no more use: failed, closed, or drained with no stream left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        unimplemented!()
    }

    /// The peer's settings as known now.
    #[must_use]
    pub fn peer_settings(&self) -> &PeerSettings {
        unimplemented!()
    }
}
