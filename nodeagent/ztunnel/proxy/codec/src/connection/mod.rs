//! The connection: its state, its beginning and its end. Receiving and sending are in the files beside this one.

mod control;
mod data;
mod headers;
mod receive;
mod send;
mod settings;

use std::collections::VecDeque;
use std::time::Instant;

use crate::budget::Bucket;
use crate::frame::{self, MAX_STREAM_ID, MIN_MAX_FRAME_BYTES, setting};
use crate::hpack::Decoder;
use crate::stream::Streams;
use crate::window::{ReceiveWindow, SendWindow};
use crate::{CheckedConfig, Code, Config, ConnectionError, Event};
use headers::BlockInProgress;
use receive::Reading;

/// What both sides may assume of a window before any SETTINGS.
const DEFAULT_WINDOW_BYTES: u32 = 65_535;
/// Streams that a client opens before the peer's SETTINGS tell how many it takes: waiting for them would cost each new tunnel a
/// round trip, and RFC 9113 recommends that nobody allows fewer than 100.
const STREAMS_BEFORE_SETTINGS: u32 = 16;
/// Payload of the ping between the two GOAWAY frames of a graceful end.
const DRAIN_PING: [u8; 8] = *b"draining";

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens tunnels.
    Client,
    /// Answers them.
    Server,
}

/// What the peer announced. Until [`Connection::is_established`] only what every peer must take.
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

/// How far our own GOAWAY is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    No,
    /// Announced with the highest stream id: streams that are on their way are still served.
    Announced,
    /// The last stream is named: later ones are refused.
    Final {
        last_stream: u32,
    },
}

/// One side of an HTTP/2 connection that carries CONNECT tunnels.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    now: Instant,
    reading: Reading,
    /// The part of a frame header, or of a small frame's payload, that came so far.
    partial: Vec<u8>,
    block: Option<BlockInProgress>,
    decoder: Decoder,
    streams: Streams,
    /// Client: the id of the next stream. Server: unused.
    next_stream: u32,
    /// Server: the highest id that the client used. Client: zero.
    last_peer_stream: u32,
    receive_window: ReceiveWindow,
    send_window: SendWindow,
    next_ticket: u64,
    peer: PeerSettings,
    is_settings_received: bool,
    is_settings_acknowledged: bool,
    table_update_sent: bool,
    peer_goaway: Option<u32>,
    draining: Draining,
    failure: Option<ConnectionError>,
    pings_outstanding: u32,
    control: Vec<u8>,
    /// Bytes of control output that were taken so far.
    control_taken: u64,
    pending: VecDeque<Event<'static>>,
    control_budget: Bucket,
    reset_budget: Bucket,
    /// What peers may still send on streams that we have reset: they cannot know yet.
    stray_bytes: u64,
    stray_headers: u32,
}

impl Connection {
    /// A new connection. Its opening (client preface, SETTINGS, WINDOW_UPDATE) is in the control output at once.
    #[must_use]
    pub fn new(role: Role, config: CheckedConfig, now: Instant) -> Self {
        let config = *config.get();
        let flood = config.flood;
        let mut connection = Self {
            role,
            config,
            now,
            reading: if role == Role::Server { Reading::Preface } else { Reading::Header },
            partial: Vec::new(),
            block: None,
            decoder: Decoder::new(),
            streams: Streams::default(),
            next_stream: 1,
            last_peer_stream: 0,
            receive_window: ReceiveWindow::new(config.connection_window_bytes),
            send_window: SendWindow::new(DEFAULT_WINDOW_BYTES),
            next_ticket: 0,
            peer: PeerSettings {
                max_frame_bytes: MIN_MAX_FRAME_BYTES,
                max_streams: STREAMS_BEFORE_SETTINGS,
                initial_window_bytes: DEFAULT_WINDOW_BYTES,
                max_header_list_bytes: u32::MAX,
            },
            is_settings_received: false,
            is_settings_acknowledged: false,
            table_update_sent: false,
            peer_goaway: None,
            draining: Draining::No,
            failure: None,
            pings_outstanding: 0,
            control: Vec::new(),
            control_taken: 0,
            pending: VecDeque::new(),
            control_budget: Bucket::new(flood.control_burst, flood.control_per_s, now),
            reset_budget: Bucket::new(flood.reset_burst, flood.reset_per_s, now),
            stray_bytes: 0,
            stray_headers: 0,
        };
        connection.write_opening();
        connection
    }

