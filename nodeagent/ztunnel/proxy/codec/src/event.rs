//! What the peer did, as the caller sees it.

use std::fmt;

use crate::{Code, Headers, PeerSettings};

/// Number of a stream: odd, since only clients open streams here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u32);

impl StreamId {
    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One thing that the peer did. It borrows from the input, never from the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'i> {
    /// A client asks for a tunnel; answer with `respond`.
    Request(Box<Request>),
    /// The server's final answer. Only 2xx makes a tunnel; after any other, `reset` the stream.
    Response {
        /// The stream it is about.
        stream: StreamId,
        /// 200 to 599.
        status: u16,
    },
    /// Payload, as it came: part of a frame, never empty. Call `release` with what was passed on.
    Data {
        /// The stream it came on.
        stream: StreamId,
        /// Without padding, which is accounted for already.
        payload: &'i [u8],
    },
    /// The peer sends no more on this stream (half-close).
    End {
        /// The stream that ended.
        stream: StreamId,
    },
    /// The stream is gone both ways: reset by the peer, lost to its GOAWAY (REFUSED_STREAM), or reset by us for an error of the peer
    /// (`by_peer` false). Bytes handed over and not yet released still count: `release` them, or `reset` the stream to drop them.
    Reset {
        /// The stream that is gone.
        stream: StreamId,
        /// Where [`Code::is_end_of_stream`], what came before is complete and worth delivering.
        code: Code,
        /// Whether the peer asked for it.
        by_peer: bool,
    },
    /// A stream for which `sendable` was zero, or `send_data` took less than offered, has room again.
    Writable {
        /// The stream that may send.
        stream: StreamId,
    },
    /// The peer's SETTINGS came, first or again.
    SettingsReceived(PeerSettings),
    /// The peer takes no new streams. Those above `last_stream` are given up, a `Reset` for each follows.
    GoAway {
        /// The highest stream that the peer may have processed.
        last_stream: u32,
        /// Why.
        code: Code,
    },
    /// The answer to a `ping`.
    Pong {
        /// What the ping carried.
        payload: [u8; 8],
    },
}

impl Event<'_> {
    /// The stream that the event is about; `None` for those of the whole connection.
    #[must_use]
    pub fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Request(request) => Some(request.stream),
            Self::Response { stream, .. }
            | Self::Data { stream, .. }
            | Self::End { stream }
            | Self::Reset { stream, .. }
            | Self::Writable { stream } => Some(*stream),
            Self::SettingsReceived(_) | Self::GoAway { .. } | Self::Pong { .. } => None,
        }
    }
}

/// A client's HEADERS that open a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// Where to answer.
    pub stream: StreamId,
    /// `:authority`, visible ASCII, not parsed further; empty if it was missing.
    pub authority: String,
    /// The regular header fields. Claims of the peer, nothing more.
    pub headers: Headers,
    /// Why this is no HBONE request: answer 400.
    pub malformed: Option<Malformed>,
}

/// What is wrong with a request on an otherwise sound connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// `:method` is missing or is not `CONNECT`.
    Method,
    /// `:authority` is missing, empty or not visible ASCII, or `host` says something else.
    Authority,
    /// `:scheme` is present.
    Scheme,
    /// `:path` is present.
    Path,
    /// `:protocol` (extended CONNECT) is present.
    Protocol,
    /// A pseudo-header that is unknown, twice there, or behind a regular field.
    PseudoHeader,
    /// A field name or value has bytes that are not allowed, or a field belongs to one HTTP/1 connection.
    Field,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "the method is not CONNECT",
            Self::Authority => "the authority is missing or ambiguous",
            Self::Scheme => "CONNECT has no :scheme",
            Self::Path => "CONNECT has no :path",
            Self::Protocol => "extended CONNECT is not offered",
            Self::PseudoHeader => "a pseudo-header is unknown, repeated or misplaced",
            Self::Field => "a header field is not allowed",
        })
    }
}
