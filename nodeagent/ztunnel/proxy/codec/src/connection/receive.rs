//! From bytes to frames: a state machine that takes input cut anywhere, and hands DATA on without gathering it.

use std::time::Instant;

use super::{Connection, Role};
use crate::frame::{FrameHeader, HEADER_BYTES, PREFACE, flag, kind};
use crate::{Code, ConnectionError, Event, StreamId};

/// What a flood costs, in control tokens.
pub(super) mod cost {
    pub(in super::super) const SMALL_FRAME: u32 = 1;
    pub(in super::super) const EMPTY_DATA: u32 = 4;
    pub(in super::super) const PING: u32 = 4;
    pub(in super::super) const GOAWAY: u32 = 16;
    /// The answer, and a walk over all streams.
    pub(in super::super) const SETTINGS: u32 = 32;
    /// Bytes of an ignored frame that cost one token.
    pub(in super::super) const IGNORED_BYTES: u32 = 1024;
}

/// SETTINGS with more entries than this are a flood: ten or so exist.
const MAX_SETTINGS_BYTES: u32 = 64 * 6;
/// Pad length, padding, and the deprecated priority fields of HEADERS.
const HEADERS_EXTRA_BYTES: u32 = 1 + 255 + 5;

/// What the next byte of input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Of the client preface.
    Preface,
    /// Of a frame header.
    Header,
    /// Of a payload that is handled as a whole.
    Payload(FrameHeader),
    /// The pad length of a DATA frame.
    PadLength(FrameHeader),
    /// Of a DATA payload, or behind it when `left` is zero.
    Data { stream: u32, left: u32, padding: u32, end: bool },
    /// Of something that nobody wants.
    Skip { left: u32 },
}

pub(super) fn protocol_error(detail: &'static str) -> ConnectionError {
    ConnectionError { code: Code::PROTOCOL_ERROR, detail }
}

pub(super) fn frame_size_error(detail: &'static str) -> ConnectionError {
    ConnectionError { code: Code::FRAME_SIZE_ERROR, detail }
}

pub(super) fn flow_control_error(detail: &'static str) -> ConnectionError {
    ConnectionError { code: Code::FLOW_CONTROL_ERROR, detail }
}

pub(super) fn calm(detail: &'static str) -> ConnectionError {
    ConnectionError { code: Code::ENHANCE_YOUR_CALM, detail }
}