    fn write_opening(&mut self) {
        let Config { max_streams, stream_window_bytes, connection_window_bytes, max_frame_bytes, max_header_list_bytes, .. } = self.config;
        let by_role = match self.role {
            Role::Client => (setting::ENABLE_PUSH, 0),
            Role::Server => (setting::MAX_CONCURRENT_STREAMS, max_streams),
        };
        if self.role == Role::Client {
            self.control.extend_from_slice(frame::PREFACE);
        }
        let settings = [
            (setting::HEADER_TABLE_SIZE, 0),
            by_role,
            (setting::INITIAL_WINDOW_SIZE, stream_window_bytes),
            (setting::MAX_FRAME_SIZE, max_frame_bytes),
            (setting::MAX_HEADER_LIST_SIZE, max_header_list_bytes),
        ];
        frame::write_settings(&settings, &mut self.control);
        frame::write_window_update(0, connection_window_bytes - DEFAULT_WINDOW_BYTES, &mut self.control);
    }

    /// Take no new streams and let those that are open finish (GOAWAY in two steps, so that none is lost on the way).
    pub fn drain(&mut self) {
        if self.draining != Draining::No || self.failure.is_some() {
            return;
        }
        match self.role {
            Role::Client => self.write_final_goaway(),
            Role::Server => {
                frame::write_goaway(MAX_STREAM_ID, Code::NO_ERROR.0, &mut self.control);
                frame::write_ping(DRAIN_PING, false, &mut self.control);
                self.draining = Draining::Announced;
            }
        }
    }

    /// The second step of `drain` also for a peer that never acknowledged the first: call it when that has had time for a round trip.
    pub fn finish_drain(&mut self) {
        if self.draining == Draining::Announced && self.failure.is_none() {
            self.write_final_goaway();
        }
    }

    fn write_final_goaway(&mut self) {
        let last_stream = self.last_peer_stream;
        frame::write_goaway(last_stream, Code::NO_ERROR.0, &mut self.control);
        self.draining = Draining::Final { last_stream };
    }

    /// Queue the final GOAWAY and give everything up: `is_closed` from now on, and nothing more is received.
    pub fn close(&mut self, code: Code) {
        if self.failure.is_none() {
            self.fail(ConnectionError { code, detail: "closed on this side" });
        }
    }

    fn fail(&mut self, error: ConnectionError) {
        // The last stream that a GOAWAY names never grows (RFC 9113, section 6.8).
        let last_stream = if let Draining::Final { last_stream } = self.draining { last_stream } else { self.last_peer_stream };
        frame::write_goaway(last_stream, error.code.0, &mut self.control);
        self.failure = Some(error);
        (self.partial, self.block, self.streams) = (Vec::new(), None, Streams::default());
        self.pending = VecDeque::new();
    }

    /// Queue a PING; `Event::Pong` brings the payload back.
    pub fn ping(&mut self, payload: [u8; 8]) {
        if self.failure.is_none() {
            self.pings_outstanding += 1;
            frame::write_ping(payload, false, &mut self.control);
        }
    }

    /// Append all waiting control output to `out`. While the socket takes no more, leave it here: it is bounded here.
    pub fn take_control(&mut self, out: &mut Vec<u8>) {
        self.control_taken += self.control.len() as u64;
        out.extend_from_slice(&self.control);
        self.control = Vec::new();
    }

    /// Whether control output waits to be taken.
    #[must_use]
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Streams that are open in at least one direction.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.live()
    }

    /// How many more streams `open` would open now: zero while draining and for servers.
    #[must_use]
    pub fn available_streams(&self) -> usize {
        if self.role == Role::Server || self.is_draining() || self.failure.is_some() {
            return 0;
        }
        let ids = (MAX_STREAM_ID + 2 - self.next_stream) / 2;
        (self.peer.max_streams as usize).saturating_sub(self.streams.live()).min(ids as usize)
    }

    /// Whether the peer's preface and first SETTINGS have come: the caller holds the deadline.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.is_settings_received
    }

    /// Whether the peer acknowledged our SETTINGS: the caller holds the deadline, the code is [`Code::SETTINGS_TIMEOUT`].
    #[must_use]
    pub fn is_settings_acknowledged(&self) -> bool {
        self.is_settings_acknowledged
    }

    /// Whether one side said GOAWAY, so that no new stream comes.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.peer_goaway.is_some() || self.draining != Draining::No
    }

    /// Whether the connection is of no more use: failed, closed, or drained with no stream left.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let drained = self.peer_goaway.is_some() || matches!(self.draining, Draining::Final { .. });
        self.failure.is_some() || (drained && self.streams.len() == 0)
    }

    /// The peer's settings as known now.
    #[must_use]
    pub fn peer_settings(&self) -> &PeerSettings {
        &self.peer
    }

    /// Heap that the connection holds now; bounded by the configuration whatever the peer sends.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let block = self.block.as_ref().map_or(0, BlockInProgress::capacity_bytes);
        let pending = self.pending.capacity() * size_of::<Event<'static>>();
        self.partial.capacity() + block + pending + self.decoder.size_bytes() + self.streams.capacity_bytes() + self.control.capacity()
    }
}
