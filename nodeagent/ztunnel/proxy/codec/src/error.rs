//! What goes wrong: error codes of HTTP/2, the end of a connection, and calls that cannot be served.

use std::fmt;

/// Error code of RST_STREAM and GOAWAY (RFC 9113, section 7). Unknown values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// Graceful end.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// Our own failure.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// A window was exceeded or overflowed.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// SETTINGS were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame came after its stream was closed.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame has a wrong size.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// The stream was not processed; it may be tried again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x8);
    /// Header compression cannot go on.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The tunnel's TCP connection was reset.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer makes too much load.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);

    /// Whether a RST_STREAM with this code is only the end of the stream: HBONE peers end tunnels so.
    #[must_use]
    pub fn is_end_of_stream(self) -> bool {
        self == Self::NO_ERROR || self == Self::CANCEL
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 12] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// The peer did what ends the connection. The GOAWAY that says so is in the control output already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionError {
    /// What the GOAWAY says; [`Code::ENHANCE_YOUR_CALM`] for floods.
    pub code: Code,
    /// What the peer did, for the log.
    pub detail: &'static str,
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for ConnectionError {}

/// Why no new stream can be opened on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// As many streams are open as the peer allows.
    TooManyStreams,
    /// The connection is closed or one side has sent GOAWAY.
    Draining,
    /// Stream ids are used up.
    Exhausted,
    /// The header list is larger than the peer takes.
    HeadersTooLarge,
    /// A header name or value has bytes that are not allowed.
    BadHeader,
    /// Servers open no streams.
    NotClient,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyStreams => "the peer allows no more streams",
            Self::Draining => "the connection is draining or closed",
            Self::Exhausted => "stream ids are used up",
            Self::HeadersTooLarge => "the headers are larger than the peer takes",
            Self::BadHeader => "a header has bytes that are not allowed",
            Self::NotClient => "only clients open streams",
        })
    }
}

impl std::error::Error for OpenError {}

/// Why nothing can be sent on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The stream is unknown, was reset, or our side of it has ended.
    Closed,
    /// No 2xx answer yet (client: received; server: sent), so no data may flow.
    NotAnswered,
    /// The answer was given before, or this is the client's side.
    AlreadyAnswered,
    /// The stream's HEADERS wait in the control output: call `take_control` ahead of `frame_header`.
    ControlPending,
    /// The payload is more than `sendable` allowed, or than one frame may carry.
    BeyondWindow,
    /// The status is not 200 to 599.
    BadStatus,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the stream is closed",
            Self::NotAnswered => "the tunnel is not established",
            Self::AlreadyAnswered => "the stream takes no answer",
            Self::ControlPending => "control output was not taken first",
            Self::BeyondWindow => "more than the windows or a frame allow",
            Self::BadStatus => "not a final status",
        })
    }
}

impl std::error::Error for SendError {}