impl Connection {
    /// Take the next event from `input`, moving `input` past what it took; `None` when all is taken.
    /// Call until `None`: one frame may yield several events.
    ///
    /// # Errors
    /// The peer broke the protocol or floods us. The connection is over: every later call gives the same error.
    pub fn receive<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Result<Option<Event<'i>>, ConnectionError> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        self.now = now;
        self.next_event(input).inspect_err(|error| self.fail(*error))
    }

    fn next_event<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<Event<'i>>, ConnectionError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            let goes_on = match self.reading {
                Reading::Preface => self.read_preface(input)?,
                Reading::Header => self.read_header(input)?,
                Reading::Payload(header) => self.read_payload(header, input)?,
                Reading::PadLength(header) => self.read_pad_length(header, input)?,
                Reading::Data { left: 0, padding, end, stream } => {
                    self.reading = Reading::Skip { left: padding };
                    if end {
                        self.end_remote(stream);
                    }
                    true
                }
                Reading::Data { stream, left, padding, end } => {
                    let Some(payload) = take_up_to(input, left) else { return Ok(None) };
                    self.reading = Reading::Data { stream, left: left - payload.len() as u32, padding, end };
                    if self.hand_over(stream, payload.len() as u32) {
                        return Ok(Some(Event::Data { stream: StreamId(stream), payload }));
                    }
                    true
                }
                Reading::Skip { left: 0 } => {
                    self.reading = Reading::Header;
                    true
                }
                Reading::Skip { left } => match take_up_to(input, left) {
                    Some(skipped) => {
                        self.reading = Reading::Skip { left: left - skipped.len() as u32 };
                        true
                    }
                    None => false,
                },
            };
            if !goes_on {
                return Ok(None);
            }
        }
    }

    fn read_preface(&mut self, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let wanted = (PREFACE.len() - self.partial.len()) as u32;
        let Some(bytes) = take_up_to(input, wanted) else { return Ok(false) };
        self.partial.extend_from_slice(bytes);
        if !PREFACE.starts_with(&self.partial) {
            return Err(protocol_error("not an HTTP/2 preface"));
        }
        if self.partial.len() == PREFACE.len() {
            self.partial = Vec::new();
            self.reading = Reading::Header;
        }
        Ok(true)
    }

    fn read_header(&mut self, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let header = if let (true, Some((bytes, rest))) = (self.partial.is_empty(), input.split_first_chunk::<HEADER_BYTES>()) {
            *input = rest;
            FrameHeader::parse(*bytes)
        } else {
            let Some(bytes) = take_up_to(input, (HEADER_BYTES - self.partial.len()) as u32) else { return Ok(false) };
            self.partial.extend_from_slice(bytes);
            let Ok(bytes) = <[u8; HEADER_BYTES]>::try_from(&self.partial[..]) else { return Ok(true) };
            self.partial.clear();
            FrameHeader::parse(bytes)
        };
        self.reading = self.begin_frame(header)?;
        Ok(true)
    }

    fn read_payload(&mut self, header: FrameHeader, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let length = header.length as usize;
        if self.partial.is_empty() {
            if let Some((payload, rest)) = input.split_at_checked(length) {
                *input = rest;
                self.reading = Reading::Header;
                self.on_frame(header, payload)?;
                return Ok(true);
            }
        }
        let Some(bytes) = take_up_to(input, (length - self.partial.len()) as u32) else { return Ok(false) };
        self.partial.extend_from_slice(bytes);
        if self.partial.len() == length {
            self.reading = Reading::Header;
            // Given back rather than kept: few frames are cut, and idle connections hold nothing.
            let payload = std::mem::take(&mut self.partial);
            self.on_frame(header, &payload)?;
        }
        Ok(true)
    }

    fn read_pad_length(&mut self, header: FrameHeader, input: &mut &[u8]) -> Result<bool, ConnectionError> {
        let Some((&padding, rest)) = input.split_first() else { return Ok(false) };
        *input = rest;
        let padding = u32::from(padding);
        let Some(payload) = (header.length - 1).checked_sub(padding) else {
            return Err(protocol_error("padding is longer than its frame"));
        };
        self.reading = self.begin_data_payload(header, payload, padding)?;
        Ok(true)
    }

    /// Judge a frame by its header alone, before any of its payload is kept.
    fn begin_frame(&mut self, header: FrameHeader) -> Result<Reading, ConnectionError> {
        let FrameHeader { length, kind, stream, .. } = header;
        if length > self.config.max_frame_bytes {
            return Err(frame_size_error("a frame is larger than allowed"));
        }
        if !self.is_settings_received && (kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(protocol_error("the first frame is not SETTINGS"));
        }
        self.check_block_order(header)?;
        let on_connection = matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY);
        let on_stream = matches!(kind, kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM);
        if (on_connection && stream != 0) || (on_stream && stream == 0) {
            return Err(protocol_error("a frame is on a stream where it has no place"));
        }
        match kind {
            kind::DATA => self.begin_data(header),
            kind::PRIORITY => self.begin_priority(header),
            kind::PUSH_PROMISE => Err(protocol_error("PUSH_PROMISE, which nobody allowed")),
            kind::HEADERS | kind::RST_STREAM | kind::SETTINGS | kind::PING | kind::GOAWAY | kind::WINDOW_UPDATE | kind::CONTINUATION => {
                self.check_size(header)?;
                Ok(Reading::Payload(header))
            }
            _ => {
                self.charge(cost::SMALL_FRAME + length / cost::IGNORED_BYTES, "unknown frames without end")?;
                Ok(Reading::Skip { left: length })
            }
        }
    }

    /// Bound what is gathered: the payload of any frame but DATA.
    fn check_size(&self, header: FrameHeader) -> Result<(), ConnectionError> {
        let length = header.length;
        let most = self.config.max_header_list_bytes;
        let (holds, error) = match header.kind {
            kind::HEADERS => (length <= most + HEADERS_EXTRA_BYTES, calm("a header block is larger than allowed")),
            kind::CONTINUATION => (length <= most, calm("a header block is larger than allowed")),
            kind::GOAWAY if length >= 8 => (length <= most, calm("GOAWAY has too much debug data")),
            kind::SETTINGS if header.has(flag::ACK) => (length == 0, frame_size_error("an acknowledgement of SETTINGS has a payload")),
            kind::SETTINGS if length % 6 == 0 => (length <= MAX_SETTINGS_BYTES, calm("SETTINGS have too many entries")),
            kind::RST_STREAM | kind::WINDOW_UPDATE => (length == 4, frame_size_error("a frame has a wrong size")),
            kind::PING => (length == 8, frame_size_error("a frame has a wrong size")),
            _ => (false, frame_size_error("a frame has a wrong size")),
        };
        if holds { Ok(()) } else { Err(error) }
    }

    fn on_frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<(), ConnectionError> {
        match header.kind {
            kind::HEADERS => self.on_headers(header, payload),
            kind::CONTINUATION => self.on_continuation(header, payload),
            kind::RST_STREAM => self.on_reset(header.stream, word(payload)),
            kind::WINDOW_UPDATE => self.on_window_update(header.stream, word(payload)),
            kind::PING => self.on_ping(header, payload),
            kind::SETTINGS => self.on_settings(header, payload),
            kind::GOAWAY => self.on_goaway(payload),
            other => unreachable!("frames of kind {other} are not gathered"),
        }
    }

    pub(super) fn charge(&mut self, tokens: u32, detail: &'static str) -> Result<(), ConnectionError> {
        if self.control_budget.take(tokens, self.now) { Ok(()) } else { Err(calm(detail)) }
    }

    pub(super) fn charge_reset(&mut self, detail: &'static str) -> Result<(), ConnectionError> {
        if self.reset_budget.take(1, self.now) { Ok(()) } else { Err(calm(detail)) }
    }

    /// Bound the answers that the peer makes us queue while it reads none.
    pub(super) fn check_output(&self) -> Result<(), ConnectionError> {
        if self.control.len() > self.config.flood.control_output_bytes {
            return Err(calm("answers pile up that the peer does not read"));
        }
        Ok(())
    }

    /// Whether no frame on this stream id can be right yet: nobody has opened it.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id % 2 == 0
            || match self.role {
                Role::Client => id >= self.next_stream,
                Role::Server => id > self.last_peer_stream,
            }
    }
}

/// The 32 bits at the head of a payload, whose size was checked.
pub(super) fn word(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Up to `most` bytes of the input; `None` when there are none.
fn take_up_to<'i>(input: &mut &'i [u8], most: u32) -> Option<&'i [u8]> {
    let (taken, rest) = input.split_at(input.len().min(most as usize));
    *input = rest;
    if taken.is_empty() { None } else { Some(taken) }
}
